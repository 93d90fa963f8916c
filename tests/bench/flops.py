"""The arithmetic of an ensemble's step, counted on networks without weights."""

from __future__ import annotations

import torch

from tests.support.ensembles import config_for

from .models import PUBLISHED, SD15, Family, network


def overhead(size: int, experts: int, family: Family = SD15, **sizes) -> float:
    """(experts + aggregator) / experts of an ensemble at a latent of this side, in multiplications; sizes: of the aggregator."""
    from comfy.model_patcher import ModelPatcher

    from afa_core.aggregator.sabw import Aggregator
    from afa_core.host.architectures.unet import UNet

    model = ModelPatcher(network(family, "meta"), torch.device("meta"), torch.device("meta"))
    unet, config = model.model.diffusion_model, config_for(model, experts, **{**PUBLISHED, **sizes})
    aggregator = Aggregator(config, device="meta", dtype=torch.bfloat16)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta", dtype=torch.bfloat16)

    text, time = tensor(1, 77, config.text_width), tensor(1, config.time_width)
    label = tensor(1, width) if (width := family.config["adm_in_channels"]) else None
    one = _flops(lambda: unet(tensor(1, 4, size, size), tensor(1), text, label))
    inputs = aggregator(time, text)
    fusing = _flops(lambda: aggregator(time, text))
    points = UNet().points(model.model)
    for point in (points[index] for index in config.fused_points):
        side = size // point.stride
        features = [tensor(1, point.channels, side, side)] * experts
        fusing += _flops(lambda f=features, p=point: aggregator.logits(p.index, f, inputs[p.index], p.stride))
    return 1 + fusing / one / experts


def _flops(run) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
