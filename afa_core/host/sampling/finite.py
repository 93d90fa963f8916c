"""Whether predictions are finite, checked without waiting for the device."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from ...fusion.not_finite import NotFinite
from ...host_copy import HostCopy

Repeat = Callable[[], Tensor]
"""Repeats an evaluation from its inputs, checking every feature. Raises NotFinite, which names what produced it."""


@dataclass
class PendingCheck:
    """One evaluation in a sampling step: the sum of its prediction, and its input x."""

    step: int
    total: HostCopy
    x: Tensor
    repeat: Repeat

    def has_gone_wrong(self) -> bool:
        """Whether the prediction is not finite, and its input was. Waits for the sum."""
        return not math.isfinite(self.total.wait()) and bool(torch.isfinite(self.x).all())


class FiniteCheck:
    """Checks every prediction of one sampling run for NaN and infinity.

    On the CPU a sum is there at once, and the repeated evaluation's prediction is used. On a CUDA device sums are read
    in the next step, if they have arrived, else in the one after it; a prediction that had gone wrong ends the run.
    """

    def __init__(self) -> None:
        self.pending: deque[PendingCheck] = deque()
        self.lock = Lock()  # several GPUs have a thread each

    def check(self, step: int, prediction: Tensor, x: Tensor, repeat: Repeat) -> Tensor:
        """The prediction [B, C, H, W] of an evaluation of x. Raises NotFinite, on CUDA up to two steps later."""
        # Of finite numbers the sum is finite; whatever an expert's share, its NaN is still there in the prediction.
        check = PendingCheck(step, HostCopy(prediction.sum(dtype=torch.float32)), x, repeat)
        if prediction.is_cuda:
            self.read_sums(step)  # all of this step is queued by now, so the GPU has work while the CPU waits
            self.pending.append(check)
        elif check.has_gone_wrong():
            return repeat()
        return prediction

    def read_sums(self, step: float = math.inf) -> None:
        """Raises NotFinite where a prediction had gone wrong. step: the one that runs; without it every sum is waited for."""
        while check := self._next(step):
            if check.has_gone_wrong():
                check.repeat()
                raise NotFinite(
                    "An evaluation gave NaN or infinite numbers, and gave none when it was repeated: sample again; if it "
                    "happens again, look for a fault of the GPU or its memory."
                )

    def _next(self, step: float) -> PendingCheck | None:
        with self.lock:
            due = self.pending and (self.pending[0].step < step - 1 or self.pending[0].total.has_arrived)
            return self.pending.popleft() if due else None
