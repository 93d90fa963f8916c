"""Where NaN and infinity come from: an evaluation that went wrong is repeated, feature by feature."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .fusion import Feature, Fusion, FusionState
from .points import FusionPoint


class NotFinite(RuntimeError):
    """An expert or the aggregator produced NaN or infinity; says which, in which block and when."""


def checking_every_feature(fusion: Fusion, labels: Sequence[str], when: str) -> Fusion:
    """The fusion, but raising NotFinite at the first feature that is not finite.

    For a second evaluation only: it reads a flag for every feature, and on a GPU each read waits for all queued work.
    labels: one an expert that runs; when: the end of "... in block input 3 " as the error states it.
    """

    def fuse(point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        for label, feature in zip(labels, features, strict=True):
            if feature is not None and not torch.isfinite(feature).all():
                raise NotFinite(
                    f"{label} produced NaN or infinite numbers in block {point.name} {when}: run this checkpoint alone "
                    "to see whether it is sound, or start ComfyUI with --force-upcast-attention or --fp32-unet."
                )
        inputs = fusion(point, features, state)
        if not all(torch.isfinite(x).all() for x in inputs if x is not None):
            raise NotFinite(
                f"The aggregator produced NaN or infinite numbers at {point.name} {when}: load another aggregator, or "
                "train this one again."
            )
        return inputs

    return fuse
