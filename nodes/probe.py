"""Whether experts are worth ensembling, measured before hours of training."""

from __future__ import annotations

import json

from comfy_api.latest import io, ui

from ..afa_core.fusion.levels import LevelFusion
from ..afa_core.host.probing import ProbeSettings, probe
from ..afa_core.host.training.prompt_folders import prompt_folder_stamp, read_named_folder
from ..afa_core.probe.plot import probe_plot
from ..afa_core.probe.report import report_of
from ..afa_core.probe.table import probe_table
from .sockets import AggregatorType, experts, numbered, schema
from .training import preparation

DEFAULTS = ProbeSettings()


class AFAProbe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AFAProbe",
            display_name="Probe AFA Experts",
            description="Measures before a training how much an aggregator could lower the loss of these checkpoints.",
            search_aliases=["compare checkpoints", "test ensemble", "diversity", "worth training"],
            inputs=[
                *numbered(io.Model, "model", "A checkpoint to ensemble, as it would stand on AFA Ensemble Model: expert"),
                io.Clip.Input("clip", tooltip="Reads the captions; an AFA Ensemble CLIP gives each expert its own text."),
                io.Vae.Input("vae", tooltip="Turns the pictures into latents; the one that the checkpoints share."),
                io.String.Input(
                    "prompt_folder", default="",
                    tooltip="A folder under ComfyUI's input (or an absolute path, where ComfyUI serves this machine only) with pictures and captions of the same name, as "
                    "for training. With prompts alone the experts paint the pictures: a weaker measurement.",
                ),
                io.Int.Input(
                    "pictures", default=DEFAULTS.pictures, min=2, max=1000,
                    tooltip="How many of the folder's pictures are used, evenly of all sub-folders. More narrow the interval.",
                ),
                io.Int.Input(
                    "noises", default=DEFAULTS.draws, min=2, max=64,
                    tooltip="How often every picture is noised at every level. All at once: fewer need less memory.",
                ),
                io.Int.Input(
                    "resolution", default=DEFAULTS.resolution, min=32, max=2048, step=8,
                    tooltip="Pictures are brought to about this side squared: the size the checkpoints were made for.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**32 - 1, control_after_generate=False, tooltip="The noises follow from it."
                ),
            ],
            outputs=[
                io.String.Output(display_name="verdict"),
                io.Image.Output(display_name="plot"),
                io.String.Output(display_name="report"),
                AggregatorType.Output(display_name="fusion"),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, prompt_folder: str, **inputs) -> str:
        return prompt_folder_stamp(prompt_folder)

    @classmethod
    def execute(cls, clip, vae, prompt_folder, pictures, noises, resolution, seed, **models) -> io.NodeOutput:
        folder = read_named_folder(prompt_folder)
        settings = ProbeSettings(pictures, noises, resolution, seed)
        measured = probe(experts(cls, models), clip, vae, folder, settings, preparation())
        report = report_of(measured)
        report["left_out"] = [list(row) for row in measured.left_out]
        plot = probe_plot(report)
        shown = ui.PreviewImage(plot, cls=cls)
        found = report["level_weights"]
        fusion = LevelFusion(tuple(found["levels"]), tuple(map(tuple, found["weights"])))
        return io.NodeOutput(probe_table(report), plot, json.dumps(report, indent=1), fusion, ui=shown)
