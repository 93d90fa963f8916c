"""What distilling an ensemble is worth: python -m tests.pocket.distil [--steps N] [--minutes M] [--rows WORDS ...] [--quick]

Trains students through the node, measures every row's loss on held-out names and on those of the prompt list, and prints
a table. Finished rows are on disk, and a training that was cut off goes on, so that it can be run in parts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.tables import systems, trainings, world
from tests.tables.budget import FULL, QUICK
from tests.tables.markdown import table
from tests.tables.measure import Rows, loss_rows
from tests.tables.questions import PictureSet, picture_sets
from tests.tables.statistics import difference, mean
from tests.tables.store import fingerprint

from . import assemble, common, data, folder

SETTINGS = {
    "resolution": common.SIZE, "batch_size": 32, "learning_rate": 1e-3, "warmup_steps": 25, "ema": 0.99, "evaluate_every": 100,
    "save_every": 100, "gradient_checkpointing": False, "paint_cfg": 3.0, "resume": "continue",
}  # fmt: skip
QUICKLY = {"paint_steps": 2, "labels_per_item": 1, "batch_size": 4}
MERGE, EXTRAPOLATED, AVERAGE = "weighted merging", "base + 1.5 (merge - base)", "noise average"
MAIN = "LoRA rank 8, pictures and prompts"
FULL_RANK = 256
"""No weight of these networks has a higher one."""


@dataclass(frozen=True)
class Student:
    """control: the LoRA that learns the data alone; teacher: a row of the tables"""

    title: str
    pictures: bool = True
    prompts: bool = True
    rank: int = 8
    control: bool = False
    teacher: str = systems.AFA


STUDENTS = (
    Student(MAIN),
    Student("LoRA rank 8, pictures alone", prompts=False),
    Student("LoRA rank 8, prompts alone", pictures=False),
    Student("control: data only, pictures and the ensemble's paintings", control=True),
    Student("control: data only, pictures alone", prompts=False, control=True),
    Student("control: data only, the ensemble's paintings alone", pictures=False, control=True),
    Student("control: teacher is the noise average", teacher=AVERAGE),
    Student("LoRA rank 2, pictures and prompts", rank=2),
    Student("LoRA rank 32, pictures and prompts", rank=32),
    Student("LoRA of full rank, pictures and prompts", rank=FULL_RANK),
)


class Bench:
    """Students of so many steps, in the world of the paper's tables."""

    def __init__(self, steps: int, seeds: int, quick: bool):
        self.world = world.start(QUICK if quick else FULL)
        self.steps, self.seeds = steps, seeds
        self.sets = picture_sets(self.world)
        self.prompts = data.captions(folder.known_subjects(), common.HANDS)[: 12 if quick else None]
        self.settings = {**SETTINGS, **(QUICKLY if quick else {})}

    def static(self) -> list[systems.System]:
        """In the order of their cost: those that are searched for come last."""
        merges = [row for row in systems.systems(self.world) if row.node.startswith("AFA Merge") or "Auto" in row.node]
        return [*merges[:1], systems.System(EXTRAPOLATED, "AFA Merge Models", 1, self._extrapolated), *merges[1:]]

    def ensembles(self) -> list[systems.System]:
        return [row for row in systems.systems(self.world) if row.name in (AVERAGE, systems.AFA)]

    def student(self, student: Student, seed: int) -> systems.System:
        """Trains it, where that is not done yet."""
        settings = {**self.settings, "rank": student.rank, "alpha": float(student.rank), "seed": seed, "steps": self.steps}
        pictures = trainings._pictures() if student.pictures else None
        depends = [assemble.digest(), world.shipped_digest(), student.teacher, settings, self.prompts if student.prompts else []]
        depends.append(trainings._digest(pictures) if pictures else "")
        name = f"distil_{fingerprint(depends)}"
        if student.control:
            name = f"{name}_with"
        settings |= {"prompt_folder": str(pictures or ""), "prompts": str(self._prompts()) if student.prompts else ""}
        self.world.store.row(f"training {name}", name, lambda: self._train(student, settings, name))
        file = f"{name}-control-last.safetensors" if student.control else f"{name}-last.safetensors"

        def make(w: world.World) -> list:
            merge = self.merged()
            return [w.call("LoraLoaderModelOnly", model=merge, lora_name=file, strength_model=1.0)[0]]

        return systems.System(f"{student.title}, seed {seed}", "AFA Distil", 1, make, name)

    def merged(self):
        return self.world.call("AFAMergeModels", **self.world.sockets())[0]

    def _extrapolated(self, w: world.World) -> list:
        return [w.call("AFAMergeModels", **w.sockets(), base=w.load(world.BASE)[0], extrapolation=1.5)[0]]

    def _prompts(self) -> Path:
        """The names of the set "known", whose pictures are not read."""
        path = world.FOLDER / f"known_prompts_{len(self.prompts)}.txt"
        path.write_text("\n".join(self.prompts) + "\n")
        return path

    def _train(self, student: Student, settings: dict[str, Any], name: str) -> dict[str, Any]:
        (ensemble,) = next(row for row in self.ensembles() if row.name == student.teacher).make(self.world)
        inputs = self.world.running.nodes.NODE_CLASS_MAPPINGS["AFADistill"].INPUT_TYPES()["required"]
        widgets = {key: spec[1]["default"] for key, spec in inputs.items() if "default" in (*spec, {})[1]}
        report = self.world.call(
            "AFADistill", **{**widgets, **settings}, ensemble=ensemble, clip=self.world.clip, vae=self.world.vae,
            save_as=name, control=student.control,
        )[2]  # fmt: skip
        self.world.running.release()
        return {"report": report, **history(self.world.running.base / "models" / "loras" / f"{name}.safetensors")}


