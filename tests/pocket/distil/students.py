"""Students, trained through the node, as rows beside those of the tables."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from tests.support.widgets import defaults
from tests.tables.oracle import ORACLE
from tests.tables.search import RESOLUTION
from tests.tables.store import fingerprint
from tests.tables.systems import AVERAGES, System, ensemble, fused, static
from tests.tables.trained import OURS, trained
from tests.tables.world import World

from . import lessons
from .oracle import TeachingOracle

SETTINGS = {
    "resolution": RESOLUTION, "paint_aspect": 2.0, "paint_steps": 10, "paint_cfg": 3.0, "prompt_share": 0.5,
    "labels_per_item": 24, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 15, "ema": 0.99, "save_every": 50,
    "gradient_checkpointing": False, "resume": "continue",
}  # fmt: skip
QUICKLY = {"paint_steps": 2, "labels_per_item": 1, "batch_size": 4}
AVERAGE = AVERAGES[0]
FULL_RANK = 256
"""No weight of these networks has a higher one."""


@dataclass(frozen=True)
class Student:
    """control: the LoRA that learns the data alone; teacher: the aggregator's ensemble, the noise average or the oracle by place; share: of the steps of the run"""

    title: str
    pictures: bool = True
    prompts: bool = True
    rank: int = 8
    control: bool = False
    teacher: str = OURS
    share: float = 1.0

    @property
    def alpha(self) -> float:
        """So that a step moves weights alike at every rank: alpha / rank falls as its root (arXiv 2312.03732)."""
        return (8 * self.rank) ** 0.5


MAIN = Student("LoRA rank 8, pictures and prompts")
OTHERS = (
    Student("LoRA rank 8, pictures alone", prompts=False),
    Student("control: data only, pictures and the ensemble's paintings", control=True),
    Student("LoRA rank 8, prompts alone", pictures=False),
    Student("control: data only, the ensemble's paintings alone", pictures=False, control=True),
    Student("control: teacher is the noise average", teacher=AVERAGE),
    Student("LoRA rank 8, pictures and prompts, a third of the steps", share=1 / 3),
    Student("LoRA rank 2, pictures and prompts", rank=2),
    Student("LoRA rank 32, pictures and prompts", rank=32),
    Student("LoRA of full rank, pictures and prompts", rank=FULL_RANK),
    Student("control: data only, pictures alone", prompts=False, control=True),
    Student("LoRA rank 8, pictures and prompts, three times the steps", share=3.0),
    Student("control: teacher is the oracle by place", teacher=ORACLE),
)
"""In the order of their importance."""


@dataclass
class School:
    """Trains students of so many steps. minutes: what each training took, without its labels, by the title of the row"""

    world: World
    steps: int
    quick: bool
    minutes: dict[str, float] = field(default_factory=dict)

    @property
    def lessons(self) -> lessons.Lessons:
        return lessons.QUICK if self.quick else lessons.FULL

    def teacher(self, name: str) -> System:
        if name == ORACLE:
            return fused(name, "", lambda world: TeachingOracle(world, self.lessons), self.world.experts)
        return ours(self.world) if name == OURS else static(name, name, self.world.experts)

    def row(self, student: Student, seed: int) -> System:
        """A student as one network, loaded by the host; it is trained where that is not done yet."""
        widgets = self._widgets(student, seed)
        teacher = [student.teacher, self.teacher(student.teacher).depends]
        lesson = [self.lessons.shown * student.pictures, [*self.lessons.captions] * student.prompts]
        name = f"distil_{fingerprint(self.world.digest, teacher, widgets, lesson)}"
        title = f"{'control' if student.control else 'student'} {name}"
        self.world.store.row(title, name, lambda: self._train(student, widgets, name))
        file = f"{name}-control-last.safetensors" if student.control else f"{name}-last.safetensors"
        self.minutes[student.title] = _minutes(Path(self.world.running.base, "models", "loras", file))

        def load(world: World) -> list:
            (start,) = world.call("AFAMergeModels", **world.sockets())
            return [world.call("LoraLoaderModelOnly", model=start, lora_name=file, strength_model=1.0)[0]]

        return System(student.title, "AFA Distill", 1, load, "student", [name, student.control])

    def _widgets(self, student: Student, seed: int) -> dict[str, Any]:
        """All but those that name files."""
        steps = dict.fromkeys(("steps", "evaluate_every"), round(student.share * self.steps))
        own = {"rank": student.rank, "alpha": student.alpha, "seed": seed, **steps}
        return {**defaults("AFADistill"), **SETTINGS, **(QUICKLY if self.quick else {}), **own}

    def _train(self, student: Student, widgets: dict[str, Any], name: str) -> dict[str, Any]:
        """A control is trained behind its student, which goes on from its end."""
        world = self.world
        (teacher,) = self.teacher(student.teacher).make(world)
        files = {
            "prompt_folder": str(self.lessons.pictures()) if student.pictures else "",
            "prompts": str(self.lessons.prompts()) if student.prompts else "",
            "save_as": name,
        }
        sockets = {"ensemble": teacher, "clip": world.clip, "vae": world.vae, "control": student.control}
        _, _, report = world.call("AFADistill", **{**widgets, **files, **sockets})
        world.running.release()
        return {"report": report}


def _minutes(lora: Path) -> float:
    """What training it took."""
    with safe_open(lora, "pt") as file:
        return json.loads(file.metadata()["afa_distil"])["seconds"] / 60


def ours(world: World) -> System:
    """The ensemble with the tables' aggregator: that of near experts is committed, others are trained from the first seed."""
    (found,) = [found for found in trained(world) if found.name == OURS]
    return ensemble(found, world.experts)
