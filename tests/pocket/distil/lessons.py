"""What students learn from: pictures with captions, and a prompt list that the ensemble paints (PROTOCOL.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from afa_core.atomic_file import replacing
from tests.pocket import common
from tests.pocket.scenes import pairs
from tests.tables import learners

COVERED, OUTSIDE, KNOWN = "watched_experts_only", "watched_unseen", "watched_known"
"""Lists that rows are measured on: pairs of the prompt list, pairs outside it, and pairs that the start knows."""
WATCHED_EVERY = 5
"""Every so manieth of the learners' prompts is held out by the node, and none of the covered ones."""


@dataclass(frozen=True)
class Lessons:
    """How much there is to learn from.

    shown:   pairs of the aggregator's subjects, as pictures
    others:  further ones, in the prompt list beside the captions of COVERED
    covered: of COVERED, the first so many; 0 is all
    """

    shown: int = 120
    others: int = 20
    covered: int = 0

    def pictures(self) -> Path:
        return learners.folder(self.shown)

    @property
    def captions(self) -> tuple[list[str], list[str]]:
        """Of the prompt list's learners, and of its covered pairs; of the latter no picture is read."""
        own = learners.learnt(self.shown + self.others)[self.shown :]
        covered = pairs.load(COVERED)[: self.covered or None]
        return [*map(learners.caption, own)], [*map(learners.caption, covered)]

    def prompts(self) -> Path:
        """The prompt list as a folder, with the captions that the node holds out."""
        own, covered = self.captions
        folder = common.WORK / "distil" / f"prompts_{self.shown}_{len(own)}_{len(covered)}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, captions in {"prompts": [*own, *covered], "held_out": own[::WATCHED_EVERY]}.items():
            with replacing(folder / f"{name}.txt") as draft:
                draft.write_text("\n".join(captions) + "\n")
        return folder


FULL = Lessons()
QUICK = Lessons(shown=12, others=10, covered=4)
LISTS = {
    COVERED: "prompt list",
    OUTSIDE: "outside it",
    KNOWN: "known to all",
}
