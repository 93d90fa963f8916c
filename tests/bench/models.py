"""Networks of full size with random weights, as the host would hold them after loading a checkpoint."""

from __future__ import annotations

from typing import NamedTuple

import torch

from tests.support.ensembles import config_for

NATIVE = torch.accelerator.is_available() or (
    torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
)
DTYPE = torch.bfloat16 if NATIVE else torch.float32
"""Of the weights of networks that run. A processor that only emulates bfloat16 takes a hundred times as long with it."""
PUBLISHED = {"hidden_size": 128, "num_layers": 2}


class Family(NamedTuple):
    """The host's class of this name, as its loader would configure it from a checkpoint."""

    name: str
    config: dict


COMMON = dict(
    image_size=32, in_channels=4, out_channels=4, model_channels=320, use_spatial_transformer=True, legacy=False,
    use_temporal_attention=False,
)  # fmt: skip
SD15 = Family(
    "SD15",
    dict(
        COMMON, num_res_blocks=[2] * 4, channel_mult=[1, 2, 4, 4], transformer_depth=[1] * 6 + [0] * 2,
        transformer_depth_output=[1] * 9 + [0] * 3, transformer_depth_middle=1, context_dim=768, num_heads=8,
        num_head_channels=-1, use_linear_in_transformer=False, adm_in_channels=None,
    ),
)  # fmt: skip
SDXL = Family(
    "SDXL",
    dict(
        COMMON, num_res_blocks=[2] * 3, channel_mult=[1, 2, 4], transformer_depth=[0, 0, 2, 2, 10, 10],
        transformer_depth_output=[0] * 3 + [2] * 3 + [10] * 3, transformer_depth_middle=10, context_dim=2048, num_heads=-1,
        num_head_channels=64, use_linear_in_transformer=True, adm_in_channels=2816, num_classes="sequential",
    ),
)  # fmt: skip


def network(family: Family, device: str, dtype: torch.dtype = torch.bfloat16):
    """The host's model, its weights not set."""
    import comfy.supported_models

    config = getattr(comfy.supported_models, family.name)({**family.config, "dtype": dtype})
    config.set_inference_dtype(dtype, None)
    return config.get_model({}, "", device=device)


def random_unet(seed: int, family: Family = SD15):
    """A ModelPatcher around a U-Net with random weights: 859.5 million of SD1.5, 2.6 billion of SDXL."""
    import comfy.model_management
    from comfy.model_patcher import ModelPatcher

    model = network(family, "cpu", DTYPE)
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.diffusion_model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.copy_(torch.randn(parameter.shape, generator=random) * parameter[0].numel() ** -0.5)
        else:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.0)
    device = comfy.model_management.get_torch_device()
    return ModelPatcher(model, device, comfy.model_management.unet_offload_device())


def random_aggregator(experts: list, **sizes):
    """An AggregatorFile of the published size with random weights, for these experts."""
    from afa_core.aggregator.file import AggregatorFile
    from afa_core.aggregator.sabw import Aggregator

    config = config_for(experts[0].patcher, len(experts), **{**PUBLISHED, **sizes})
    module = Aggregator(config).initialise(torch.Generator().manual_seed(0))
    for sabw in module.aggregators.values():
        torch.nn.init.normal_(sabw.conv_out.weight, std=0.05)
    return AggregatorFile("random", config, module.state_dict())
