"""A CLIP of transformers' own, small and with random weights."""

import torch


def small_clip(activation: str):
    """Embeddings of 128 numbers of pictures of 224 pixels and texts of CLIP's own tokens; logit scale exp(3)."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(5)
    with torch.inference_mode(False):
        text = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 256}
        vision = {**text, "image_size": 224, "patch_size": 32}
        config = CLIPConfig(
            text_config={**text, "hidden_act": activation, "eos_token_id": 49407, "bos_token_id": 49406},
            vision_config={**vision, "hidden_act": activation},
            projection_dim=128,
        )
        model = CLIPModel(config).train(False)
        for parameter in model.parameters():  # large enough for every part to matter
            size = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
            parameter.data += 1.5 * size * torch.randn_like(parameter)
        model.logit_scale.data.fill_(3.0)
    return model
