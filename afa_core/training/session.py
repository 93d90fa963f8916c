"""One training from its settings to its files: what to continue, what to refuse, and what is never lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..aggregator.file import AggregatorError
from ..atomic_file import SavingError
from .loop import Report, Stop, train, with_weights
from .resume import SUFFIX, differences, load_state, save_state, saved_fingerprint
from .state import Training, TrainingSettings, TrainingState
from .task import Data, Task

START_ANEW = "start anew"
RESUME = ("continue", "continue with changes", START_ANEW)
LAST = "-last"
SAVE_SECONDS = 300
"""So often a training is saved at least, however slow its steps are."""


class TrainingError(ValueError):
    """A training that cannot begin, in one sentence that says what to do."""


@dataclass(frozen=True)
class Keeping:
    """Where a training is kept, and how often.

    path: what it exports; its state lies beside it
    data: what is known of its data before they are prepared, by name
    """

    path: Path
    resume: str = RESUME[0]
    save_every: int = 100
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def state_path(self) -> Path:
        return self.path.with_suffix(SUFFIX)


def fit(
    task: Task, dataset: Data, settings: TrainingSettings, keeping: Keeping, listen: Callable[[Report], None]
) -> tuple[Any, TrainingState]:
    """Trains and exports: the best weights to keeping.path, the last ones beside it. Gives what was exported.

    `listen` is called after every step; it may raise Stop to end well here. Any other exception, an interruption
    or an error, passes through after the work has been saved; one in the middle of changing the weights
    leaves what was saved last.
    Raises TrainingError where an earlier training of this name is of other data, models or settings.
    """
    training = begin(task, dataset, settings, keeping)
    state, path = training.state, keeping.path
    begun, saved_step, saved_time = state.step, state.step, time.monotonic()

    def export(measured: dict[str, Any]) -> Any:
        return task.export(path, state.best or training.weights, history(training), measured)

    def keep() -> None:
        nonlocal saved_step, saved_time
        saved_step, saved_time = state.step, time.monotonic()
        save_state(training, keeping.state_path)
        task.export(path.with_stem(path.stem + LAST), training.weights, history(training), {})
        export({})

    def save() -> None:
        if state.step - saved_step >= keeping.save_every or time.monotonic() - saved_time >= SAVE_SECONDS:
            keep()

    try:
        if not state.finished or state.step < settings.steps:
            state.finished = ""
            train(training, listen, save)
    except Stop:
        state.finished = "stopped"
    except BaseException:
        try:
            if state.step > begun and not state.torn:  # before, there is nothing that the files do not hold
                keep()
        except (SavingError, AggregatorError) as lost:  # the first error is the one to show
            logging.error("%s", lost)
        raise
    finally:
        training.feed.close()
    keep()
    held_out = (batch.to(task.device) for batch in dataset.held_out_batches(settings.batch_size))
    return export(with_weights(task.module, state.best or training.weights, lambda: task.measure(held_out))), state


def check_continues(keeping: Keeping, known: dict[str, Any]) -> None:
    """Raises TrainingError, before data are prepared, where an earlier training of this name was of other settings or models, or
    its file is there and its state is not: then it is another's, or a result that would be lost.

    known: what is known by then of what a training belongs to
    """
    if keeping.resume == START_ANEW:
        return
    saved = _saved(keeping)
    if saved is None and keeping.path.exists():
        raise TrainingError(
            f"{keeping.path.name} is there already, without {keeping.state_path.name}, by which its training could go on: choose "
            f'another name, or set resume to "{START_ANEW}" to replace it.'
        )
    if saved is not None and keeping.resume == RESUME[0]:
        wanted = _fingerprint({**known, **keeping.data})
        _refuse(keeping, differences({name: saved.get(name) for name in wanted}, wanted))


def begin(task: Task, dataset: Data, settings: TrainingSettings, keeping: Keeping) -> Training:
    """A new training, or the earlier one of this name. Raises TrainingError."""
    if keeping.resume not in RESUME:
        raise TrainingError(f"resume should be one of {', '.join(RESUME)}, found {keeping.resume!r:.40}.")
    wanted = _fingerprint({**settings.to_json(), **task.identity(), **keeping.data, "data": dataset.digest})
    training = Training(task, dataset, settings, TrainingState(wanted))
    saved = None if keeping.resume == START_ANEW else _saved(keeping)
    if saved is None:
        return training
    if keeping.resume == RESUME[0]:
        _refuse(keeping, differences(saved, wanted))
    load_state(training, keeping.state_path)
    if any(saved.get(name) != wanted.get(name) for name in {*saved, *wanted}.difference(settings.to_json())):
        # Losses on other data or of other experts do not compare with those that follow.
        training.state = replace(training.state, evaluations=[], baselines={}, best={}, finished="")
    return training


def _saved(keeping: Keeping) -> dict[str, Any] | None:
    """The fingerprint of the earlier training; one of an earlier version has of its data their digest alone."""
    saved = saved_fingerprint(keeping.state_path)
    return saved and {**_fingerprint(keeping.data), **saved}


def _fingerprint(parts: dict[str, Any]) -> dict[str, str]:
    return {name: repr(value) for name, value in parts.items() if name != "steps"}


def _refuse(keeping: Keeping, changes: list[str]) -> None:
    if changes:
        raise TrainingError(
            f"{keeping.path.stem} was begun with other settings ({'; '.join(changes)}): choose another name, or set resume "
            'to "continue with changes" or "start anew".'
        )


def history(training: Training) -> dict[str, Any]:
    """How the weights came about, as JSON for the exported file."""
    state = training.state
    return {
        **training.settings.to_json(),
        "data": training.dataset.digest,
        "steps": state.step,
        "finished": state.finished,
        "baselines": state.baselines,
        "held_out": [[row["step"], row["held_out"]] for row in state.evaluations],
        "losses": state.losses[:: max(1, len(state.losses) // 500)],
        "seconds": round(state.seconds, 1),
    }
