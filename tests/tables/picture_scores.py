"""How good painted pairs are: which subjects they show, how like the real pair they are, and of the right distribution."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.pocket.scenes import judge

from .features import features, likeness
from .questions import PairList, halves

SHOWN = ("left right", "right right", "both right")
LIKENESS = "likeness (EfficientNet-lite0)"
DISTANCE = "distance (EfficientNet-lite0)"


def picture_scores(painted: Tensor, pairs: PairList) -> dict[str, Any]:
    """Scores of pictures [n, 64, 128, 3] of the list's pairs.

    left right, right right, both right: by pair, 1 where the judge finds the subject in its half, else 0
    likeness: by pair, mean cosine of both halves' features with those of the real ones
    distance: Frechet distance of all halves' features to those of the real ones
    """
    from afa_core.scoring.distribution import frechet_distance

    shown = judge.judged(painted.movedim(-1, 1), pairs.pairs)
    found = features(halves(painted))
    alike = likeness(found, pairs.real_features)
    verdicts = zip(SHOWN, (shown.left, shown.right, shown.both), strict=True)
    return {
        **{name: found.float().tolist() for name, found in verdicts},
        LIKENESS: alike.view(2, -1).mean(0).tolist(),
        DISTANCE: frechet_distance(found, pairs.real_features),
    }
