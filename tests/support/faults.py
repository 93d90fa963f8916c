"""Faults made on purpose, and a look at what they leave behind."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class FailingOperation(TorchDispatchMode):
    """Lets memory run out at one of the tensor operations inside; counts them."""

    def __init__(self, at: int | None = None):
        super().__init__()
        self.at, self.count = at, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self.at:
            raise out_of_memory()
        return function(*args, **(kwargs or {}))


@contextmanager
def interrupted(at: int | None = None) -> Iterator[list[int]]:
    """Presses Cancel at one of the moments at which the host asks whether it was; gives a list of those moments."""
    import comfy.model_management as memory

    asked: list[int] = []
    ask = memory.throw_exception_if_processing_interrupted

    def counting() -> None:
        asked.append(len(asked))
        if len(asked) == at:
            memory.interrupt_current_processing()
        ask()

    memory.throw_exception_if_processing_interrupted = counting
    try:
        yield asked
    finally:
        memory.throw_exception_if_processing_interrupted = ask


@contextmanager
def failing_module(module: torch.nn.Module, error: BaseException, at: int = 1) -> Iterator[None]:
    """Raises `error` in the `at`-th call of a module and all that follow."""
    calls: list[int] = []

    def fail(*_) -> None:
        calls.append(1)
        if len(calls) >= at:
            raise error

    hook = module.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()
    assert len(calls) >= at


@contextmanager
def counted(module: torch.nn.Module, calls: list) -> Iterator[None]:
    """Adds to `calls` whenever a module is called."""
    hook = module.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def nan_from(module: torch.nn.Module, first: int = 1, last: int = 10**9) -> Iterator[None]:
    """Makes NaN of one value of what a module gives, from its `first` call to its `last`."""
    calls: list[int] = []

    def spoil(module, inputs, output):
        calls.append(1)
        if first <= len(calls) <= last:
            output = output.clone()
            output[(-1,) * output.ndim] = float("nan")
        return output

    hook = module.register_forward_hook(spoil)
    try:
        yield
    finally:
        hook.remove()
    assert len(calls) >= first


@contextmanager
def full_disk(room: int = 1000) -> Iterator[None]:
    """No file can grow beyond so many bytes: what is written fails in the middle, whatever code writes it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def out_of_memory() -> BaseException:
    return torch.cuda.OutOfMemoryError("Allocation on device")


def interruption() -> type[BaseException]:
    import comfy.model_management

    return comfy.model_management.InterruptProcessingException


def tensor_bytes() -> int:
    """What all tensors that Python still holds take, each storage once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def traces(model) -> list[dict]:
    """Whatever a run could leave on an ensemble's patchers and networks."""
    return [_traces_of(patcher) for patcher in (model, *model.get_additional_models())]


def _traces_of(patcher) -> dict:
    modules = list(patcher.model.modules())
    return {
        "network": id(patcher.model),
        "patches": {key: len(patches) for key, patches in patcher.patches.items()},
        "object patches": sorted(patcher.object_patches),
        "options": _shape(patcher.model_options),
        "wrappers": _shape(patcher.wrappers),
        "callbacks": _shape(patcher.callbacks),
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules),
        "scheduled": (len(patcher.hook_backup), patcher.current_hooks is None),
        "running": getattr(patcher.model, "current_patcher", None) is not None,
    }


def _shape(value):
    """Keys and lengths of nested containers."""
    if isinstance(value, dict):
        return {str(key): _shape(part) for key, part in value.items()}
    return len(value) if isinstance(value, list) else type(value).__name__
