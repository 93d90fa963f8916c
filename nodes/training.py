"""What the nodes that train have in common: their listener, settings from widgets, and a check of the data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import comfy.model_management
import comfy.utils
from torch import Tensor

from ..afa_core.host.training.pictures import Progress
from ..afa_core.training.data.dataset import LatentDataset
from ..afa_core.training.data.prompt_folder import PromptFolder
from ..afa_core.training.data.split import FEWEST
from ..afa_core.training.loop import Report, Stop
from ..afa_core.training.session import TrainingError
from ..afa_core.training.task import Task
from .live import TrainingFeed

Settings = TypeVar("Settings")
stops: Counter[str] = Counter()
"""Stopped trainings, by save_as. In a node's fingerprint they let the next run go on: the host would answer from its cache."""


def of_widgets(settings: type[Settings], widgets: dict[str, Any]) -> Settings:
    """A dataclass of settings, from the widgets of its fields' names."""
    fields: Any = settings
    return settings(**{name: widgets[name] for name in fields.__dataclass_fields__ if name in widgets})


def times_stopped(save_as: str | None) -> int:
    """Of trainings of this name; of all where another node gives it, which the host does not hand to fingerprints."""
    return stops.total() if save_as is None else stops[save_as]


def file_name(name: str) -> str:
    """save_as as a file's stem. Raises TrainingError."""
    if not re.fullmatch(r"\w[\w .-]{0,99}", name):
        raise TrainingError(f"save_as should be a plain file name such as my_ensemble, found {name!r:.60}.")
    return name.removesuffix(".safetensors")


def check_enough(*folders: PromptFolder) -> None:
    """Raises TrainingError where nothing of these can be held out, or nothing trained on, before anything is encoded or painted.

    Each is of one kind.
    """
    listed = [[*map(folder.lists_as_held_out, folder.items)] for folder in folders]
    if any(map(all, listed)):
        raise TrainingError("held_out.txt names all pictures or prompts: take some out of it, so that there is something to train on.")
    if not any(map(any, listed)):
        usable = max(len({item.content or item.caption for item in folder.items}) for folder in folders)
        if usable < FEWEST:
            raise _too_few(usable)


def check_held_out(data: LatentDataset) -> None:
    """Raises TrainingError where nothing is held out: pictures that cannot be read were left out, or latents are too few."""
    if not data.held_out_count:
        raise _too_few(len({item.key for item in data.items}))


def _too_few(usable: int) -> TrainingError:
    return TrainingError(
        f"There are {usable} usable pictures and prompts, and training needs at least {FEWEST} of a kind, so that some can be "
        "held out to measure what is learnt."
    )


def preparation(feed: TrainingFeed | None = None) -> Progress:
    """Shows how far the data are prepared, on the node's bar and in the view of a training; Stop interrupts it."""
    bar = comfy.utils.ProgressBar(1)

    def progress(done: int, total: int, what: str) -> None:
        bar.update_absolute(done, total)
        if feed and feed.stop_requested:  # nothing is trained that the graph could go on with
            raise comfy.model_management.InterruptProcessingException
        if feed:
            feed.send(step=0, message=f"{what} {done} of {total}")

    return progress


def listener(
    feed: TrainingFeed, task: Task, widgets: dict[str, Any], paint: Callable[[], Tensor] | None = None
) -> Callable[[Report], None]:
    """Shows the progress, and ends the training on Stop or an interruption; before its first step, both are one.

    paint: makes the sample picture
    """
    bar = comfy.utils.ProgressBar(widgets["steps"])

    def listen(report: Report) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        state = report.state
        fields: dict[str, Any] = {}
        if report.seconds_per_step:  # an evaluation comes between steps, and has none of its own
            fields = {"loss": state.losses[-1], "seconds_per_step": report.seconds_per_step}
        if report.evaluation:
            fields |= {
                "held_out": report.evaluation["held_out"],
                "rivals": task.rivals(state.baselines),
                "shares": [*task.curves(report.evaluation, state.baselines).values()],
            }
        if paint and report.evaluation and state.step % widgets["sample_every"] == 0:
            fields["sample"] = paint()
        feed.send(step=state.step, **fields)
        bar.update_absolute(state.step, widgets["steps"])
        if feed.stop_requested and not state.step:
            raise comfy.model_management.InterruptProcessingException
        end_on_stop(feed, widgets["save_as"])

    return listen


def end_on_stop(feed: TrainingFeed, save_as: str) -> None:
    """Raises Stop where the button was pressed; the next run of this name goes on."""
    if feed.stop_requested:
        stops[save_as] += 1
        raise Stop
