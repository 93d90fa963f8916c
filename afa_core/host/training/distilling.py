"""One distillation, from its models to its task: teacher, student, data, with which labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import comfy.model_management
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE

from ...digests import json_digest
from ...training.data.dataset import LatentDataset
from ...training.data.joined import joined
from ...training.data.prompt_folder import PromptFolder
from ...training.tasks.distil import DistilTask, Lessons
from ..experts.experts import Expert, ExpertError
from ..experts.fingerprint import patcher_digest
from ..experts.networks import copied
from ..merging.merge import check_mergeable, merge_models, recipe_for
from ..sampling.parts import ensemble_of
from ..sampling.prediction import converted
from .adapters import TARGETS, adapted_weights, put_adapters
from .cache import Cache, cache_key
from .captions import TextEncoder
from .encoding import DatasetSettings, prepare_dataset
from .ensemble_paintings import Painter
from .frozen_experts import HostExperts
from .labelling import CachedLabels
from .memory import trained_bytes
from .pictures import Progress
from .teacher import Teacher, check_student, check_teacher


@dataclass(frozen=True)
class LoraSettings:
    """online: the ensemble stays in memory beside the student, and labels fresh noise"""

    rank: int = 8
    alpha: float = 8.0
    targets: str = TARGETS[-1]
    gradient_checkpointing: bool = True
    online: bool = False


@dataclass(frozen=True)
class Sources:
    """pictures: with captions; prompts: that the ensemble paints, `prompt_share` of the samples where there are both."""

    pictures: PromptFolder | None
    prompts: PromptFolder | None
    prompt_share: float

    @classmethod
    def of(cls, folder: PromptFolder | None, prompts: PromptFolder | None, prompt_share: float) -> Sources:
        """A folder without pictures is one of prompts."""
        if folder is None or folder.has_pictures:
            return cls(folder, prompts, prompt_share)
        if prompts is not None:
            folder = replace(
                folder,
                items=folder.items + prompts.items,
                skipped=folder.skipped + prompts.skipped,
                held_out=folder.held_out | prompts.held_out,
            )
        return cls(None, folder, prompt_share)

    def known(self, settings: DatasetSettings) -> dict[str, Any]:
        """As DatasetSettings.of_source, of both."""
        known: dict[str, Any] = settings.of_source(self.pictures) if self.pictures else {}
        if self.prompts:
            known |= {name: getattr(settings, name) for name in ("resolution", "caption_dropout", "paint_aspect")}
            known |= {f"paint_{name}": value for name, value in asdict(settings.painting).items()}
            known["prompts"] = json_digest([item.caption for item in self.prompts.items])[:8]
        if self.pictures and self.prompts:
            known["prompt_share"] = self.prompt_share
        return known


class Distillation:
    """An ensemble and a student whose weights do not touch one another.

    A merge of the experts patches the first one's network in place, so that such a student gets a copy of it.
    Raises ExpertError or MergeError where the two do not fit.
    """

    def __init__(self, ensemble: ModelPatcher, student: ModelPatcher | None):
        check_teacher(ensemble)
        self.ensemble, self.experts = ensemble, ensemble_of(ensemble).experts
        self.student = equal_merge(self.experts) if student is None else student
        check_student(Expert(self.student, "The student"), self.experts)
        shared = any(self.student.is_clone(expert.patcher) for expert in self.experts)
        self.network = copied(self.student) if shared else self.student
        self.teacher = Teacher(ensemble)
        self.digest = self.teacher.digest

    def dataset(
        self, clip: CLIP, vae: VAE | None, sources: Sources, settings: DatasetSettings, progress: Progress
    ) -> LatentDataset:
        """Pictures and paintings in one dataset, all of it encoded and on disk."""
        parts = []
        if sources.pictures:
            parts.append(prepare_dataset(self.experts, clip, vae, sources.pictures, settings, progress))
        if sources.prompts:
            cache = Cache()
            # Paintings are guided, which a node behind the ensemble may change; labels are not.
            digest = cache_key(self.digest, patcher_digest(self.ensemble))
            painter = Painter(self.ensemble, digest, TextEncoder(self.experts, clip, cache), cache)
            watched = {item.caption for part in parts for item in part.items if item.held_out}
            parts.append(painter.dataset(sources.prompts, settings, progress, watched))
            comfy.model_management.unload_all_models()
        return parts[0] if len(parts) == 1 else joined(parts[0], parts[1], sources.prompt_share)

    def label(self, data: LatentDataset, held_out: bool, progress: Progress) -> CachedLabels:
        """The ensemble's labels of all items, or of the held-out ones alone, made where they are not on disk; then the
        ensemble leaves memory."""
        labels = CachedLabels(data, self.digest, Cache(), held_out)
        if labels.missing():
            self.teacher.load([data.plan.batch_size, *data.largest_latent])
            labels.make(self.teacher, data.plan.batch_size, progress)
        comfy.model_management.unload_all_models()
        return labels

    def identity(self, lora: LoraSettings, control: bool = False) -> dict[str, Any]:
        """`DistilTask.identity`, which is known before there is a task."""
        settings = {name: value for name, value in asdict(lora).items() if name != "gradient_checkpointing"}
        return {**settings, "teacher": self.digest, "student": patcher_digest(self.student), "control": control}

    def task(self, data: LatentDataset, lora: LoraSettings, control: bool = False) -> DistilTask:
        """The student in memory, with adapters that change nothing yet; where it learns online, the ensemble beside it.

        control: it learns the data themselves, and nothing of the ensemble
        """
        student = HostExperts([Expert(self.network, "The student")], lora.gradient_checkpointing)
        patcher = student.experts[0].patcher
        weights = adapted_weights(patcher, lora.targets)
        module = put_adapters(patcher, weights, lora.rank, lora.alpha, data.plan.seed)
        count = sum(weight.numel() for weight in module.parameters())
        shape = [data.plan.batch_size, *data.largest_latent]
        teacher = self.teacher if lora.online and not control else None
        if teacher:
            teacher.load(shape)
        student.load(shape, count * trained_bytes(student), teacher.patchers if teacher else ())
        first, own = (e.patcher.get_model_object("model_sampling") for e in (self.experts[0], student.experts[0]))
        lessons = Lessons([e.label for e in self.experts], partial(converted, sampling=first, first=own), teacher, control)
        shapes = {key: weight.shape for key, weight in weights.items()}
        return DistilTask(student, module, shapes, lessons, self.identity(lora, control))


def equal_merge(experts: list[Expert]) -> ModelPatcher:
    """Raises ExpertError or MergeError where the experts cannot be merged."""
    if any(expert.beside for expert in experts):
        raise ExpertError(
            "The experts are one checkpoint with different LoRAs, which the ensemble keeps beside its weights, and no student "
            "is connected: connect AFA Merge Models of the same models as the student."
        )
    check_mergeable(experts, "connect the one to be taught as the student")
    return merge_models(experts, recipe_for(experts, "", "none", ""))
