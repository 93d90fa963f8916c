"""An ensemble as a teacher: its prediction at any noise level, and those of its experts."""

from __future__ import annotations

import hashlib
from typing import NoReturn, cast

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...fusion.fusion import Embeddings, FusionState
from ...fusion.magic import MagicFusion
from ...fusion.not_finite import NotFinite, checking_every_feature
from ...fusion.sabw_fusion import SABWFusion
from ...training.data.dataset import Batch
from ...training.draw import Draw, generator
from ...training.objective import Predictions, problem, sample_loss
from ..experts.experts import KEY, Expert, ExpertError, check_experts, later_patches
from ..experts.fingerprint import patcher_digest
from ..sampling.parts import ensemble_of
from .frozen_experts import HostExperts

LEVELS = torch.linspace(0, 1, 21)
"""Noise levels at which fusions are compared: between two of a probe's, shares by level change evenly."""


def check_teacher(ensemble: ModelPatcher) -> None:
    """Raises ExpertError for a MODEL that is no ensemble, or one that does not predict the same way at every step."""
    if ensemble.get_attachment(KEY) is None:
        raise ExpertError("The ensemble input takes the MODEL of AFA Ensemble Model, and this is a plain one: connect an ensemble.")
    found = ensemble_of(ensemble)
    if isinstance(found.fusion, MagicFusion):
        raise ExpertError(
            "The magic fusion blends guided predictions, which depend on the sampler's cfg, so a student cannot learn them: "
            "connect a trained aggregator or an average to AFA Ensemble Model."
        )
    if later_patches(ensemble, ensemble, found.weights, found.objects) is not ensemble:
        raise ExpertError(
            "A node behind AFA Ensemble Model changes the ensemble's weights: put it on each checkpoint, before AFA Ensemble "
            "Model."
        )
    if ensemble.model_options["transformer_options"] or "model_function_wrapper" in ensemble.model_options:
        raise ExpertError(
            "A node behind AFA Ensemble Model patches the ensemble's blocks or predictions, which a student does not learn: put it "
            "on each checkpoint, before AFA Ensemble Model."
        )
    if (found.start_percent, found.end_percent) != (0.0, 1.0):
        raise ExpertError(
            f"The ensemble runs from {found.start_percent} to {found.end_percent} of sampling, and a student learns all "
            "of it: set start_percent to 0 and end_percent to 1."
        )


def check_student(student: Expert, experts: list[Expert]) -> None:
    """Raises ExpertError for a student that cannot learn from these experts."""
    if student.patcher.get_attachment(KEY) is not None:
        raise ExpertError(
            "The student is an ensemble itself: connect one checkpoint, or AFA Merge Models of several, or nothing for "
            "the equal merge of the experts."
        )
    check_experts([experts[0], student])


class Teacher:
    """The experts of an ensemble under its fusion. `load` is called before predictions."""

    def __init__(self, ensemble: ModelPatcher):
        found = ensemble_of(ensemble)
        self.fusion, self.companions = found.fusion, found.companions
        self.experts = HostExperts(found.experts, checkpointing=True)  # keeps nothing: it reserves memory for one block

    def load(self, latent_shape: list[int]) -> None:
        self.experts.load(latent_shape, others=self.companions)

    @property
    def patchers(self) -> list[ModelPatcher]:
        return [*self.companions, *self.experts.patchers]

    @property
    def digest(self) -> str:
        """Of all that its predictions follow from."""
        parts = [patcher_digest(expert.patcher) for expert in self.experts.experts]
        parts += [patcher_digest(patcher) for patcher in self.companions]
        parts += [str(expert.own_patches.scales) for expert in self.experts.experts if expert.own_patches]
        if not isinstance(self.fusion, SABWFusion):
            parts.append(self._behaviour())
        elif self.fusion.top_k:
            parts.append(f"top {self.fusion.top_k}")
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def _behaviour(self) -> str:
        """What a fusion without weights makes of random features at every noise level: it has no other name.

        One that is the same at all levels is known by one of them.
        """
        random, count, levels = generator(0), len(self.experts.experts), len(LEVELS)
        embeddings = Embeddings(torch.zeros(levels, 1), torch.zeros(levels, 1, 1))
        state = FusionState([embeddings] * count, level=LEVELS)
        digest = hashlib.sha256()
        for point in self.experts.points:
            features = [torch.randn(1, point.channels, 4, 4, generator=random) for _ in range(count)]
            for output in self.fusion(point, [feature.repeat(levels, 1, 1, 1) for feature in features], state):
                each = cast(Tensor, output)
                digest.update((each[:1] if (each == each[:1]).all() else each).contiguous().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def predict(self, batch: Batch, draw: Draw) -> Tensor:
        """[B, C, h, w], in the first expert's terms."""
        sigma, noisy, _ = problem(self.experts, batch, draw)
        return self.experts.predict(self.fusion, noisy, sigma, batch.texts)

    @torch.no_grad()
    def find_not_finite(self, batch: Batch, draw: Draw) -> NoReturn:
        """After a label that is not finite: raises NotFinite with the name of what made it."""
        fusion = checking_every_feature(self.fusion, self.experts.labels, "while the ensemble labelled")
        sample_loss(self.experts, fusion, batch, draw)
        raise NotFinite(
            "The ensemble's labels are not finite, and every network is sound: the latents or captions hold NaN."
        )

    @torch.no_grad()
    def singles(self, batch: Batch, draw: Draw) -> list[Tensor]:
        """The predictions [B, C, h, w] of each expert alone, in the first one's terms."""
        sigma, noisy, _ = problem(self.experts, batch, draw)
        kept = Predictions()
        self.experts.predict(kept, noisy, sigma, batch.texts)
        return kept.predictions
