"""What an ensemble adds to loading its checkpoints: the aggregator's file, and the checks that everything fits."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from .measure import interleaved, ratios, spread
from .models import random_aggregator, random_unet


@torch.inference_mode()
def bench_loading(rounds: int = 5) -> list[str]:
    """Seconds beside those of reading one SD1.5 U-Net's weights into a network that is there."""
    from safetensors.torch import load_file, save_file

    from afa_core.aggregator.file import load_aggregator, save_aggregator
    from afa_core.host.experts.experts import Expert
    from afa_core.host.sampling.ensemble import make_ensemble

    patchers = [random_unet(seed) for seed in range(2)]
    experts = [Expert(patcher, f"model_{i}") for i, patcher in enumerate(patchers, start=1)]
    network = patchers[0].model.diffusion_model
    with tempfile.TemporaryDirectory() as folder:
        weights, trained = Path(folder, "unet.safetensors"), Path(folder, "aggregator.safetensors")
        save_file(network.state_dict(), weights)
        file = random_aggregator(experts)
        file.state = {key: tensor.half() for key, tensor in file.state.items()}
        save_aggregator(file, trained)
        seconds = interleaved(
            {
                "checkpoint": lambda: network.load_state_dict(load_file(weights)),
                "aggregator": lambda: load_aggregator(trained),
                "ensemble": lambda: make_ensemble(file, experts),
            },
            rounds,
        )
    read, made = (ratios(seconds[name], seconds["checkpoint"]) for name in ("aggregator", "ensemble"))
    return [
        "Times / the time to read the weights of one SD1.5 U-Net (1.7 GB): reading and checking an aggregator for two experts "
        f"(85 MB) {spread(read)}, AFA Ensemble Model {spread(made)}."
    ]
