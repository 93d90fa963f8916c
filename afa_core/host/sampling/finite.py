"""Whether predictions are finite, asked without waiting for the device."""

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

LookAgain = Callable[[], Tensor]
"""Repeats an evaluation from its inputs, asking every feature. Raises NotFinite, which names what produced it."""


@dataclass
class Question:
    """Asked of one evaluation in a sampling step: whether its prediction is finite, where its input x was."""

    step: int
    answer: HostCopy
    x: Tensor
    look_again: LookAgain

    def has_gone_wrong(self) -> bool:
        return not math.isfinite(self.answer.wait()) and bool(torch.isfinite(self.x).all())


class FiniteCheck:
    """Asks every prediction of one sampling run whether it holds NaN or infinity.

    On the CPU the answer is there at once, and the second look's prediction is used. On a CUDA device answers are read
    in the next step, if they have arrived, else in the one after it; a prediction that had gone wrong ends the run.
    """

    def __init__(self) -> None:
        self.questions: deque[Question] = deque()
        self.lock = Lock()  # several GPUs have a thread each

    def check(self, step: int, prediction: Tensor, x: Tensor, look_again: LookAgain) -> Tensor:
        """The prediction [B, C, H, W] of an evaluation of x. Raises NotFinite, on CUDA up to two steps later."""
        # Of finite numbers the sum is finite; whatever an expert's share, its NaN is still there in the prediction.
        question = Question(step, HostCopy(prediction.sum(dtype=torch.float32)), x, look_again)
        if prediction.is_cuda:
            self.read_answers(step)  # all of this step is queued by now, so the GPU has work while the CPU waits
            self.questions.append(question)
        elif question.has_gone_wrong():
            return look_again()
        return prediction

    def read_answers(self, step: float = math.inf) -> None:
        """Raises NotFinite where an answer says so. step: the one that runs; without it every answer is waited for."""
        while question := self._next(step):
            if question.has_gone_wrong():
                question.look_again()
                raise NotFinite(
                    "An evaluation gave NaN or infinite numbers, and gave none when it was repeated: sample again; if it "
                    "happens again, look for a fault of the GPU or its memory."
                )

    def _next(self, step: float) -> Question | None:
        with self.lock:
            due = self.questions and (self.questions[0].step < step - 1 or self.questions[0].answer.has_arrived)
            return self.questions.popleft() if due else None
