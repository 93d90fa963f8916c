"""What distilling an ensemble is worth: python -m tests.pocket.distil [--steps N] [--minutes M] [--rows WORDS ...] [--quick]

Trains students through the node, measures every row's loss on held-out names and on those of the prompt list, and prints
a table. Finished rows are on disk, and a training that was cut off goes on, so that it can be run in parts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tests.support.widgets import defaults
from tests.tables.markdown import table
from tests.tables.store import Store, file_digest, fingerprint

from . import aggregator, assemble, common, data, folder, results

SETTINGS = {
    "resolution": common.SIZE, "batch_size": 32, "learning_rate": 1e-3, "warmup_steps": 25, "ema": 0.99, "evaluate_every": 100,
    "save_every": 100, "gradient_checkpointing": False, "paint_cfg": 3.0, "resume": "continue",
}  # fmt: skip
QUICKLY = {"paint_steps": 2, "labels_per_item": 1, "batch_size": 4}
MERGE, AVERAGE, AFA = "weighted merge", "noise average", "AFA"
MERGES = {
    MERGE: {}, "base + 1.5 (merge - base)": {"extrapolation": 1.5}, "MBW GRAD_V": {"preset": "GRAD_V"},
    "MBW SMOOTHSTEP": {"preset": "SMOOTHSTEP"},
}  # fmt: skip
MAIN = "LoRA rank 8, pictures and prompts"
FULL_RANK = 256
"""No weight of these networks has a higher one."""


@dataclass(frozen=True)
class Student:
    """control: the LoRA that learns the data alone; teacher: AFA or the noise average"""

    title: str
    pictures: bool = True
    prompts: bool = True
    rank: int = 8
    control: bool = False
    teacher: str = AFA


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
    """Students of so many steps, and what they are measured on."""

    def __init__(self, steps: int, quick: bool):
        self.running, self.steps, self.looks = aggregator.host(), steps, 1 if quick else results.LOOKS
        self.prompts = data.captions(folder.known_subjects(), common.HANDS)[: 12 if quick else None]
        self.settings = {**SETTINGS, **(QUICKLY if quick else {})}
        self.limit = 12 if quick else None
        weights = [assemble.digest(), file_digest(common.WEIGHTS / "aggregator.safetensors")]
        self.store = Store(common.WORK / "distil", {"weights": weights, "quick": quick})

    def call(self, node: str, **inputs) -> tuple:
        return self.running.call(node, **inputs)

    def sockets(self) -> dict[str, Any]:
        """The experts, fresh: nothing that a row does to weights reaches another."""
        return {f"model_{i}": parts[0] for i, parts in enumerate(aggregator.load_experts(self.running), start=1)}

    def merge(self, extrapolation: float = 1.0, **widgets):
        ((base, _, _),) = aggregator.load_experts(self.running, ["pocket_base"])
        return self.call("AFAMergeModels", **self.sockets(), base=base, extrapolation=extrapolation, **widgets)[0]

    def ensemble(self, name: str):
        if name == AVERAGE:
            (fusion,) = self.call("AFATrainingFreeFusion", method=AVERAGE)
        else:
            path = Path(self.running.base, "models", "afa", "shipped.safetensors")
            path.write_bytes((common.WEIGHTS / "aggregator.safetensors").read_bytes())
            (fusion,) = self.call("LoadAFAAggregator", aggregator_name=path.name)
        return self.call("AFAEnsembleModel", aggregator=fusion, **self.sockets())[0]

    def student(self, student: Student, seed: int):
        """(MODEL, what it depends on); trained where that is not done yet."""
        settings = {**self.settings, "rank": student.rank, "alpha": float(student.rank), "seed": seed, "steps": self.steps}
        depends = [self.store.common, student.teacher, settings, self.prompts * student.prompts, student.pictures]
        name = f"distil_{fingerprint(depends)}" + "_with" * student.control
        settings |= {"prompt_folder": str(folder.training()) if student.pictures else ""}
        settings |= {"prompts": str(self._prompts()) if student.prompts else ""}
        self.store.row(f"training {name}", name, lambda: self._train(student, settings, name))
        file = f"{name}-control-last.safetensors" if student.control else f"{name}-last.safetensors"
        return self.call("LoraLoaderModelOnly", model=self.merge(), lora_name=file, strength_model=1.0)[0], name

    def _prompts(self) -> Path:
        """The names of the set "known", whose pictures are not read."""
        path = common.WORK / f"distil_prompts_{len(self.prompts)}.txt"
        path.write_text("\n".join(self.prompts) + "\n")
        return path

    def _train(self, student: Student, settings: dict[str, Any], name: str) -> dict[str, Any]:
        _, clip, vae = aggregator.load_experts(self.running)[0]
        widgets = {**defaults("AFADistill"), **settings, "save_as": name, "control": student.control, "clip": clip, "vae": vae}
        report = self.call("AFADistill", **widgets, ensemble=self.ensemble(student.teacher))[2]
        self.running.release()
        return {"report": report}

    def losses(self, title: str, model: Callable[[], Any], pictures: Path, depends: Any) -> dict[str, Any]:
        """{"losses": one a picture and look, "subjects"}."""
        how = [depends, pictures.name, self.looks]
        return self.store.row(f"loss {title} {pictures.name}", how, lambda: self._measured(model(), pictures))

    def _measured(self, model, pictures: Path) -> dict[str, Any]:
        from afa_core.host.experts.experts import KEY, Expert
        from afa_core.host.sampling.parts import ensemble_of
        from afa_core.host.training.encoding import DatasetSettings, prepare_dataset
        from afa_core.host.training.frozen_experts import HostExperts, outside_inference
        from afa_core.host.training.teacher import Teacher
        from afa_core.training.data.prompt_folder import read_prompt_folder
        from afa_core.training.draw import held_out_draw
        from afa_core.training.objective import sample_loss
        from afa_core.training.tasks.distil import alone

        loaded = aggregator.load_experts(self.running)
        experts = [Expert(parts[0], f"model_{i}") for i, parts in enumerate(loaded)]
        settings = DatasetSettings(resolution=common.SIZE, batch_size=32, held_out=0.0, limit=self.limit)
        dataset = prepare_dataset(experts, *loaded[0][1:], read_prompt_folder(pictures), settings)
        everything = range(len(dataset.items))
        found, subjects = [], []
        with outside_inference(), torch.no_grad():
            if model.get_attachment(KEY):
                teacher = Teacher(ensemble_of(model).experts, model)
                teacher.load([32, 4, 8, 8])
                frozen, fusion = teacher.experts, teacher.fusion
            else:
                frozen, fusion = HostExperts([Expert(model, "model")]), alone
                frozen.load([32, 4, 8, 8])
            for look in range(self.looks):
                for start in range(0, len(everything), 32):
                    batch = dataset.batch_of(everything[start : start + 32])
                    own = replace(batch, texts=batch.texts[: len(frozen.labels)])
                    found += sample_loss(frozen, fusion, own, held_out_draw(batch, look)).tolist()
                    subjects += [dataset.items[item].caption.split(", ", 1)[1] for item in batch.items]
        self.running.release()
        return {"losses": found, "subjects": subjects}


def measured(bench: Bench, words: list[str], minutes: float, seeds: int) -> Iterator[tuple[str, list[dict]]]:
    """(title, {"losses", "subjects"} on every set) of the rows whose title has one of these words, and of merge and AFA."""
    sets = [folder.held_out(), folder.known()]
    started = time.monotonic()
    static = {name: lambda w=widgets: bench.merge(**w) for name, widgets in MERGES.items()}
    static |= {name: lambda n=name: bench.ensemble(n) for name in (AVERAGE, AFA)}
    for title, make in static.items():
        if title in (MERGE, AFA) or _asked(title, words):
            yield title, [bench.losses(title, make, pictures, "static") for pictures in sets]
    for seed in range(seeds):
        for student in STUDENTS:
            if _asked(student.title, words) and time.monotonic() - started < minutes * 60:
                _, name = bench.student(student, seed)
                make = lambda s=student, n=seed: bench.student(s, n)[0]  # noqa: E731
                yield student.title, [bench.losses(f"{student.title} {seed}", make, p, name) for p in sets]


def _asked(title: str, words: list[str]) -> bool:
    return not words or any(word in title for word in words)


def report(found: dict[str, list[dict]]) -> str:
    """Of every row its loss, how much lower it is than the merge's, and the share of the gap from merge to AFA."""
    subjects = found[MERGE][0]["subjects"]
    losses = {title: torch.tensor([row["losses"] for row in rows]) for title, rows in found.items()}
    merge, afa = (losses[name].mean(0) for name in (MERGE, AFA))
    lines = []
    for title, rows in losses.items():
        numbers = ", ".join(f"{seed:.4f}" for seed in rows.mean(1).tolist())
        change, low, high = results.interval(rows.mean(0) - merge, subjects)
        against = ["", ""] if title == MERGE else [f"{change:+.4f} ({low:+.4f} to {high:+.4f})", gap(merge, rows.mean(0), afa, subjects)]
        lines.append([title, numbers, *against])
    return table(["row", "loss (a number a seed)", "minus the merge (95 %)", "share of the gap (95 %)"], lines)