def history(lora: Path) -> dict[str, Any]:
    """Seconds of training, and the held-out loss after so many steps."""
    from safetensors import safe_open

    with safe_open(lora, "pt") as file:
        found = json.loads(file.metadata()["afa_distil"])
    return {"training_seconds": found["seconds"], "held_out": found["held_out"]}


def measured(bench: Bench, titles: list[str], minutes: float) -> Iterator[tuple[str, list[Rows]]]:
    """(title, what was measured on every set, a row a seed) of the rows whose title has one of these words."""
    started = time.monotonic()
    for row in (*bench.ensembles(), *bench.static()):
        if row.name in (MERGE, systems.AFA) or _asked(row.name, titles):
            yield row.name, [loss_rows(bench.world, [row], pictures) for pictures in bench.sets]
    for seed in range(bench.seeds):
        for student in STUDENTS:
            if _asked(student.title, titles) and time.monotonic() - started < minutes * 60:
                row = bench.student(student, seed)
                yield student.title, [loss_rows(bench.world, [row], pictures) for pictures in bench.sets]


def _asked(title: str, words: list[str]) -> bool:
    return not words or any(word in title for word in words)


def report(bench: Bench, found: dict[str, list[list[float]]], pictures: PictureSet) -> str:
    """Of every row its loss, how much lower it is than the merge's, and the share of the gap from merge to AFA."""
    subjects = [picture.subject for picture in pictures.pictures]
    losses = {title: [mean(list(each)) for each in zip(*rows, strict=True)] for title, rows in found.items()}
    lines = []
    for title, row in losses.items():
        share = gap(losses[MERGE], row, losses[systems.AFA], subjects) if title != MERGE else ""
        seeds = ", ".join(f"{mean(each):.4f}" for each in found[title])
        lines.append([title, seeds, str(difference(row, losses[MERGE], subjects)) if title != MERGE else "", share])
    return table(["row", "loss (a number a seed)", "minus the merge (95 %)", "share of the gap (95 %)"], lines)


def gap(start: list[float], row: list[float], teacher: list[float], subjects: list[str]) -> str:
    from afa_core.training.tasks.distil import gap_closed, per_item

    known = sorted(set(subjects))
    places = [known.index(subject) for subject in subjects] * (len(start) // len(subjects))
    share = gap_closed(*(per_item(torch.tensor(losses), places) for losses in (start, row, teacher)))
    return f"{share[0]:.0%} ({share[1]:.0%} to {share[2]:.0%})" if share else "no gap"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--steps", type=int, default=500)
    ask.add_argument("--seeds", type=int, default=2)
    ask.add_argument("--quick", action="store_true", help="few pictures and prompts, to see that all of it runs")
    ask.add_argument("--minutes", type=float, default=600.0, help="after these no further student is begun")
    ask.add_argument("--rows", nargs="*", default=[], help="only rows whose title has one of these words")
    args = ask.parse_args()
    bench = Bench(args.steps, args.seeds, args.quick)
    found: list[dict[str, list[list[float]]]] = [{} for _ in bench.sets]
    for title, rows in measured(bench, args.rows, args.minutes):
        for place, each in enumerate(rows):
            found[place].setdefault(title, []).extend(row["losses"] for row in each.values())
    for pictures, rows in zip(bench.sets, found, strict=True):
        print(f"\n## {pictures.title}, {args.steps} steps\n\n{report(bench, rows, pictures)}")
    print(f"\n{bench.world.store.minutes:.0f} minutes in all.")


if __name__ == "__main__":
    main()
