"""Trainings in processes of their own, which are killed."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file

from tests.support.comfy.bootstrap import REPOSITORY
from tests.support.training_toys import computed_steps, same_weights

STEPS = 17
"""Of a training that is killed."""
Run = Callable[..., tuple[Any, Any]]
"""run(folder, steps, listen) -> (what was exported, state) of a training that is kept in `folder` as toy."""


def main(module: str, run: Run, load: Callable[[Path], Any]) -> None:
    """The command of a module: KILLS, by default 20; or "child" and a folder, which trains there slowly."""
    torch.set_num_threads(1)
    if sys.argv[1:2] != ["child"]:
        kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
        kill(module, run, load, kills)
        print(f"{kills} kills, each resumed to the same weights")
        return

    def slowly(report) -> None:
        print(report.state.step, flush=True)
        time.sleep(0.01)

    run(Path(sys.argv[2]), STEPS, slowly)


def kill(module: str, run: Run, load: Callable[[Path], Any], kills: int) -> None:
    """Kills a module's training at random moments: what lies there then is whole, and goes on, not anew, to the same weights.

    load: reads a file that the training exports, or raises
    """
    dice, ended, resumed = random.Random(5), 0, 0
    with TemporaryDirectory() as place:
        whole = Path(place, "whole")
        whole.mkdir()
        _, expected = run(whole, STEPS)
        for number in range(kills):
            folder = Path(place, f"run {number}")
            folder.mkdir()
            ended += killed(["-m", module, "child", str(folder)], dice.randint(1, STEPS), dice.uniform(0, 0.03))
            for visible in folder.glob("*.safetensors"):
                assert load(visible)
            begun = (folder / "toy.resume").exists()
            with computed_steps() as steps:
                _, state = run(folder, STEPS)
            assert (len(steps) < STEPS) == begun
            resumed += 0 < len(steps) < STEPS
            assert state.losses == expected.losses and state.evaluations == expected.evaluations
            for name in ("toy.safetensors", "toy-last.safetensors"):
                assert same_weights(load_file(folder / name), load_file(whole / name))
    assert ended, "every training had ended before it was killed"
    assert resumed, "every training was begun anew"


def killed(command: list[str], lines: int, seconds: float) -> bool:
    """Kills `python *command` so long after it wrote so many lines, as kill -9 does; whether it was still training then."""
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        assert all(process.stdout.readline() for _ in range(lines)), "it has not trained"
        time.sleep(seconds)
        process.kill()
    return process.returncode != 0
