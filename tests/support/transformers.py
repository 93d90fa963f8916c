"""Toy transformers for tests of their streams: inputs, and one forward pass by the host and by a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.comfy.diffusion_models import is_known

TOYS = [
    "tiny_flux_a", "tiny_schnell_a", "tiny_chroma_a", "tiny_lumina_a", "tiny_zimage_a", "tiny_qwen_a", "tiny_cosmos_a",
    "tiny_anima_a", "tiny_krea2_a",
]  # fmt: skip
"""Of every family, on newer hosts too; `load` leaves out those that a host does not have."""
FAMILIES = ("flux", "chroma", "lumina", "zimage", "qwen", "cosmos", "anima", "krea2")
"""Whose toys have a twin beside TOYS, "tiny_flux_b" and so on."""


@dataclass
class Case:
    """A toy model with what the pack knows of its family."""

    name: str
    patcher: Any

    @property
    def family(self) -> str:
        """ "flux", "lumina", ..."""
        return self.name.split("_")[1]

    @property
    def model(self):
        return self.patcher.model

    @property
    def architecture(self):
        from afa_core.host.architectures.families import architecture_of

        return architecture_of(self.model)

    @property
    def network(self):
        return self.model.diffusion_model

    @property
    def points(self):
        return self.architecture.points(self.model)

    def inputs(self, size=(16, 12), batch=2, tokens=7, seed=5) -> dict[str, Any]:
        """Named arguments of the network for a batch with timesteps of their own."""
        generator = torch.Generator().manual_seed(seed)

        def tensor(*shape):
            return torch.randn(shape, generator=generator)

        frames = (1,) if self.architecture.has_frames else ()
        inputs = {
            "x": tensor(batch, 16, *frames, *size),
            "timesteps": torch.tensor([0.13, 0.87])[:batch],
            "context": tensor(batch, tokens, self.architecture.prompt_width(self.model)),
        }
        if self.family in ("flux", "schnell"):
            inputs["y"] = tensor(batch, 48)
        if self.family in ("flux", "schnell", "chroma"):
            inputs["guidance"] = torch.tensor([3.5, 2.0])[:batch]
        if self.family in ("lumina", "zimage"):
            inputs["num_tokens"] = tokens
        return inputs

    def named(self, inputs: dict[str, Any], control: Any, options: dict[str, Any]) -> dict[str, Any]:
        defaults = dict.fromkeys(self.architecture.arguments)
        return {**defaults, **inputs, "control": control, "transformer_options": options}


def load(host, name: str, dtype: str = "default") -> Case:
    """A toy with its weights in this dtype; skips the test where the host at hand does not have its family yet."""
    if not is_known(name):
        pytest.skip(f"this ComfyUI has no {name.split('_')[1]}")
    if name not in {Path(file).stem for file in host.folder_paths.get_filename_list("diffusion_models")}:
        pytest.fail(f"{name} was not made: python -m tests.support.comfy.diffusion_models makes all toys again")
    return Case(name, host.call("UNETLoader", unet_name=f"{name}.safetensors", weight_dtype=dtype)[0])


def by_host(case: Case, inputs: dict[str, Any], control: Any = None, options: dict[str, Any] | None = None) -> Tensor:
    own = {name: value.clone() if isinstance(value, Tensor) else value for name, value in inputs.items()}
    named = case.named(own, control, options or {})
    with torch.inference_mode():
        return case.network(named.pop("x"), named.pop("timesteps"), **named)  # as the host's `apply_model` calls it


def alone(point, features, state):
    """A fusion that leaves every expert what is its own."""
    return features


class Copies:
    """A fusion that hands out tensors that another expert holds too, as a real one does."""

    def __init__(self):
        self.held: list[tuple[Tensor, Tensor]] = []

    def __call__(self, point, features, state):
        held = features[0].clone()
        self.held.append((held, held.clone()))
        return [held]


def by_stream(
    case: Case, inputs: dict[str, Any], control=None, options=None, fusion=alone, experts: Sequence[Case] = ()
) -> Tensor:
    """The prediction of a lockstep of `experts`, or of the case alone; each gets a copy of `options`."""
    from afa_core.fusion.fusion import FusionState
    from afa_core.fusion.lockstep import lockstep

    with torch.inference_mode():
        before = {name: value.clone() for name, value in inputs.items() if isinstance(value, Tensor)}
        given = [case.named(inputs, control, dict(options or {})) for _ in experts or [case]]
        streams, embeddings = zip(
            *(each.architecture.stream(each.model, own) for each, own in zip(experts or [case], given, strict=True)),
            strict=True,
        )
        prediction = lockstep(streams, case.points, fusion, FusionState(embeddings))
        for name, value in before.items():
            assert torch.equal(inputs[name], value), f"the stream wrote into {name}, which other experts read"
    for each in embeddings:
        assert each.time.shape == (len(inputs["x"]), case.architecture.time_width(case.model))
        assert each.text.shape[::2] == (len(inputs["x"]), case.architecture.text_width(case.model))
    return prediction.reshape(inputs["x"].shape)


def check(case: Case, inputs: dict[str, Any], control: Callable = lambda: None, options: Callable = dict) -> Tensor:
    """Host, stream, and stream that was sent shared tensors agree; gives the host's prediction."""
    expected = by_host(case, inputs, control(), options())
    assert torch.isfinite(expected).all()
    assert torch.equal(by_stream(case, inputs, control(), options()), expected)
    copies = Copies()
    assert torch.equal(by_stream(case, inputs, control(), options(), fusion=copies), expected)
    assert len(copies.held) == len(case.points)
    for tensor, original in copies.held:
        assert torch.equal(tensor, original), "a stream wrote into what another expert holds"
    return expected


def conditioning(case: Case, seed: int, tokens: int = 6) -> list:
    """A prompt as one of the host's conditionings, of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, case.architecture.prompt_width(case.model), generator=generator)
    if case.family in ("flux", "schnell", "chroma"):
        return [[text, {"pooled_output": torch.randn(1, 48, generator=generator), "guidance": 3.5}]]
    if case.architecture.adapts_text(case.model):  # what the adapter makes of the text, token by token of T5's
        ids = torch.randint(32128, (tokens + 2,), generator=generator, dtype=torch.int)
        return [[text, {"t5xxl_ids": ids, "t5xxl_weights": 0.5 + torch.rand(tokens + 2, generator=generator)}]]
    return [[text, {}]]


def sample(host, model, case: Case, positive=None, negative=None, latent=None, **widgets) -> Tensor:
    """What KSampler makes of a model: by default two Euler steps under guidance."""
    if latent is None:
        latent = host.call("EmptySD3LatentImage", width=64, height=96, batch_size=1)[0]["samples"]
    inputs = {
        "model": model,
        "positive": positive or conditioning(case, 1),
        "negative": negative or conditioning(case, 2),
        "latent_image": {"samples": latent},
    }
    defaults = {"seed": 1, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple"}
    return host.call("KSampler", **{**inputs, **defaults, **widgets})[0]["samples"]
