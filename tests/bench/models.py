"""Networks of full size with random weights, as the host would hold them after loading a checkpoint."""

from __future__ import annotations

import torch

SD15 = dict(
    image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[2] * 4, channel_mult=[1, 2, 4, 4],
    transformer_depth=[1] * 6 + [0] * 2, transformer_depth_output=[1] * 9 + [0] * 3, transformer_depth_middle=1,
    context_dim=768, use_linear_in_transformer=False, num_heads=8, num_head_channels=-1, use_spatial_transformer=True,
    legacy=False, adm_in_channels=None, use_temporal_attention=False,
)  # fmt: skip


def sd15_network(dtype: torch.dtype, device: str):
    """The host's model of SD1.5, its weights not set."""
    import comfy.supported_models

    config = comfy.supported_models.SD15({**SD15, "dtype": dtype})
    config.set_inference_dtype(dtype, None)
    return config.get_model({}, "", device=device)


def sd15(seed: int, dtype: torch.dtype):
    """A ModelPatcher around an SD1.5 U-Net with random weights (859.5 million)."""
    import comfy.model_management
    from comfy.model_patcher import ModelPatcher

    model = sd15_network(dtype, "cpu")
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.diffusion_model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.copy_(torch.randn(parameter.shape, generator=random) * parameter[0].numel() ** -0.5)
        else:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.0)
    device = comfy.model_management.get_torch_device()
    return ModelPatcher(model, device, comfy.model_management.unet_offload_device())


def sd15_config(points: list, experts: int, layers: int = 2, routing_stride: int = 1):
    from afa_core.aggregator_config import AggregatorConfig

    channels = tuple(point.channels for point in points)
    return AggregatorConfig("SD1.x", channels, experts, 768, 1280, num_layers=layers, routing_stride=routing_stride)


def random_aggregator(experts: list, layers: int = 2, routing_stride: int = 1):
    """An AggregatorFile of the published size with random weights, for these experts."""
    from afa_core.aggregator_file import AggregatorFile
    from afa_core.host.experts import fusion_points
    from afa_core.sabw import Aggregator

    config = sd15_config(fusion_points(experts), len(experts), layers, routing_stride)
    module = Aggregator(config).initialise(torch.Generator().manual_seed(0))
    for sabw in module.aggregators.values():
        torch.nn.init.normal_(sabw.conv_out.weight, std=0.05)
    return AggregatorFile("random", config, module.state_dict())
