"""Every method on the same prompt and seeds, in one node."""

from __future__ import annotations

import json
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..afa_core.aggregator.file import AggregatorFile
from ..afa_core.comparison.seeds import parse_seeds
from ..afa_core.digests import json_digest
from ..afa_core.fusion.averages import StaticFusion
from ..afa_core.fusion.magic import MagicFusion
from ..afa_core.host.experts.checkpoints import weights_digest
from ..afa_core.host.experts.fingerprint import clip_digest, patcher_digest
from ..afa_core.host.merging.merge import check_mergeable
from ..afa_core.host.notices import notify
from ..afa_core.host.sampling.ensemble import check_fits
from ..afa_core.host.scoring.files import scorer_files
from ..afa_core.host.text.clip import ensemble_clip
from .compare_graph import FUSIONS, ComparisonGraph
from .fusion import MAGIC
from .kept import workflow_id
from .live import running_workflow
from .sockets import AggregatorType, connected, experts, label, numbered, schema, source_file

AGGREGATORS = 4
PAINTED_BY = ("negative", "width", "height", "steps", "cfg", "sampler_name", "scheduler")
METHODS = {
    "checkpoints": "Each checkpoint alone.",
    "weighted_merge": "Equal shares of all checkpoints merged into one, text encoders included.",
    "step_switch": "One checkpoint after the other, each for an equal part of the steps.",
    "noise_average": "All checkpoints at every step; their predictions are averaged.",
    "block_average": "All checkpoints at every step; their features are averaged after every block.",
    "magic_fusion": "All checkpoints at every step; at every position the one on which the prompt has the most effect.",
    "trained_aggregators": "All checkpoints at every step, fused by each connected aggregator.",
}


class AFACompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AFACompare",
            display_name="Compare AFA Methods",
            description="Paints the same prompt and seeds by seven ways to use several checkpoints: a grid, a table, and a blind choice.",
            search_aliases=["xy plot", "x/y plot", "compare checkpoints", "compare merges", "grid", "blind test"],
            inputs=[
                *numbered(io.Model, "model", "A checkpoint of the same architecture as the others, with its LoRAs: model"),
                *numbered(io.Clip, "clip", "The CLIP of the checkpoint on model_1, model_2, ...; a single one serves all: CLIP", least=1),
                *numbered(AggregatorType, "aggregator", "An aggregator trained for these models in this order, or a fusion without training: aggregator", least=0, most=AGGREGATORS),
                io.Vae.Input("vae", tooltip="The VAE for all pictures."),
                io.String.Input("prompt", default="", multiline=True, tooltip="The prompt of all pictures; each model reads it through its own CLIP."),
                io.String.Input("negative", default="", multiline=True, tooltip="The negative prompt of all pictures."),
                io.Int.Input("width", default=512, min=16, max=16384, step=8, tooltip="Width of a picture in pixels."),
                io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip="Height of a picture in pixels."),
                io.String.Input("seeds", default="1-4", tooltip="One column a seed: numbers and ranges, such as 1, 5, 20-23."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Sampling steps a picture."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale."),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="dpmpp_2m", tooltip="The sampler."),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="karras", tooltip="The noise schedule."),
                *(io.Boolean.Input(name, default=True, tooltip=f"A row. {text}") for name, text in METHODS.items()),
                io.Boolean.Input("scores", default=True, tooltip="Score the pictures by the scorers of AFA Score Images whose files you have, but CLIP-I, FID and IS."),
            ],
            outputs=[
                io.Image.Output(display_name="grid"),
                io.Image.Output(display_name="pictures", is_output_list=True),
                io.String.Output(display_name="table"),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.dynprompt, io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            is_output_node=True,
            enable_expand=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **inputs) -> list:
        # A file that is added later brings a column; a copy of a workflow has a result of its own.
        return [running_workflow(), *scorer_files()]

    @classmethod
    def execute(cls, **inputs) -> io.NodeOutput:
        seeds = parse_seeds(inputs["seeds"])
        names = _check(cls, inputs)
        node = cls.hidden.dynprompt.get_node(cls.hidden.unique_id)["inputs"]
        comparison = ComparisonGraph({name: node[name] for name in _sockets(inputs)}, inputs)
        checkpoints = [
            source_file(cls.hidden.prompt or {}, cls.hidden.unique_id, f"model_{i}") or f"checkpoint {i}"
            for i in range(1, len(comparison.models) + 1)
        ]
        methods = list(comparison.methods([_short(name) for name in checkpoints], names))
        if not methods:
            raise ValueError("There is nothing to paint: turn on a row, such as checkpoints, or connect an aggregator for trained_aggregators.")
        clocks = [comparison.clocks(method) for method in methods]
        pictures = {
            f"picture_{row}_{column}": comparison.picture(method, clocks[row], seed)
            for row, method in enumerate(methods)
            for column, seed in enumerate(seeds)
        }
        place = {"workflow": workflow_id(cls.hidden.extra_pnginfo), "node": cls.hidden.unique_id}
        layout = {
            "place": place,
            "prompt": inputs["prompt"],
            "scorers": scorer_files() if inputs["scores"] else [],
            "seeds": seeds,
            "subject": [*checkpoints, *names.values(), _painted_by(inputs)],
            "methods": [
                {"key": m.key, "name": m.name, "networks": m.networks, "stages": len(m.stages)} for m in methods
            ],
        }
        # The host runs first what the last input needs: in this order row after row, so that a row's models stay loaded.
        grid = comparison.graph.node(
            "AFACompareGrid", "grid", layout=json.dumps(layout),
            **{f"clock_{row}_{i}": link for row, links in enumerate(clocks) for i, link in enumerate(links)},
            **dict(reversed(pictures.items())),
        )  # fmt: skip
        outputs = (grid.out(number) for number in range(3))
        # With its outputs the host caches where the result is kept, for a run in which nothing is new.
        return io.NodeOutput(*outputs, ui={"afa_comparison": [place]}, expand=comparison.graph.finalize())


