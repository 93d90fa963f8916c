"""Static merges, which cost no more to run than one model."""

from __future__ import annotations

from comfy_api.latest import io

from ..afa_core.host.experts.experts import Expert
from ..afa_core.host.merging.merge import extrapolated, merge_models, recipe_for
from ..afa_core.merging.blocks import PRESETS
from .sockets import experts, label, numbered, schema

NO_PRESET = "none"


class AFAMergeModels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AFAMergeModels",
            display_name="AFA Merge Models",
            description="Merges up to eight checkpoints into one: by weights, by a preset over the blocks, or block by block.",
            search_aliases=["mbw", "merge block weighted", "weighted sum", "model soup"],
            inputs=[
                *numbered(io.Model, "model", "A checkpoint of the same architecture as the others, with its LoRAs: model"),
                io.String.Input(
                    "weights", default="", optional=True,
                    tooltip="One number a model, such as 2, 1, 1; they are scaled to a sum of 1. Empty: equal shares.",
                ),
                io.Combo.Input(
                    "preset", options=[NO_PRESET, *PRESETS], default=NO_PRESET, optional=True,
                    tooltip="How much each block takes of the models after model_1, from the first input block over the "
                    "middle to the last output block. With three and more models, weights shares that out among them.",
                ),
                io.String.Input(
                    "block_weights", default="", multiline=True, optional=True,
                    tooltip="Lines such as 'IN04-IN08 0.2, 0.8': a block, a range or the beginning of a layer's name, and one "
                    "number a model. They go before the preset. Blocks of U-Nets: IN00, M00, OUT00 and so on; of Flux.1 and "
                    "Chroma: D00, S00; of Lumina 2 and Z-Image: L00; of Qwen-Image, Cosmos-Predict2, Anima and Krea 2: B00. "
                    "For two models also a row of one number a block (SD1.5: 25, SDXL: 19).",
                ),
                io.Model.Input(
                    "base", optional=True,
                    tooltip="The model that the others were fine-tuned from. Where it is connected, extrapolation goes beyond the merge, away from it.",
                ),
                io.Float.Input(
                    "extrapolation", default=1.5, min=0.0, max=3.0, step=0.05, optional=True,
                    tooltip="Only with a base: base + extrapolation * (merge - base). 1 is the merge itself, 0 the base.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, weights: str = "", preset: str = NO_PRESET, block_weights: str = "", base=None, extrapolation: float = 1.5, **models
    ) -> io.NodeOutput:  # fmt: skip
        found = experts(cls, models)
        merged = merge_models(found, recipe_for(found, weights, preset, block_weights))
        if base is not None:
            merged = extrapolated(merged, found[0], Expert(base, label(cls, "base")), extrapolation)
        return io.NodeOutput(merged)
