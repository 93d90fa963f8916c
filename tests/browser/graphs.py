"""Graphs for the browser tests: an aggregator that names its experts, and a quick ensemble of toys in API format."""

from collections.abc import Sequence
from itertools import repeat
from pathlib import Path

from safetensors import safe_open

from afa_core.aggregator.config import AggregatorConfig
from afa_core.aggregator.file import save_aggregator
from afa_core.host.architectures.unet_layout import unet_points
from tests.support.aggregators import random_aggregator

NET = "model.diffusion_model."


def put_aggregator(
    base: Path, name: str, checkpoints: list[str], seed: int = 0, digests: Sequence[str] = ()
) -> None:
    """A random aggregator for checkpoints of SD1.5's topology, in models/afa, that names them in their order."""
    with safe_open(base / "models" / "checkpoints" / checkpoints[0], "pt") as file:

        def shape(key):
            return file.get_slice(NET + key).get_shape()

        width, widest = shape("input_blocks.0.0.weight")[0], shape("middle_block.0.out_layers.3.weight")[0]
        text = shape("middle_block.1.transformer_blocks.0.attn2.to_k.weight")[1]
        time = shape("time_embed.2.weight")[0]
    multipliers = [1, 1, 1, 1] if widest == width else [1, 2, 4, 4]
    points = unet_points(width, multipliers, [2, 2, 2, 2], 4)
    config = AggregatorConfig(
        architecture="SD1.x", channels=tuple(point.channels for point in points), num_experts=len(checkpoints),
        text_width=text, time_width=time, hidden_size=64, num_layers=1, num_heads=8,
    )  # fmt: skip
    experts = [
        {"file": file, "sha256": digest, "prediction": "eps"}
        for file, digest in zip(checkpoints, digests or repeat("0" * 64), strict=False)
    ]
    training = {"objective": "test", "steps": 100, "seed": 0}
    aggregator = random_aggregator(config, seed, experts=experts, training=training)
    save_aggregator(aggregator, base / "models" / "afa" / name)


def link(node: str, output: int = 0) -> list:
    return [node, output]


def routing_graph(aggregator: str, checkpoints: list[str], steps: int = 3, seed: int = 1, size: int = 128) -> dict:
    """Load, ensemble, sample, decode, look at the routing: node "r" is the viewer, "e" the ensemble."""
    loaders = {
        f"c{i}": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}}
        for i, name in enumerate(checkpoints, start=1)
    }
    models = {f"model_{i}": link(f"c{i}") for i in range(1, len(checkpoints) + 1)}
    sampling = {
        "steps": steps,
        "seed": seed,
        "cfg": 5.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    wires = {"model": link("e"), "positive": link("p"), "negative": link("n"), "latent_image": link("l")}
    return {
        **loaders,
        "a": {"class_type": "LoadAFAAggregator", "inputs": {"aggregator_name": aggregator}},
        "e": {"class_type": "AFAEnsembleModel", "inputs": {"aggregator": link("a"), **models}},
        "p": {"class_type": "CLIPTextEncode", "inputs": {"clip": link("c1", 1), "text": "a cat"}},
        "n": {"class_type": "CLIPTextEncode", "inputs": {"clip": link("c1", 1), "text": "blurry"}},
        "l": {"class_type": "EmptyLatentImage", "inputs": {"width": size, "height": size, "batch_size": 1}},
        "k": {"class_type": "KSampler", "inputs": {**sampling, **wires}},
        "d": {"class_type": "VAEDecode", "inputs": {"samples": link("k"), "vae": link("c1", 2)}},
        "r": {
            "class_type": "AFARoutingMaps",
            "inputs": {"routing": link("e", 1), "samples": link("k"), "image": link("d")},
        },
    }
