"""Aggregators as their files hold them, for the tests: random weights, in our file and in the authors' layout."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from afa_core.aggregator.config import AggregatorConfig, sabw_shapes
from afa_core.aggregator.file import AggregatorFile


def small_config(**changes) -> AggregatorConfig:
    """Three fusion points and the smallest network: a file of half a megabyte."""
    smallest = {
        "num_experts": 2,
        "text_width": 16,
        "time_width": 16,
        "hidden_size": 64,
        "num_layers": 1,
        "num_heads": 8,
    }
    return AggregatorConfig(**{"architecture": "toy", "channels": (4, 8, 4), **smallest, **changes})


def random_aggregator(config: AggregatorConfig, seed: int = 0, dtype=torch.float16, **fields) -> AggregatorFile:
    """Random weights of unit gain, so that the experts' shares differ from place to place."""
    generator = torch.Generator().manual_seed(seed)

    def weights(key, shape):
        noise = torch.randn(shape, generator=generator)
        if len(shape) < 2:
            return 0.1 * noise + (1.0 if "norm" in key and key.endswith("weight") else 0.0)
        return noise * noise[0].numel() ** -0.5

    state = {key: weights(key, shape).to(dtype) for key, shape in config.shapes()}
    return AggregatorFile("random", config, state, **fields)


def named_aggregator() -> AggregatorFile:
    """A small one with something in every field."""
    experts: list[dict] = [
        {"file": f"{n}.safetensors", "sha256": n * 16, "prediction": "eps", "patches": ""} for n in ("one1", "two2")
    ]
    lora = {"file": "style.safetensors", "strength": 0.8, "strength_clip": 0.0}
    experts[1] |= {"sketch": "bfloat16 AAAAAA==", "patches": "two2" * 16, "loras": [lora]}
    config = small_config(ablations=("space",))
    return random_aggregator(config, experts=experts, training={"steps": 3}, routing={"mean": [0.25, 0.75]})


def write_authors_layout(aggregator: AggregatorFile, folder: Path) -> Path:
    """The folder of the authors' release: one aggregator a fusion point."""
    config = aggregator.config
    for i, channels in enumerate(config.channels):
        part = folder / f"aggregator_{i}"
        part.mkdir(parents=True)
        keys = [key for key, _ in sabw_shapes(config, channels)]
        save_file({key: aggregator.state[f"aggregators.{i}.{key}"] for key in keys}, part / "aggregator.safetensors")
        settings = {
            "in_channels": channels,
            "hidden_size": config.hidden_size,
            "num_experts": config.num_experts,
            "num_layers": config.num_layers,
            "num_attn_heads": config.num_heads,
            "cross_attn_dim": config.text_width,
            "temb_channels": config.time_width,
        }
        (part / "config.json").write_text(json.dumps(settings))
    top = {"num_models": config.num_experts, "num_aggregators": len(config.channels)}
    (folder / "model_config.json").write_text(json.dumps(top))
    return folder


def assert_sentence(text: str, path: Path) -> None:
    """What is said of a file: one line that names it, and no more of where it lies."""
    assert path.name in text and str(path.parent) not in text
    assert text.endswith(".") and text.isprintable() and len(text) < 700, text
