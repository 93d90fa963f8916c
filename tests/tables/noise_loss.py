"""The noise loss of a MODEL, whatever is inside it, on the path that a sampler takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .questions import Question
from .world import World

TIMESTEPS = 1000


@torch.inference_mode()
def noise_losses(world: World, models: Sequence, questions: list[Question]) -> Tensor:
    """Mean squared error of the prediction for the prompt, without guidance: one a pair and look.

    models: one MODEL, or several that share the sampling in equal parts, the first from the most noise on.
    """
    found = []
    for question in questions:
        world.oracle.domains = question.domains
        found.append(_shared_out(models, question))
    return torch.cat(found)


def _shared_out(models: Sequence, question: Question) -> Tensor:
    each = torch.stack([_losses(model, question) for model in models])
    turn = (TIMESTEPS - 1 - question.timesteps) * len(models) // TIMESTEPS
    return each.gather(0, turn[None])[0]


def _losses(model, question: Question) -> Tensor:
    sampling = model.get_model_object("model_sampling")
    sigma = sampling.sigma(question.timesteps.float())
    noisy = sampling.noise_scaling(sigma, question.noise.clone(), question.latents)
    zero = torch.zeros_like(noisy)
    slope = sampling.calculate_denoised(sigma, torch.ones_like(noisy), zero)
    error = _denoised(model, question, noisy, sigma) - question.latents
    return (error / slope).square().mean((1, 2, 3))


def _denoised(model, question: Question, noisy: Tensor, sigma: Tensor) -> Tensor:
    """What the host's guider gives a sampler that asks once, each picture at a noise level of its own."""
    import comfy.sample
    import comfy.samplers

    found = []

    def ask_once(guider, noise, sigmas, extra_args=None, callback=None, disable=None):
        found.append(guider(noisy, sigma, **extra_args))
        return found[0]

    comfy.sample.sample_custom(
        model, question.noise, 1.0, comfy.samplers.KSAMPLER(ask_once), torch.tensor([1.0, 0.0]),
        [[question.text, {}]], [[question.empty, {}]], question.latents, disable_pbar=True,
    )  # fmt: skip
    return found[0]
