"""The arithmetic of an ensemble's step, counted on networks without weights."""

from __future__ import annotations

import torch

from .models import SD15, Family, config, network


def overhead(size: int, experts: int, layers: int = 2, routing_stride: int = 1, family: Family = SD15) -> float:
    """(experts + aggregator) / experts of an ensemble at a latent of this side, in multiplications."""
    from afa_core.host.unet_stream import points_of
    from afa_core.sabw import Aggregator

    unet = network(family, "meta").diffusion_model
    points = points_of(unet)
    made_for = config(points, experts, layers, routing_stride, family)
    aggregator = Aggregator(made_for, device="meta", dtype=torch.bfloat16)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta", dtype=torch.bfloat16)

    text, time = tensor(1, 77, made_for.text_width), tensor(1, made_for.time_width)
    label = tensor(1, width) if (width := family.config["adm_in_channels"]) else None
    one = _flops(lambda: unet(tensor(1, 4, size, size), tensor(1), text, label))
    fusing = 0
    for point in points:
        side = size // point.stride
        features = [tensor(1, point.channels, side, side)] * experts
        sabw = aggregator.aggregators[str(point.index)]
        fusing += _flops(lambda s=sabw, f=features, p=point: s(f, time, text, p.stride))
    return 1 + fusing / one / experts


def _flops(run) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
