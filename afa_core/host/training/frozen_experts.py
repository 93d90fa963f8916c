"""The host's models as frozen experts that gradients pass through.

The host loads weights in inference mode, and such weights cannot take part in a backward pass. They are
replaced by ordinary ones before the memory manager moves them, and everything here runs outside
inference mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...fusion.fusion import Embeddings, Fusion, FusionState, Observe
from ...fusion.lockstep import BlockStream, lockstep
from ...training.data.texts import Text, of_rows, picked, repeated, rows_alike
from ..architectures.noise import level_of, sigma_of, signal_to_noise
from ..experts.experts import Expert, check_experts, compute_dtype
from ..experts.networks import share_networks, unpaged
from ..experts.streams import expert_stream
from ..sampling.prediction import denoising_to, fuse_in_first_terms, slope
from ..sampling.run import set_companions


class HostExperts:
    """Experts under the host's memory manager, evaluated together for training.

    checkpointing: recompute every block in the backward pass instead of keeping its activations; the training
                   does so with every fusion point
    """

    def __init__(self, experts: list[Expert], checkpointing: bool = False):
        check_experts(experts)
        self.experts = [replace(expert, patcher=expert.patcher.clone()) for expert in share_networks(unpaged(experts))]
        self.points = experts[0].points
        self.labels = [expert.label for expert in experts]
        self.checkpointing = checkpointing
        first = self.experts[0].patcher
        self.device = first.load_device
        self.compute_dtype = compute_dtype(first)
        beside = [expert.beside for expert in self.experts if expert.beside]
        set_companions(first, [expert.patcher for expert in self.experts], beside)

    @property
    def patchers(self) -> list[ModelPatcher]:
        """All that is loaded."""
        first = self.experts[0].patcher
        return [first, *first.get_additional_models()]

    def load(self, latent_shape: list[int], beside: float = 0.0, others: Sequence[ModelPatcher] = ()) -> None:
        """Makes the weights fit for gradients, and loads as many of them as leave memory for a batch [B, C, H, W].

        beside: bytes that are needed for what is trained (memory.py). That is small and used everywhere, so it goes to
        the device before.
        others: what stays in memory with them
        """
        patchers = self.patchers
        for patcher in patchers:
            make_trainable(patcher.model)
        comfy.model_management.load_models_gpu(
            [*patchers, *others], memory_required=self._activations(latent_shape) + beside
        )
        for patcher in patchers:
            patcher.model.requires_grad_(False)

    def _activations(self, latent_shape: list[int]) -> float:
        """Bytes of a batch's activations.

        A backward pass keeps what a forward pass frees: the host's own trainer reserves twice as much. With
        checkpointing one block of one expert is kept whole at a time, and of all others their inputs.
        """
        one = 2 * self.experts[0].patcher.memory_required(latent_shape)
        if not self.checkpointing:
            return len(self.experts) * one
        inputs = len(self.experts) * sum(point.channels / point.stride**2 for point in self.points)
        return one + inputs * latent_shape[0] * math.prod(latent_shape[-2:]) * self.compute_dtype.itemsize

    @property
    def _samplings(self) -> list[Any]:
        return [expert.patcher.get_model_object("model_sampling") for expert in self.experts]

    def sigma(self, levels: Tensor) -> Tensor:
        """Levels [B] in 0..1 of the noise range to the first expert's sigmas [B]."""
        return sigma_of(self._samplings[0], levels)

    def snr(self, sigma: Tensor) -> Tensor:
        """Signal-to-noise ratio [B] of the first expert's sigmas [B]."""
        return signal_to_noise(self._samplings[0], sigma)

    def slope(self, sigma: Tensor) -> Tensor:
        """How much the denoised latents change with the first expert's prediction, [B, 1, 1, 1]."""
        return slope(self._samplings[0], sigma)

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """The noisy latents [B, C, H, W]; sigma [B, 1, 1, 1]."""
        return self._samplings[0].noise_scaling(sigma, noise.clone(), latents)

    def target(self, latents: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """What the first expert should predict [B, C, H, W] so that it denoises to the latents."""
        return denoising_to(latents, sigma, noisy, self._samplings[0])

    def denoised(self, prediction: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The latents [B, C, H, W] that a prediction in the first expert's terms denoises to."""
        return self._samplings[0].calculate_denoised(sigma, prediction.float(), noisy)

    def predict(
        self,
        fusion: Fusion,
        noisy: Tensor,
        sigma: Tensor,
        texts: list[Text],
        observe: Observe | None = None,
    ) -> Tensor:
        """The fused prediction [B, C, H, W] for a noisy latent, in the first expert's terms."""
        if not self.experts[0].architecture.joint_text:
            return self._predict(fusion, noisy, sigma, repeated(texts), observe)
        groups = rows_alike(texts, len(noisy))
        if len(groups) == 1:
            return self._predict(fusion, noisy, sigma, texts, observe)
        found: dict[int, Tensor] = {}
        for rows in groups:
            some = [of_rows(text, rows) for text in texts]
            prediction = self._predict(fusion, picked(noisy, rows), picked(sigma, rows), some, observe)
            found |= dict(zip(rows, prediction, strict=True))
        return torch.stack([found[row] for row in range(len(noisy))])

    def _predict(
        self, fusion: Fusion, noisy: Tensor, sigma: Tensor, texts: list[Text], observe: Observe | None
    ) -> Tensor:
        samplings = self._samplings
        streams, embeddings = zip(
            *(self._stream(*each, noisy, sigma) for each in zip(self.experts, samplings, texts, strict=True)),
            strict=True,
        )
        fusion = fuse_in_first_terms(fusion, samplings, sigma, noisy, samplings[0])
        return lockstep(streams, self.points, fusion, FusionState(embeddings, observe, level_of(samplings[0], sigma)))

    def _stream(
        self, expert: Expert, sampling: Any, text: Text, noisy: Tensor, sigma: Tensor
    ) -> tuple[BlockStream, Embeddings]:
        own = expert.patcher.model_options["transformer_options"]
        # What the host adds to them in sampling, and patches read.
        step = {"sigmas": sigma, "cond_or_uncond": [0], "optimized_attention_override": _differentiable_attention}
        inputs = {
            **dict.fromkeys(expert.architecture.arguments),
            "x": sampling.calculate_input(sigma, noisy),
            "timesteps": sampling.timestep(sigma).float(),
            "control": None,
            "transformer_options": {**own, **step},
        }
        return expert_stream(expert, inputs, text, checkpointing=self.checkpointing)


def make_trainable(model: torch.nn.Module) -> None:
    """Replaces inference tensors by ordinary ones, one at a time, so that memory holds one twice at most."""
    for name, parameter in list(model.named_parameters()):
        if parameter.is_inference():
            comfy.utils.set_attr_param(model, name, parameter.detach().clone())
    for name, buffer in list(model.named_buffers()):
        if buffer.is_inference():
            comfy.utils.set_attr(model, name, buffer.clone())


@contextmanager
def outside_inference():
    """The host runs nodes in inference mode; training needs gradients, and the host's flag where it has one."""
    flagged = hasattr(comfy.model_management, "in_training")
    before = flagged and comfy.model_management.in_training
    with torch.inference_mode(False), torch.enable_grad():
        if flagged:
            comfy.model_management.in_training = True
        try:
            yield
        finally:
            if flagged:
                comfy.model_management.in_training = before


def _differentiable_attention(attention, *args, **kwargs) -> Tensor:
    """The host's other attentions write in place or have no backward pass."""
    return attention_pytorch(*args, **kwargs)
