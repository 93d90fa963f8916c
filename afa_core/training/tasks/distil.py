"""Distilling an ensemble: low-rank changes of one model, trained to predict what the ensemble predicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ...atomic_file import write_safetensors
from ...fusion.fusion import Feature, FusionState
from ...fusion.not_finite import checking_every_feature
from ...fusion.points import FusionPoint
from ..data.dataset import Batch
from ..draw import Draw, generator
from ..labels import LabelledBatch
from ..loop import with_weights
from ..objective import FrozenExperts, mean_square, problem, sample_loss
from ..task import BEST_SINGLE

TEACHER, START = "ensemble", "student before training"
RESAMPLES = 2000


@dataclass(frozen=True)
class LoraFile:
    """A LoRA that was saved. measured: {} before the end."""

    path: Path
    measured: dict[str, Any]


class Teacher(Protocol):
    """An ensemble that predicts while the student trains."""

    def predict(self, batch: Batch, draw: Draw) -> Tensor:
        """[B, C, h, w], in the ensemble's terms."""
        ...

    def find_not_finite(self, batch: Batch, draw: Draw) -> None:
        """After a prediction that is not finite: raises NotFinite, which names what produced it."""
        ...


@dataclass(frozen=True)
class Lessons:
    """What a student learns from.

    singles: the experts' names, in the order of the batches' predictions
    convert: (label, sigma, noisy latent) to the same prediction in the student's terms
    teacher: labels what carries no labels
    data_only: a control, which learns the data themselves under the same noise; nothing of the teacher
    """

    singles: list[str]
    convert: Callable[[Tensor, Tensor, Tensor], Tensor]
    teacher: Teacher | None = None
    data_only: bool = False