def _sockets(inputs: dict[str, Any]) -> list[str]:
    """The names of the connected sockets, in the order of their numbers."""
    kinds = ("model", "clip", "aggregator")
    return [name for kind in kinds for name in connected(kind, inputs)] + ["vae"]


def _check(cls: type[io.ComfyNode], inputs: dict[str, Any]) -> dict[str, str]:
    """Refuses what does not fit before the first picture is painted. Gives the aggregators' names by socket."""
    found = experts(cls, inputs)
    clips, aggregators = connected("clip", inputs), connected("aggregator", inputs)
    if len(clips) not in (1, len(found)):
        raise ValueError(
            f"{len(found)} models are connected, and {len(clips)} CLIPs: connect one CLIP for all models, or one for each."
        )
    ensemble_clip(list(clips.values()), [label(cls, name) for name in clips])
    if inputs["weighted_merge"]:
        check_mergeable(found, "turn weighted_merge off")
    rules: list[Any] = [MagicFusion() if rule == MAGIC else StaticFusion(rule) for rule in FUSIONS if inputs[rule.replace(" ", "_")]]
    rules += aggregators.values() if inputs["trained_aggregators"] else ()
    notify([*dict.fromkeys(notice for rule in rules for notice in check_fits(rule, found))])
    return {
        socket: _short(rule.name) if isinstance(rule, AggregatorFile) else socket.replace("_", " ")
        for socket, rule in aggregators.items()
    }


def _painted_by(inputs: dict[str, Any]) -> str:
    """A digest of what paints the pictures of a prompt and seed: blind choices between others do not count."""
    models = [patcher_digest(model) for model in connected("model", inputs).values()]
    clips = [clip_digest(clip) for clip in connected("clip", inputs).values()]
    fused = [
        [weights_digest(rule.state, rule.state.__getitem__), rule.top_k] if isinstance(rule, AggregatorFile) else repr(rule)
        for rule in connected("aggregator", inputs).values()
    ]
    return json_digest([models, clips, fused, [inputs[name] for name in PAINTED_BY]])


def _short(file: str) -> str:
    """A file's own name, without folders and ending."""
    return file.replace("\\", "/").split("/")[-1].removesuffix(".safetensors").removesuffix(".ckpt")
