"""A call that pauses in its middle: how a forward pass of the host's becomes a stream without being written down again.

The call runs in a thread of its own, and exactly one of the two threads runs at a time.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
from torch import autocast

Pause = Callable[[Any], Any]
PAUSED, RETURNED, RAISED = range(3)
ABANDON = object()
AUTOCAST = ("cpu", "cuda", "xpu")


class Abandoned(BaseException):
    """Unwinds a call that is not resumed. Not an Exception: the host's code must not handle it."""


def paused(call: Callable[[Pause], Any], device: torch.device) -> Generator[Any, Any, Any]:
    """Yields what `call` hands to its argument, a function that returns what is sent; returns what `call` returns.

    The call has the caller's context variables, torch modes and stream of the device. What it raises, an
    interruption included, is raised here. Closing unwinds the call and waits for the end of its thread.
    """
    reports: SimpleQueue = SimpleQueue()
    answers: SimpleQueue = SimpleQueue()
    modes = _modes(device)

    def pause(value: Any) -> Any:
        reports.put((PAUSED, value))
        del value  # the caller's to free
        answer = answers.get()
        if answer is ABANDON:
            answers.put(ABANDON)  # for the next pause, should the host's code have gone on all the same
            raise Abandoned
        return answer

    def run() -> None:
        try:
            with modes():
                report = RETURNED, call(pause)
        except BaseException as error:
            report = RAISED, error
        reports.put(report)

    thread = Thread(target=contextvars.copy_context().run, args=(run,), name="AFA expert", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = reports.get()
            if kind == RETURNED:
                return value
            if kind == RAISED:
                raise value
            answer = yield value
            del value
            answers.put(answer)
            del answer
    finally:
        answers.put(ABANDON)
        thread.join()


def _modes(device: torch.device) -> Callable[[], AbstractContextManager]:
    """What torch keeps for every thread by itself, as it is in this one; for another thread to enter."""
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    kind = device.type
    # Older torch raises for devices that it has no autocast for.
    lower = torch.get_autocast_dtype(kind) if kind in AUTOCAST and torch.is_autocast_enabled(kind) else None
    streams = torch.get_device_module(device) if kind in ("cuda", "xpu") else None
    stream = streams and streams.current_stream(device)

    def enter() -> ExitStack:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(inference))
            stack.enter_context(torch.set_grad_enabled(gradients))
            if streams:
                stack.enter_context(streams.stream(stream))  # makes its device the current one as well
            if lower:
                stack.enter_context(autocast(kind, lower))
            return stack.pop_all()

    return enter
