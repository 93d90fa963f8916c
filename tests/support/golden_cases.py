"""The authors' own numbers, and a sampler's step that must give them. What tolerances they have says tests/golden/README.md."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open

from tests.support.ensembles import text_for

GOLDEN = Path(__file__).parents[1] / "golden"


class Case:
    def __init__(self, name: str):
        with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
            self.about = json.loads(file.metadata()["afa_golden"])
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}
        self.name = name
        self.experts = self.about["experts"]

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]

    def texts(self, sample: slice = slice(None)) -> list:
        """A conditioning with each expert's own text."""
        return text_for([text[sample] for text in self["encoder_hidden_states"]])


def noisy_latent(case: Case, model) -> tuple[torch.Tensor, dict]:
    """(sigma [B], LATENT) whose first evaluation gives the network the case's x."""
    sampling = model.get_model_object("model_sampling")
    sigma = sampling.sigma(case["timesteps"])
    noisy = case["x"] * (sigma.reshape(-1, 1, 1, 1) ** 2 + 1).sqrt()
    return sigma, {"samples": noisy / model.model.latent_format.scale_factor}


def euler_step(host, model, case: Case, positive, negative, cfg: float, samples=slice(None)) -> torch.Tensor:
    """One Euler step to noise level 0 by the host's sampler: the denoised latent, scaled as the network sees it."""
    sigma, latent = noisy_latent(case, model)
    (sampler,) = host.call("KSamplerSelect", sampler_name="euler")
    output, _ = host.call(
        "SamplerCustom", model=model, add_noise=False, noise_seed=0, cfg=cfg, positive=positive, negative=negative,
        sampler=sampler, sigmas=torch.tensor([sigma[0].item(), 0.0]), latent_image={"samples": latent["samples"][samples]},
    )  # fmt: skip
    return output["samples"] * model.model.latent_format.scale_factor


def denoised(case: Case, model, prediction: torch.Tensor) -> torch.Tensor:
    sigma, latent = noisy_latent(case, model)
    noisy = latent["samples"] * model.model.latent_format.scale_factor
    return noisy - prediction * sigma.reshape(-1, 1, 1, 1)
