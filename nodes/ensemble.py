"""Loading aggregators, and making one model of several."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..afa_core.aggregator.file import load_aggregator
from ..afa_core.host.experts.experts import Expert
from ..afa_core.host.experts.rebuild import load_experts
from ..afa_core.host.files import aggregator_names, aggregator_path, stamp
from ..afa_core.host.sampling.ensemble import compile_aggregator, make_ensemble
from ..afa_core.host.sampling.parts import ensemble_of
from ..afa_core.host.text.clip import ensemble_clip
from ..afa_core.routing.record import RoutingRecord
from .live import routing_listener
from .sockets import MAX_EXPERTS, AggregatorType, RoutingType, connected, experts, label, numbered, schema


def _top_k() -> io.Input:
    return io.Int.Input(
        "top_k", default=0, min=0, max=MAX_EXPERTS, optional=True,
        tooltip="At every position only so many models are fused: those with the largest weights there, scaled to a "
        "sum of 1. 0 fuses all. No faster.",
    )  # fmt: skip


def _economies() -> list[io.Input]:
    return [
        io.Float.Input(
            "skip_below", default=0.0, min=0.0, max=1.0, step=0.01, optional=True,
            tooltip="Faster: a model whose mean weight over the picture is below this is not run. With identity_bias and on "
            "transformers it is left out of a whole step, else of single blocks. 0 runs every model. A fast setting: 0.2, "
            "with decide_every 6.",
        ),
        io.Int.Input(
            "decide_every", default=1, min=1, max=100, optional=True,
            tooltip="Faster: in one of so many steps all models run and the aggregator decides; the steps between keep "
            "its maps, and skip_below goes by them. 1 decides at every step.",
        ),
    ]  # fmt: skip


class LoadAFAAggregator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LoadAFAAggregator",
            display_name="Load AFA Aggregator",
            description="Loads a trained aggregator: the small network that gives each expert a weight at every position of every block.",
            search_aliases=["sabw", "adaptive feature aggregation", "ensemble weights"],
            inputs=[
                io.Combo.Input(
                    "aggregator_name", options=aggregator_names(),
                    tooltip="An aggregator in models/afa: a .safetensors file, or a folder in the layout of the AFA authors.",
                ),
                _top_k(),
            ],
            outputs=[AggregatorType.Output(display_name="aggregator")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, aggregator_name: str | None, **choice) -> list[str]:
        return _stamps(aggregator_name)

    @classmethod
    def execute(cls, aggregator_name: str, top_k: int = 0) -> io.NodeOutput:
        return io.NodeOutput(replace(load_aggregator(aggregator_path(aggregator_name)), top_k=top_k))


class AFAEnsembleModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AFAEnsembleModel",
            display_name="AFA Ensemble Model",
            description="Makes one model of several: at every step all of them are evaluated in lockstep and their features are fused.",
            search_aliases=["ensemble checkpoints", "combine models", "mix models", "adaptive feature aggregation"],
            inputs=[
                AggregatorType.Input("aggregator", tooltip="How the experts are fused: a trained aggregator, a training-free fusion, or the fusion of Probe AFA Experts."),
                *numbered(io.Model, "model", "A checkpoint of the same architecture as the others: expert"),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.001, optional=True,
                    tooltip="From this part of sampling on the models are fused; before it model_1 runs alone.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.001, optional=True,
                    tooltip="Up to this part of sampling the models are fused; after it model_1 runs alone.",
                ),
                *_economies(),
                io.Boolean.Input(
                    "compile", default=False, optional=True,
                    tooltip="Compiles a trained aggregator with PyTorch: the first step takes minutes, those after it "
                    "start fewer kernels. Needs a compiler: on NVIDIA Triton.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model"), RoutingType.Output(display_name="routing")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            not_idempotent=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, aggregator, compile: bool = False, **inputs) -> io.NodeOutput:
        widgets = {name: value for name, value in inputs.items() if not name.startswith("model_")}
        ensemble = make_ensemble(aggregator, experts(cls, inputs), **widgets)
        if compile:
            compile_aggregator(ensemble)
        return io.NodeOutput(ensemble, live_record(cls, ensemble))


class AFAEnsembleCLIP(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AFAEnsembleCLIP",
            display_name="AFA Ensemble CLIP",
            description="Makes one CLIP of several, so that every expert reads the prompt through its own text encoder.",
            search_aliases=["ensemble text encoder", "combine clip"],
            inputs=numbered(io.Clip, "clip", "The CLIP of the checkpoint on the ensemble's socket model"),
            outputs=[io.Clip.Output(display_name="clip")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, **sockets) -> io.NodeOutput:
        clips = connected("clip", sockets)
        return io.NodeOutput(ensemble_clip(list(clips.values()), [label(cls, name) for name in clips]))


class LoadAFAEnsemble(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LoadAFAEnsemble",
            display_name="Load AFA Ensemble",
            description="Loads an aggregator together with the checkpoints it was trained for, found among yours by their weights.",
            search_aliases=["load ensemble", "afa checkpoint"],
            inputs=[
                io.Combo.Input(
                    "aggregator_name", options=aggregator_names(),
                    tooltip="An aggregator in models/afa whose file names its checkpoints, as those of Train AFA Aggregator do.",
                ),
                *_economies(),
                _top_k(),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Clip.Output(display_name="clip"),
                io.Vae.Output(display_name="vae"),
                AggregatorType.Output(display_name="aggregator"),
                RoutingType.Output(display_name="routing"),
            ],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, aggregator_name: str | None, **choice) -> list[str]:
        return _stamps(aggregator_name)

    @classmethod
    def execute(
        cls, aggregator_name: str, skip_below: float = 0.0, decide_every: int = 1, top_k: int = 0
    ) -> io.NodeOutput:
        aggregator = replace(load_aggregator(aggregator_path(aggregator_name)), top_k=top_k)
        loaded = load_experts(aggregator)
        names = [f"model_{i} ({expert.file})" for i, expert in enumerate(loaded, start=1)]
        models = [Expert(expert.patcher, name) for expert, name in zip(loaded, names, strict=True)]
        model = make_ensemble(aggregator, models, skip_below=skip_below, decide_every=decide_every)
        # A file of a network alone brings neither: another expert's serve, as they did in its training.
        vae = next((expert.vae for expert in loaded if expert.vae is not None), None)
        some_clip = next((expert.clip for expert in loaded if expert.clip is not None), None)
        clip = ensemble_clip([expert.clip or some_clip for expert in loaded], names) if some_clip else None
        return io.NodeOutput(model, clip, vae, aggregator, live_record(cls, model))


def _stamps(name: str | None) -> list[str]:
    """Of the file that a node loads; of all, where another node names it: the host hands None for it."""
    return [stamp(aggregator_path(one)) for one in (aggregator_names() if name is None else [name])]


def live_record(cls: type[io.ComfyNode], ensemble) -> RoutingRecord:
    """The ensemble's routing record, sent to the browser step by step."""
    record = ensemble_of(ensemble).record
    record.on_step = routing_listener(cls.hidden.unique_id)
    return record
