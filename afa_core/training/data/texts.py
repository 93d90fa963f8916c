"""What the experts' networks take of the captions of one batch, whose lengths may differ: the empty one is the shortest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...fusion.fusion import at_one_length

Text = dict[str, Any]
"""Of one expert, by the host's names: c_crossattn [B, L, D], y [B, A] (None where its network takes none), ... Where
samples differ in length, a list of [1, L, D], one a sample."""


def joined(rows: Sequence[dict[str, Tensor]]) -> Text:
    """The texts of several samples as one."""
    parts = {name: [row[name] for row in rows if row[name] is not None] for name in rows[0]}
    return {name: _one(each) if each else None for name, each in parts.items()}


def changed(text: Text, change: Callable[[Tensor], Tensor]) -> Text:
    """A text with every tensor changed."""
    return {name: _changed(part, change) for name, part in text.items()}


def repeated(texts: Sequence[Text]) -> list[Text]:
    """All texts at one length, shorter ones repeated, as the host does: cross-attention gives the same result."""
    parts = [_each(text["c_crossattn"]) for text in texts]
    long = iter(at_one_length([part for each in parts for part in each]))
    return [{**text, "c_crossattn": _one([next(long) for _ in each])} for text, each in zip(texts, parts, strict=True)]


def rows_alike(texts: Sequence[Text], count: int) -> list[list[int]]:
    """The `count` samples of a batch in groups whose texts are of one length for every expert.

    Where text and picture share one attention, a repeated token counts twice: these groups are evaluated apart.
    """
    uneven = [part for text in texts for part in text.values() if isinstance(part, list)]
    groups = defaultdict(list)
    for row in range(count):
        groups[tuple(part[row].shape for part in uneven)].append(row)
    return list(groups.values())


def of_rows(text: Text, rows: Sequence[int]) -> Text:
    """The text of some samples of a batch."""
    return {name: None if part is None else picked(part, rows) for name, part in text.items()}


def picked(part: Tensor | list[Tensor], rows: Sequence[int]) -> Any:
    """Some samples of a batch, by slices: an index tensor would be copied to the device."""
    return _one([part[row] if isinstance(part, list) else part[row : row + 1] for row in rows])


def _one(parts: list[Tensor]) -> Tensor | list[Tensor]:
    return torch.cat(parts) if len({part.shape[1:] for part in parts}) == 1 else parts


def _each(part: Tensor | list[Tensor]) -> Sequence[Tensor]:
    return part if isinstance(part, list) else [part]


def _changed(part: Tensor | list[Tensor] | None, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(part, list):
        return [change(each) for each in part]
    return None if part is None else change(part)