def gap(start: torch.Tensor, row: torch.Tensor, teacher: torch.Tensor, subjects: list[str]) -> str:
    from afa_core.training.tasks.distil import gap_closed, per_item

    known = sorted(set(subjects))
    places = [known.index(subject) for subject in subjects]
    share = gap_closed(*(per_item(losses, places) for losses in (start, row, teacher)))
    return f"{share[0]:.0%} ({share[1]:.0%} to {share[2]:.0%})" if share else "no gap"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--steps", type=int, default=500)
    ask.add_argument("--seeds", type=int, default=2)
    ask.add_argument("--minutes", type=float, default=600.0, help="after these no further student is begun")
    ask.add_argument("--rows", nargs="*", default=[], help="only rows whose title has one of these words")
    ask.add_argument("--quick", action="store_true", help="few pictures and prompts, to see that all of it runs")
    args = ask.parse_args()
    bench = Bench(args.steps, args.quick)
    held_out: dict[str, list[dict]] = {}
    known: dict[str, list[dict]] = {}
    for title, rows in measured(bench, args.rows, args.minutes, args.seeds):
        for found, row in zip((held_out, known), rows, strict=True):
            found.setdefault(title, []).append(row)
    for title, found in (("Names that nothing was trained on", held_out), ("Names of the prompt list", known)):
        print(f"\n## {title}, {args.steps} steps\n\n{report(found)}")
    print(f"\n{bench.store.minutes:.0f} minutes in all.")


if __name__ == "__main__":
    main()
