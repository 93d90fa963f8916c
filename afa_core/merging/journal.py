"""A search that can be stopped and continued: what was tried is on disk, with the best recipe so far."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from ..atomic_file import replacing
from .recipe import MergeError
from .search import SearchSpace, Strategy, Vector

FORMAT = "afa-auto-merge 1"


class Journal:
    """Scores of every recipe that was tried, in one JSON file that is whole at every moment.

    identity: what the scores depend on (models, prompts, sampler, scorer): a file of another search is not read
    """

    def __init__(self, path: Path, space: SearchSpace, identity: dict[str, Any]):
        self.path = path
        self.space = space
        self.identity = identity
        self.tried: dict[Vector, list[float]] = self._read()

    def _read(self) -> dict[Vector, list[float]]:
        if not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT or content["identity"] != self.identity:
                return {}
            return {tuple(entry["taken"]): entry["scores"] for entry in content["tried"]}
        except (ValueError, KeyError, TypeError) as error:
            raise MergeError(f"{self.path.name} is damaged: delete it, or choose another name in save_as.") from error

    def add(self, vector: Vector, scores: list[float]) -> None:
        self.tried[vector] = scores
        content = {
            "format": FORMAT,
            "identity": self.identity,
            "best": {
                "score": self.score(self.best),
                "block_weights": self.space.recipe(self.best).table().splitlines(),
            },
            "tried": [{"taken": vector, "scores": scores} for vector, scores in self.tried.items()],
        }
        with replacing(self.path) as draft:
            draft.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def score(self, vector: Vector) -> float:
        return fmean(self.tried[vector])

    @property
    def best(self) -> Vector:
        """What has the highest mean score; of equals the first."""
        return max(self.tried, key=self.score)


def run_search(
    strategy: Strategy,
    journal: Journal,
    evaluate: Callable[[Vector], list[float]],
    budget: int,
    progress: Callable[[int], None] = lambda tried: None,
) -> None:
    """Evaluates what the strategy yields, up to `budget` recipes, those of an earlier run included.

    What the journal holds is not evaluated again, so that a search that was stopped goes on where it was, and one
    that has ended goes on with a larger budget. Whatever `evaluate` raises, all before it is on disk.
    """
    try:
        vector = next(strategy)
        while vector in journal.tried or len(journal.tried) < budget:
            if vector not in journal.tried:
                journal.add(vector, evaluate(vector))
                progress(len(journal.tried))
            vector = strategy.send(journal.tried[vector])
    except StopIteration:
        return
