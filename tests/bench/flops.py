"""The arithmetic of an ensemble's step, counted on networks without weights."""

from __future__ import annotations

import torch


def overhead(size: int, experts: int, layers: int = 2, routing_stride: int = 1) -> float:
    """(experts + aggregator) / experts of an SD1.5 ensemble at a latent of this side, in multiplications."""
    from afa_core.host.unet_stream import points_of
    from afa_core.sabw import Aggregator

    from .models import sd15_config, sd15_network

    network = sd15_network(torch.bfloat16, "meta").diffusion_model
    points = points_of(network)
    config = sd15_config(points, experts, layers, routing_stride)
    aggregator = Aggregator(config, device="meta", dtype=torch.bfloat16)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta", dtype=torch.bfloat16)

    text, time = tensor(1, 77, config.text_width), tensor(1, config.time_width)
    one = _flops(lambda: network(tensor(1, 4, size, size), tensor(1), text))
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
