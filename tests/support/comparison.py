"""AFA Compare on three checkpoints, and the same methods as graphs made by hand."""

from typing import Any

from tests.support.comfy.api import node

MODELS = (1, 2, 3)
SAMPLING = {"sampler_name": "dpmpp_2m", "scheduler": "normal", "cfg": 3.0}
CHOICES = (
    "checkpoints", "weighted_merge", "step_switch", "noise_average", "block_average", "magic_fusion", "trained_aggregators",
)  # fmt: skip

Graph = dict[str, dict[str, Any]]


def loaders(checkpoints: list[str], aggregator: str) -> Graph:
    named = {f"c{i}": node("CheckpointLoaderSimple", ckpt_name=name) for i, name in enumerate(checkpoints, start=1)}
    return named | {"a": node("LoadAFAAggregator", aggregator_name=aggregator)}


def compared(files: Graph, seeds: str, steps: int, size: int = 64, prompt: str = "twemoji, cat face", **choices: bool) -> Graph:
    """AFA Compare as node "x", which saves its pictures as node "s" and shows its grid and its table as "g" and "t".

    choices: the rows, where they are not all; the scores.
    """
    sockets = {f"{kind}_{i}": [f"c{i}", output] for output, kind in enumerate(("model", "clip")) for i in MODELS}
    widgets = {"prompt": prompt, "negative": "blurry", "width": size, "height": size, "seeds": seeds, "steps": steps, **SAMPLING}
    rows = {**dict.fromkeys(CHOICES, True), "scores": False, **choices}
    return files | {
        "x": node("AFACompare", **sockets, aggregator_1=["a", 0], vae=["c1", 2], **widgets, **rows),
        "s": node("SaveImage", images=["x", 1], filename_prefix="compared"),
        "g": node("PreviewImage", images=["x", 0]),
        "t": node("PreviewAny", source=["x", 2]),
    }  # fmt: skip


def by_hand(files: Graph, seeds: list[int], steps: int, prompt: str = "twemoji, cat face") -> Graph:
    """The nine methods by the host's nodes and ours; node "METHOD SEED" saves a picture."""
    models = {f"model_{i}": [f"c{i}", 0] for i in MODELS}
    graph = files | {
        "l": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "e": node("AFAEnsembleCLIP", **{f"clip_{i}": [f"c{i}", 1] for i in MODELS}),
        "m": node("AFAMergeModels", **models),
        "mc1": node("CLIPMergeSimple", clip1=["c1", 1], clip2=["c2", 1], ratio=0.5),
        "mc2": node("CLIPMergeSimple", clip1=["mc1", 0], clip2=["c3", 1], ratio=2 / 3),
    }
    clips = {**{f"c{i}": [f"c{i}", 1] for i in MODELS}, "e": ["e", 0], "mc2": ["mc2", 0]}
    for name, clip in clips.items():
        graph |= {f"{name}+": node("CLIPTextEncode", clip=clip, text=prompt), f"{name}-": node("CLIPTextEncode", clip=clip, text="blurry")}  # fmt: skip
    ensembles = {}
    for rule in ("noise average", "block average", "magic fusion"):
        graph[f"{rule} rule"] = node("AFATrainingFreeFusion", method=rule)
        ensembles[rule] = [f"{rule} rule", 0]
    for name, rule in {**ensembles, "aggregator": ["a", 0]}.items():
        graph[f"{name} model"] = node("AFAEnsembleModel", aggregator=rule, **models)
    single = {**{f"c{i}": ([f"c{i}", 0], f"c{i}") for i in MODELS}, "merge": (["m", 0], "mc2")}
    single |= {name: ([f"{name} model", 0], "e") for name in [*ensembles, "aggregator"]}
    for seed in seeds:
        for name, (model, text) in single.items():
            texts = {"positive": [f"{text}+", 0], "negative": [f"{text}-", 0]}
            sampler = node("KSampler", model=model, latent_image=["l", 0], seed=seed, steps=steps, denoise=1.0, **texts, **SAMPLING)  # fmt: skip
            graph |= saved(f"{name} {seed}", sampler)
        graph |= switched(seed, steps)
    return graph


def switched(seed: int, steps: int) -> Graph:
    graph, samples = {}, ["l", 0]
    for i in MODELS:
        graph[f"switch {seed} {i}"] = node(
            "KSamplerAdvanced", model=[f"c{i}", 0], positive=[f"c{i}+", 0], negative=[f"c{i}-", 0], latent_image=samples,
            add_noise="enable" if i == 1 else "disable", noise_seed=seed, steps=steps, start_at_step=(i - 1) * steps // 3,
            end_at_step=i * steps // 3, return_with_leftover_noise="disable" if i == 3 else "enable", **SAMPLING,
        )  # fmt: skip
        samples = [f"switch {seed} {i}", 0]
    return graph | saved(f"switch {seed}", graph.pop(samples[0]))


def saved(name: str, sampler: dict[str, Any]) -> Graph:
    return {
        f"{name} sampler": sampler,
        f"{name} decode": node("VAEDecode", samples=[f"{name} sampler", 0], vae=["c1", 2]),
        name: node("SaveImage", images=[f"{name} decode", 0], filename_prefix="by_hand"),
    }


METHODS = ("c1", "c2", "c3", "merge", "switch", "noise average", "block average", "magic fusion", "aggregator")
"""The rows that both have, in the order of AFA Compare."""
