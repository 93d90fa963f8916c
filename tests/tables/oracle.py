"""Each half by its own expert: what knowing the place, and nothing else, is worth."""

from __future__ import annotations

from collections.abc import Sequence

from afa_core.fusion.fusion import Feature, Fusion, FusionState
from afa_core.fusion.points import FusionPoint
from tests.pocket.scenes.rows import oracle_by_place

ORACLE = "oracle by place"


class PlaceOracle:
    """In the form of a training-free fusion; domains: (left, right) of each pair of the batch that is asked."""

    def __init__(self) -> None:
        self.domains: list[tuple[str, ...]] = []

    def bind(self, points: list[FusionPoint], experts: int) -> Fusion:
        return self._fuse

    def _fuse(self, point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        batch = next(len(feature) for feature in features if feature is not None)
        # With guidance the host asks for prompts and negative prompts together, one after the other.
        times = batch // len(self.domains)
        return oracle_by_place(self.domains * times)(point, features, state)
