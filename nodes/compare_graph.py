"""The graph into which AFA Compare expands: the host's own encoders, samplers and decoders, a row a method.

A node's id says the method and the seed, so that a row stays in the host's cache when others come or go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from comfy_execution.graph_utils import GraphBuilder

FUSIONS = ("noise average", "block average", "magic fusion")
SIDES = ("positive", "negative")

Link = list
"""[id of a node, number of its output]."""


@dataclass(frozen=True)
class Stage:
    """A model and the texts it reads, which sample a part of the steps."""

    model: Link
    texts: dict[str, Link]


@dataclass(frozen=True)
class Method:
    """A row: the stages share the steps out evenly among them. `key` is its part of the nodes' ids."""

    key: str
    name: str
    networks: int
    stages: list[Stage]


class ComparisonGraph:
    """Builds the nodes. sockets: links by input name; widgets: the values of AFA Compare's widgets."""

    def __init__(self, sockets: dict[str, Link], widgets: dict[str, Any]):
        self.graph = GraphBuilder()
        self.models = [link for name, link in sockets.items() if name.startswith("model_")]
        self.clips = [link for name, link in sockets.items() if name.startswith("clip_")]
        self.aggregators = {name: link for name, link in sockets.items() if name.startswith("aggregator_")}
        self.vae = sockets["vae"]
        self.widgets = widgets
        size = {name: widgets[name] for name in ("width", "height")}
        self.latent = self._node("EmptyLatentImage", "latent", batch_size=1, **size)
        self.sampling = {name: widgets[name] for name in ("sampler_name", "scheduler", "steps", "cfg")}

    def methods(self, checkpoint_names: list[str], aggregator_names: dict[str, str]) -> Iterator[Method]:
        """The chosen methods, in the order of the widgets. aggregator_names: by socket."""
        chosen = self.widgets
        own = [Stage(model, self._texts(f"clip_{i}", clip)) for i, (model, clip) in enumerate(self._pairs(), start=1)]
        if chosen["checkpoints"]:
            for number, (stage, name) in enumerate(zip(own, checkpoint_names, strict=True), start=1):
                yield Method(f"checkpoint_{number}", name, 1, [stage])
        if chosen["weighted_merge"]:
            yield Method("weighted_merge", "weighted merge", 1, [self._merge()])
        if chosen["step_switch"]:
            yield Method("step_switch", "step switch", 1, own[: chosen["steps"]])
        for method in FUSIONS:
            if chosen[key := method.replace(" ", "_")]:
                rule = self._node("AFATrainingFreeFusion", f"{key}_rule", method=method)
                yield self._ensemble(key, method, rule)
        if chosen["trained_aggregators"]:
            for socket, link in self.aggregators.items():
                yield self._ensemble(socket, aggregator_names[socket], link)

    def clocks(self, method: Method) -> list[Link]:
        """The clocks of a method's models, each an output of a node whose first output is the model with the clock."""
        timed = f"{self.sampling} {self.widgets['width']} x {self.widgets['height']}"
        return [
            [self._node("AFACompareClock", f"{method.key}_clock_{i}", model=stage.model, timed=f"{method.key} {i} {timed}")[0], 1]
            for i, stage in enumerate(method.stages)
        ]  # fmt: skip

    def picture(self, method: Method, clocks: list[Link], seed: int) -> Link:
        """Samples and decodes one picture."""
        place = f"{method.key}_{seed}"
        models = [[clock[0], 0] for clock in clocks]
        if len(models) == 1:
            samples = self._node(
                "KSampler", f"{place}_sampler", model=models[0], latent_image=self.latent, seed=seed, denoise=1.0,
                **method.stages[0].texts, **self.sampling,
            )  # fmt: skip
        else:
            samples = self._switched(method, models, seed)
        return self._node("VAEDecode", f"{place}_picture", samples=samples, vae=self.vae)

    def _switched(self, method: Method, models: list[Link], seed: int) -> Link:
        samples, count, steps = self.latent, len(models), self.sampling["steps"]
        bounds = [round(steps * i / count) for i in range(count + 1)]
        for i, (stage, model) in enumerate(zip(method.stages, models, strict=True)):
            samples = self._node(
                "KSamplerAdvanced", f"{method.key}_{seed}_sampler_{i}", model=model, latent_image=samples, noise_seed=seed,
                add_noise="disable" if i else "enable", start_at_step=bounds[i], end_at_step=bounds[i + 1],
                return_with_leftover_noise="enable" if i + 1 < count else "disable", **stage.texts, **self.sampling,
            )  # fmt: skip
        return samples

    def _merge(self) -> Stage:
        """Equal shares of all checkpoints, their text encoders included, as a merged checkpoint has them."""
        clip = self.clips[0]
        for number, other in enumerate(self.clips[1:], start=1):
            clip = self._node("CLIPMergeSimple", f"merged_clip_{number}", clip1=clip, clip2=other, ratio=number / (number + 1))  # fmt: skip
        return Stage(self._node("AFAMergeModels", "merge", **self._numbered("model", self.models)), self._texts("merged_clip", clip))  # fmt: skip

    def _ensemble(self, key: str, name: str, aggregator: Link) -> Method:
        clip = self.clips[0]
        if len(self.clips) > 1:
            clip = self._node("AFAEnsembleCLIP", "ensemble_clip", **self._numbered("clip", self.clips))
        models = self._numbered("model", self.models)
        model = self._node("AFAEnsembleModel", f"{key}_ensemble", aggregator=aggregator, **models)
        return Method(key, name, len(models), [Stage(model, self._texts("ensemble_clip", clip))])

    def _texts(self, key: str, clip: Link) -> dict[str, Link]:
        texts = dict(zip(SIDES, (self.widgets["prompt"], self.widgets["negative"]), strict=True))
        return {side: self._node("CLIPTextEncode", f"{key}_{side}", clip=clip, text=text) for side, text in texts.items()}  # fmt: skip

    def _pairs(self) -> Iterator[tuple[Link, Link]]:
        """Each model with its CLIP; a single CLIP serves all."""
        clips = self.clips if len(self.clips) > 1 else self.clips * len(self.models)
        return zip(self.models, clips, strict=True)

    def _numbered(self, prefix: str, links: list[Link]) -> dict[str, Link]:
        return {f"{prefix}_{i}": link for i, link in enumerate(links, start=1)}

    def _node(self, kind: str, key: str, **inputs: Any) -> Link:
        """The first output of a node; a node of this key is made once."""
        return self.graph.node(kind, key, **inputs).out(0)
