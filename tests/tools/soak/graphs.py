"""Twelve prompts with as many different ensembles, in API format."""

from __future__ import annotations

from pathlib import Path

from afa_core.aggregator.config import AggregatorConfig
from afa_core.aggregator.file import save_aggregator
from tests.support.aggregators import random_aggregator
from tests.support.comfy.api import node

A, B, C, V = (f"tiny_sd15_{name}.safetensors" for name in "abcv")
FLUX = [f"tiny_flux_{name}.safetensors" for name in "ab"]
CONFIG = {"text_width": 32, "time_width": 256, "hidden_size": 64, "num_layers": 1}
TOKENS = {**CONFIG, "text_width": 64, "time_width": 64, "fused": (3, 6, 7), "tokens": True}

SAMPLING = {
    "steps": 2, "cfg": 5.0, "sampler_name": "euler", "denoise": 1.0, "model": ["e", 0], "positive": ["p", 0],
    "negative": ["n", 0], "latent_image": ["l", 0],
}  # fmt: skip

# (experts, method or aggregator, start_percent, width of the picture)
ENSEMBLES = [
    ([A, B], "pair.safetensors", 0.0, 64),
    ([A, B, C], "three.safetensors", 0.0, 64),
    ([B, A], "block average", 0.0, 64),
    ([A, V], "noise average", 0.0, 96),
    ([C, B], "pair.safetensors", 0.4, 64),
    ([A, A], "pair.safetensors", 0.0, 128),
    ([A, B], "magic fusion", 0.0, 64),
    ([A, C], "other.safetensors", 0.0, 64),
    ([B, C, V], "last block average", 0.0, 64),
    ([C, A, B], "three.safetensors", 0.0, 64),
    (FLUX, "block average", 0.0, 64),
    (FLUX, "tokens.safetensors", 0.4, 96),
]


def put_aggregators(base: Path) -> None:
    unets = {"pair": 2, "other": 2, "three": 3}
    configs = {name: AggregatorConfig("SD1.x", (*[64] * 24, 4), experts, **CONFIG) for name, experts in unets.items()}
    configs["tokens"] = AggregatorConfig("Flux.1", (*[64] * 7, 16), 2, **TOKENS)
    for seed, (name, config) in enumerate(configs.items(), start=1):
        save_aggregator(random_aggregator(config, seed), base / "models" / "afa" / f"{name}.safetensors")


def prompt(number: int) -> dict:
    """The number-th prompt of a soak; each has a seed of its own."""
    experts, fusion, start, width = ENSEMBLES[number % len(ENSEMBLES)]
    if experts is FLUX:
        return transformers_prompt(number, aggregator(fusion), start, width)
    loaders = {f"c{i}": node("CheckpointLoaderSimple", ckpt_name=name) for i, name in enumerate(experts, start=1)}
    models = {f"model_{i}": [f"c{i}", 0] for i in range(1, len(experts) + 1)}
    clips = {f"clip_{i}": [f"c{i}", 1] for i in range(1, len(experts) + 1)}
    return painted(number, clip=["t", 0], vae=["c1", 2], scheduler="normal") | {
        **loaders,
        "a": aggregator(fusion),
        "e": node("AFAEnsembleModel", aggregator=["a", 0], start_percent=start, **models),
        "t": node("AFAEnsembleCLIP", **clips),
        "l": node("EmptyLatentImage", width=width, height=64, batch_size=1),
    }


def transformers_prompt(number: int, aggregator: dict, start: float, width: int) -> dict:
    """Networks in files of their own, with the text encoder of a checkpoint and a VAE."""
    loaders = {f"c{i}": node("UNETLoader", unet_name=name, weight_dtype="default") for i, name in enumerate(FLUX, start=1)}
    return painted(number, clip=["t", 1], vae=["v", 0], scheduler="simple") | {
        **loaders,
        "t": node("CheckpointLoaderSimple", ckpt_name="tiny_sd2_a.safetensors"),
        "v": node("VAELoader", vae_name="tiny_16_channels.safetensors"),
        "a": aggregator,
        "e": node("AFAEnsembleModel", aggregator=["a", 0], start_percent=start, model_1=["c1", 0], model_2=["c2", 0]),
        "l": node("EmptySD3LatentImage", width=width, height=64, batch_size=1),
    }


def aggregator(fusion: str) -> dict:
    """A file's name, or a training-free method."""
    if fusion.endswith(".safetensors"):
        return node("LoadAFAAggregator", aggregator_name=fusion)
    return node("AFATrainingFreeFusion", method=fusion)


def painted(number: int, clip: list, vae: list, scheduler: str) -> dict:
    """What all prompts have behind ensemble "e" and latent "l": a picture, and its routing maps."""
    return {
        "p": node("CLIPTextEncode", clip=clip, text=f"cat {number}"),
        "n": node("CLIPTextEncode", clip=clip, text=""),
        "k": node("KSampler", seed=number, scheduler=scheduler, **SAMPLING),
        "d": node("VAEDecode", samples=["k", 0], vae=vae),
        "m": node("AFARoutingMaps", routing=["e", 1], samples=["k", 0], image=["d", 0]),
        "s": node("PreviewImage", images=["d", 0]),
        "q": node("PreviewImage", images=["m", 0]),
    }
