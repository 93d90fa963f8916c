"""Fusions of guided predictions, in the host's step before classifier-free guidance."""

from __future__ import annotations

from typing import Any, cast

import comfy.samplers
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...fusion.fusion import FusionError, blend, logits_of
from ...fusion.magic import MODES, TIMESTEPS, MagicFusion
from ..architectures.frames import with_frames, without_frames
from ..experts.experts import KEY
from .parts import ensemble_of
from .run import RUN, Run, run_of
from .step import EXPERT

_USE = "use a sampler with positive, negative and cfg, such as KSampler"


def install(main: ModelPatcher) -> None:
    """Lets an ensemble's patcher blend its experts' predictions before anything else sees them.

    Guidance must run even at a scale of 1, where the host would leave the unguided prediction out.
    """
    options = main.model_options
    others = options.get("sampler_pre_cfg_function", [])
    main.model_options = {
        **options, "sampler_pre_cfg_function": [blend_predictions, *others], "disable_cfg1_optimization": True
    }  # fmt: skip
    main.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, predict_noise)


def predict_noise(executor, x, timestep, model_options, *args, **kwargs):
    """Refuses guiders that never come to `blend_predictions`: they would paint with the first expert alone."""
    current = model_options.get("transformer_options", {}).get(RUN)
    if current is None:
        return executor(x, timestep, model_options, *args, **kwargs)
    current.at_guidance = False
    prediction = executor(x, timestep, model_options, *args, **kwargs)
    if not current.at_guidance:
        raise FusionError(
            f"The magic fusion acts where a prompt and a negative prompt are combined, and {type(executor.class_obj).__name__} "
            f"does that in a way of its own: {_USE}."
        )
    return prediction


def blend_predictions(args: dict[str, Any]) -> list[Tensor]:
    """The prompt's and the negative prompt's denoised latents [B, C, H, W] of all experts, as one of each.

    The host has evaluated the first expert; here the others follow, on the same latent. Guidance is
    linear and acts position by position, so that guiding blends is blending guided predictions.
    """
    model, x, sigma, options = args["model"], args["input"], args["sigma"], args["model_options"]
    main = model.current_patcher
    ensemble = ensemble_of(main)
    fusion = cast(MagicFusion, ensemble.fusion)  # nothing else installs this function
    current = run_of(main, options["transformer_options"])
    current.at_guidance = True
    if not (current.is_active(sigma) and _fuses(fusion, current, sigma)):
        return args["conds_out"]
    if len(args["conds"]) != 2 or any(cond is None for cond in args["conds"]):
        found = "no negative prompt" if len(args["conds"]) == 2 else f"{len(args['conds'])} prompts"
        raise FusionError(
            "The magic fusion compares what a prompt does with what the negative prompt does, and this sampler has "
            f"{found}: {_USE}."
        )
    predictions = [args["conds_out"]]
    for index in range(1, len(ensemble.experts)):
        chosen = {**options, "transformer_options": {**options["transformer_options"], EXPERT: index}}
        predictions.append(comfy.samplers.calc_cond_batch(model, args["conds"], x, sigma, chosen))
    noisy = without_frames(x)
    sides = [[without_frames(denoised) for denoised in side] for side in zip(*predictions, strict=True)]
    guided, unguided = ([(noisy - denoised) / sigma.view(-1, 1, 1, 1) for denoised in side] for side in sides)
    shares = fusion.shares(guided, unguided, args["cond_scale"])
    if current.routing:
        evaluation = current.routing.evaluate(sigma, [True] * len(x))
        evaluation.observe(ensemble.points[-1], shares)
        evaluation.end()
    return [with_frames(blend(side, logits_of(shares))[0], x) for side in sides]


def _fuses(fusion: MagicFusion, current: Run, sigma: Tensor) -> bool:
    """Whether this step is fused; what never switches needs no timestep."""
    return fusion.mode == MODES[0] or fusion.fuses_at(round(current.noise_level(sigma)[1] * TIMESTEPS))
