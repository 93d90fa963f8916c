"""The trainer's sockets and widgets: the published recipe as defaults, where it says something."""

from __future__ import annotations

from comfy_api.latest import io

from ..afa_core.training.session import RESUME
from ..afa_core.training.state import TrainingSettings
from ..afa_core.training.tasks.aggregator import AggregatorSettings
from .sockets import folded, numbered

ABLATION_CHOICES = {
    "none": "none",
    "time": "without the timestep",
    "text": "without the text",
    "space": "without spatial location",
    "blocks": "only the last fusion point",
}

DEFAULTS = TrainingSettings()
LOSS = AggregatorSettings()


EVERYDAY = {
    "prompt_folder", "save_as", "resume", "steps", "batch_size", "resolution", "gradient_checkpointing", "sample_prompt",
}  # fmt: skip
"""Widgets that are not folded away."""


def trainer_inputs() -> list[io.Input]:
    return folded(_all_inputs(), EVERYDAY)


def _all_inputs() -> list[io.Input]:
    return [
        *numbered(io.Model, "model", "A checkpoint to ensemble, as it will stand on AFA Ensemble Model: expert"),
        io.Clip.Input("clip", tooltip="Reads the captions; an AFA Ensemble CLIP gives each expert its own text."),
        io.Vae.Input("vae", tooltip="Turns the pictures into latents; use the one you will decode with."),
        io.String.Input(
            "prompt_folder", default="",
            tooltip="A folder under ComfyUI's input (or an absolute path, where ComfyUI serves this machine only) with pictures and captions of the same name, or with "
            "prompts alone, which the experts then paint.",
        ),
        io.String.Input("save_as", default="my_ensemble", tooltip="Name of the aggregator in models/afa."),
        io.Combo.Input(
            "resume", options=list(RESUME),
            tooltip="continue: go on where an earlier training of this name ended, and refuse if data, experts or settings have "
            "changed. continue with changes: go on all the same. start anew: forget it.",
        ),
        io.Int.Input("steps", default=DEFAULTS.steps, min=1, max=1_000_000, tooltip="Optimizer steps; a later run with more steps goes on."),
        io.Int.Input("batch_size", default=DEFAULTS.batch_size, min=1, max=256, tooltip="Pictures a batch."),
        io.Int.Input(
            "gradient_accumulation", default=DEFAULTS.gradient_accumulation, min=1, max=256,
            tooltip="Batches a step: a larger effective batch without more memory.",
        ),
        io.Float.Input("learning_rate", default=DEFAULTS.learning_rate, min=1e-7, max=1.0, step=1e-7, round=False, tooltip="AdamW's learning rate after the warm-up."),
        io.Float.Input("weight_decay", default=DEFAULTS.weight_decay, min=0.0, max=1.0, step=0.001, tooltip="AdamW's weight decay."),
        io.Int.Input("warmup_steps", default=DEFAULTS.warmup_steps, min=0, max=100_000, tooltip="Steps over which the learning rate rises from 0."),
        io.Float.Input("caption_dropout", default=0.1, min=0.0, max=1.0, step=0.01, tooltip="Share of samples that train with an empty caption, so that guidance works."),
        io.Int.Input("resolution", default=512, min=32, max=2048, step=8, tooltip="Pictures are sorted into shapes of about this side squared."),
        io.Int.Input("hidden_size", default=128, min=64, max=1024, step=32, tooltip="Width of the aggregator; a multiple of 32 and of num_heads."),
        io.Int.Input("num_layers", default=2, min=1, max=8, tooltip="Transformer layers of each fusion point's aggregator."),
        io.Int.Input("num_heads", default=8, min=1, max=64, tooltip="Attention heads of the aggregator."),
        io.Combo.Input("ablation", options=list(ABLATION_CHOICES.values()), tooltip="Train the aggregator without one of its parts, as the paper's ablations do."),
        io.Int.Input("seed", default=0, min=0, max=2**32 - 1, control_after_generate=False, tooltip="Weights, noise, timesteps and data order follow from it."),
        io.Float.Input("ema", default=DEFAULTS.ema, min=0.0, max=0.99999, step=0.0001, round=False, tooltip="Decay of the averaged weights that are evaluated and saved; 0 saves the weights themselves."),
        io.Float.Input("min_snr_gamma", default=LOSS.min_snr_gamma, min=0.0, max=100.0, step=0.1, tooltip="Weighs low noise levels down (min-SNR); 0 weighs all alike, as published."),
        io.Float.Input("load_balance", default=LOSS.load_balance, min=0.0, max=10.0, step=0.001, tooltip="Penalty on uneven mean weights of the experts; 0, as published, has none."),
        io.Int.Input("evaluate_every", default=DEFAULTS.evaluate_every, min=1, max=100_000, tooltip="Steps between two evaluations of the held-out pictures."),
        io.Int.Input("patience", default=DEFAULTS.patience, min=0, max=1000, tooltip="Evaluations without improvement after which training stops; 0 trains all steps."),
        io.Int.Input("save_every", default=100, min=1, max=100_000, tooltip="Steps between two saves; a crash loses no more than these."),
        io.Boolean.Input("gradient_checkpointing", default=True, tooltip="Computes every block twice instead of keeping it: much less memory, a slower step."),
        io.Boolean.Input("random_crop", default=False, tooltip="Augmentation: cut the pictures to shape at a random place."),
        io.Boolean.Input("flip", default=False, tooltip="Augmentation: mirror half of the pictures."),
        io.Float.Input("colour", default=0.0, min=0.0, max=1.0, step=0.01, tooltip="Augmentation: strength of random changes of colour."),
        io.String.Input("sample_prompt", default="", tooltip="A prompt that is painted during training, with a fixed seed; empty paints nothing."),
        io.Int.Input("sample_every", default=DEFAULTS.evaluate_every, min=1, max=100_000, tooltip="Steps between two samples; a multiple of evaluate_every."),
        io.Float.Input(
            "expert_dropout", default=LOSS.expert_dropout, min=0.0, max=0.9, step=0.01,
            tooltip="Probability that an expert is left out at a fusion point, so that the aggregator learns to fuse the others: for skip_below of AFA Ensemble Model.",
        ),
        io.Int.Input(
            "routing_stride", default=1, min=1, max=64,
            tooltip="Faster: where features are finer than this many latent pixels, the aggregator's blocks work on averages. 1 works at every position, as published.",
        ),
        io.Latent.Input("latents", optional=True, tooltip="Latents of ComfyUI's own dataset nodes, in place of a folder."),
        io.Conditioning.Input("conditioning", optional=True, tooltip="Conditioning of ComfyUI's own dataset nodes, in place of a folder."),
        io.Boolean.Input(
            "identity_bias", default=True, optional=True,
            tooltip="Each expert gets attention maps of its own, in which its own feature has more weight, by a learned amount. Off: one map for all, as published.",
        ),
        io.Boolean.Input(
            "drop_points", default=True, optional=True,
            tooltip="With identity_bias: a fusion point where each expert's own feature has more than 0.995 of the weight is left out of the rest of the training, which makes steps faster. Off: it is left out of the file alone.",
        ),
    ]  # fmt: skip