class DistilTask:
    """A student with trainable low-rank adapters, and what its teacher predicts.

    module:  the adapters, in an nn.ModuleDict, by their weights' keys with "/" for "."; `lora_up` of each starts at zero
    shapes:  of the adapted weights, by their keys
    """

    name = "LoRA"
    curves_title = "share of the gap closed"
    goal: str | None = TEACHER
    watched = ()

    def __init__(
        self,
        student: FrozenExperts,
        module: nn.ModuleDict,
        shapes: dict[str, torch.Size],
        lessons: Lessons,
        identity: dict[str, Any],
    ):
        self.student, self.module, self.shapes, self.lessons = student, module, shapes, lessons
        self._identity = identity
        self.chosen_by = "held_out" if lessons.data_only else "distance"
        self.device, self.compute_dtype = student.device, student.compute_dtype

    def identity(self) -> dict[str, Any]:
        return self._identity

    def loss(self, batch: Batch, draw: Draw, watched: Sequence[float] = ()) -> dict[str, Tensor]:
        """Squared distance to the teacher's prediction; of a control, to the target of the data."""
        draw = own_draw(batch, draw)
        sigma, noisy, lesson = problem(self.student, batch, draw)
        if not self.lessons.data_only:
            lesson = self.lessons.convert(self._labels(batch, draw), sigma, noisy)
        return {"distance": (self._predict(batch, sigma, noisy) - lesson).square().mean()}

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """`held_out`: the student's own denoising loss, which can be compared with those of the baselines; `distance`: of
        its predictions from the teacher's, which is what it learns."""
        batch = cast(LabelledBatch, batch)
        sigma, noisy, target = problem(self.student, batch, batch.draw)
        found, labels = self._predict(batch, sigma, noisy), self.lessons.convert(batch.labels, sigma, noisy)
        return {"held_out": mean_square(found - target), "distance": mean_square(found - labels)}

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """The student before training, the ensemble, and each of its experts."""
        batch = cast(LabelledBatch, batch)
        sigma, noisy, target = problem(self.student, batch, batch.draw)
        rows = {START: mean_square(self._predict(batch, sigma, noisy) - target)}
        for name, labels in zip((TEACHER, *self.lessons.singles), (batch.labels, *batch.singles), strict=True):
            rows[name] = mean_square(self.lessons.convert(labels, sigma, noisy) - target)
        if not rows[START].isfinite().all():
            self.find_not_finite(batch, batch.draw, "on a held-out picture")
        return rows

    def find_not_finite(self, batch: Batch, draw: Draw, when: str) -> None:
        fusion = checking_every_feature(alone, ["The student"], when)
        with torch.no_grad():
            sample_loss(self.student, fusion, batch, own_draw(batch, draw))
        if self.lessons.teacher and not isinstance(batch, LabelledBatch):
            self.lessons.teacher.find_not_finite(batch, draw)

    @torch.no_grad()
    def measure(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """{"gap": [share, low, high], "losses": {name: mean}}: the share of the gap from the student before training to
        the ensemble that was closed on the held-out items, with its 95 % interval over items; None without a gap."""
        rows: dict[str, list[Tensor]] = {}
        items: list[int] = []
        for batch in batches:
            found = self.evaluate(batch)["held_out"]
            for name, losses in {self.name: found, **self._untrained(batch)}.items():
                rows.setdefault(name, []).append(losses.cpu())
            items += batch.items
        losses = {name: per_item(torch.cat(parts), items) for name, parts in rows.items()}
        gap = gap_closed(losses[START], losses[self.name], losses[TEACHER])
        return {"gap": gap, "losses": {name: row.mean().item() for name, row in losses.items()}}

    def export(
        self, path: Path, weights: Mapping[str, Tensor], history: dict[str, Any], measured: dict[str, Any]
    ) -> LoraFile:
        """An ordinary LoRA, in the dtype that the student computes in."""
        tensors = {name: tensor.to(self.compute_dtype) for name, tensor in lora_tensors(weights, self.shapes).items()}
        metadata = {"afa_distil": json.dumps({**self._identity, **history, "measured": measured})}
        write_safetensors(tensors, metadata, path)
        return LoraFile(path, measured)

    def rivals(self, baselines: dict[str, float]) -> dict[str, float]:
        single = min(baselines[name] for name in self.lessons.singles)
        return {START: baselines[START], BEST_SINGLE: single, TEACHER: baselines[TEACHER]}

    def curves(self, evaluation: dict[str, Any], baselines: dict[str, float]) -> dict[str, float]:
        gap = baselines[START] - baselines[TEACHER]
        return {self.curves_title: (baselines[START] - evaluation["held_out"]) / gap if gap > 0 else 0.0}

    def _labels(self, batch: Batch, draw: Draw) -> Tensor:
        if isinstance(batch, LabelledBatch):
            return batch.labels
        return cast(Teacher, self.lessons.teacher).predict(batch, draw)

    def _predict(self, batch: Batch, sigma: Tensor, noisy: Tensor) -> Tensor:
        return self.student.predict(alone, noisy, sigma, batch.texts[:1]).float()

    def _untrained(self, batch: Batch) -> dict[str, Tensor]:
        weights = self.module.state_dict()
        zero = {key: torch.zeros_like(tensor) for key, tensor in weights.items() if key.endswith("lora_up.weight")}
        return with_weights(self.module, {**weights, **zero}, lambda: self.baselines(batch))


def alone(point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
    """The fusion of a single model: none."""
    return features


def own_draw(batch: Batch, draw: Draw) -> Draw:
    """The noise that a batch's labels were made with; `draw` of a batch without labels."""
    return batch.draw if isinstance(batch, LabelledBatch) else draw


def per_item(losses: Tensor, items: Sequence[int]) -> Tensor:
    """The mean loss of every item, of losses [M] of the items that `items` numbers."""
    known = sorted(set(items))
    place = torch.tensor([known.index(item) for item in items])
    return torch.zeros(len(known)).index_add_(0, place, losses) / torch.bincount(place, minlength=len(known))


def gap_closed(start: Tensor, student: Tensor, teacher: Tensor) -> list[float] | None:
    """[share, low, high] of (start - student) / (start - teacher) with its 95 % bootstrap interval over items.

    Losses [I] of the same items. None where the teacher is not surely better than the start, as of a single item: there is
    no gap.
    """
    if len(start) < 2:
        return None
    picks = torch.randint(len(start), (RESAMPLES, len(start)), generator=generator(0))
    gap, won = ((start - other)[picks].mean(1) for other in (teacher, student))
    if gap.quantile(0.025) <= 0:
        return None
    low, high = (won / gap).quantile(torch.tensor([0.025, 0.975])).tolist()
    return [((start - student).mean() / (start - teacher).mean()).item(), low, high]


def lora_tensors(weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Adapters' weights under the names that LoRA loaders read, those of convolutions in the layout of convolutions."""
    tensors = {}
    for key, shape in shapes.items():
        ours, name = key.replace(".", "/"), key.removesuffix(".weight")
        up, down, alpha = (weights[f"{ours}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
        tensors[f"{name}.lora_up.weight"] = up.reshape(*up.shape, *[1] * (len(shape) - 2))
        tensors[f"{name}.lora_down.weight"] = down.reshape(-1, *shape[1:])
        tensors[f"{name}.alpha"] = alpha
    return tensors
