"""Sockets and widgets of Distil AFA Ensemble."""

from __future__ import annotations

from comfy_api.latest import io

from ..afa_core.host.training.adapters import TARGETS
from ..afa_core.training.session import RESUME
from .sockets import folded

EVERYDAY = {
    "prompt_folder",
    "prompts",
    "save_as",
    "resume",
    "rank",
    "steps",
    "batch_size",
    "learning_rate",
    "resolution",
}
"""Widgets that are not folded away."""


def distil_inputs() -> list[io.Input]:
    return folded(_all_inputs(), EVERYDAY)


def _all_inputs() -> list[io.Input]:
    return [
        io.Model.Input("ensemble", tooltip="The teacher: the MODEL of AFA Ensemble Model, with a trained aggregator or an average."),
        io.Clip.Input("clip", tooltip="Reads the captions; an AFA Ensemble CLIP gives each expert its own text, and the student that of model_1."),
        io.String.Input(
            "prompt_folder", default="",
            tooltip="A folder under ComfyUI's input with pictures and captions to learn from; empty: the prompts alone.",
        ),
        io.String.Input(
            "prompts", default="",
            tooltip="A folder or text file under ComfyUI's input with a prompt a line, which the ensemble paints. The student "
            "learns best what is named here: list names, styles and subjects that the experts know.",
        ),
        io.Float.Input("prompt_share", default=0.25, min=0.0, max=1.0, step=0.05, tooltip="Share of the training samples that are the ensemble's paintings, where there is a prompt_folder too."),
        io.String.Input("save_as", default="my_distilled", tooltip="Name of the LoRA in models/loras."),
        io.Combo.Input(
            "resume", options=list(RESUME),
            tooltip="continue: go on where an earlier training of this name ended, and refuse if data, models or settings have "
            "changed. continue with changes: go on all the same. start anew: forget it.",
        ),
        io.Int.Input("rank", default=8, min=1, max=512, tooltip="Rank of the LoRA: its size, and what it can hold."),
        io.Float.Input("alpha", default=8.0, min=0.01, max=512.0, step=0.01, tooltip="Strength of the LoRA beside its rank: alpha / rank scales what it adds."),
        io.Combo.Input("targets", options=list(TARGETS), default=TARGETS[2], tooltip="Which layers of the student get low-rank changes."),
        io.Int.Input("steps", default=1000, min=1, max=1_000_000, tooltip="Optimizer steps; a later run with more steps goes on."),
        io.Int.Input("batch_size", default=8, min=1, max=256, tooltip="Samples a batch."),
        io.Int.Input("gradient_accumulation", default=1, min=1, max=256, tooltip="Batches a step: a larger effective batch without more memory."),
        io.Float.Input("learning_rate", default=5e-4, min=1e-7, max=1.0, step=1e-7, round=False, tooltip="AdamW's learning rate after the warm-up."),
        io.Float.Input("weight_decay", default=0.0, min=0.0, max=1.0, step=0.001, tooltip="AdamW's weight decay."),
        io.Int.Input("warmup_steps", default=50, min=0, max=100_000, tooltip="Steps over which the learning rate rises from 0."),
        io.Int.Input("labels_per_item", default=8, min=1, max=1024, tooltip="Noisy versions of each picture that the ensemble labels. More are better and take longer; each is kept in the cache as large as a latent in float16."),
        io.Float.Input("caption_dropout", default=0.1, min=0.0, max=1.0, step=0.01, tooltip="Share of samples with an empty caption, so that guidance works."),
        io.Int.Input("resolution", default=512, min=32, max=2048, step=8, tooltip="Pictures are sorted into shapes of about this side squared; so are paintings."),
        io.Int.Input("seed", default=0, min=0, max=2**32 - 1, control_after_generate=False, tooltip="Weights, noise, noise levels and data order follow from it."),
        io.Float.Input("ema", default=0.99, min=0.0, max=0.99999, step=0.0001, round=False, tooltip="Decay of the averaged weights that are evaluated and saved; 0 saves the weights themselves."),
        io.Int.Input("evaluate_every", default=100, min=1, max=100_000, tooltip="Steps between two evaluations of the held-out items."),
        io.Int.Input("patience", default=0, min=0, max=1000, tooltip="Evaluations without improvement after which training stops; 0 trains all steps."),
        io.Int.Input("save_every", default=100, min=1, max=100_000, tooltip="Steps between two saves; a crash loses no more than these."),
        io.Boolean.Input("gradient_checkpointing", default=True, tooltip="Computes every block twice instead of keeping it: much less memory, a slower step."),
        io.Int.Input("paint_steps", default=20, min=1, max=1000, tooltip="Sampler steps of a painting."),
        io.Float.Input("paint_cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance of a painting."),
        io.Model.Input("student", optional=True, tooltip="What learns: a checkpoint or a merge of the ensemble's architecture. Empty: the equal merge of the experts."),
        io.Vae.Input("vae", optional=True, tooltip="Turns the pictures of prompt_folder into latents."),
        io.Boolean.Input(
            "online", default=False, optional=True,
            tooltip="Off: the ensemble labels everything first and leaves memory, and the student trains alone. On: both stay in "
            "memory, and every step asks the ensemble about fresh noise: more variety, several times slower and larger.",
        ),
        io.Boolean.Input(
            "control", default=False, optional=True,
            tooltip="Afterwards also trains the same LoRA on the pictures and paintings themselves, without the ensemble's labels, "
            "for the same steps, and reports it beside: what the labels are worth.",
        ),
        io.Boolean.Input(
            "save_student", default=False, optional=True,
            tooltip="Also saves the student as it is without the LoRA in models/diffusion_models, so that a merge need not be made again.",
        ),
        io.Float.Input(
            "paint_aspect", default=1.0, min=0.25, max=4.0, step=0.01, optional=True,
            tooltip="Width over height of the paintings, at the area of resolution: choose the shape you will paint in. 1 is a square, 2 twice as wide as high.",
        ),
    ]  # fmt: skip
