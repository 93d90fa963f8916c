"""A GPU that is not there: PyTorch's fake tensors of device "cuda", with what would run on one counted.

The real code runs; no number is computed. What it reads of a tensor comes from `numbers`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ONE_KERNEL = ("aten.scaled_dot_product_attention", "aten.upsample")
"""Of these PyTorch decomposes what a GPU does in one kernel."""


class Counts(TorchDispatchMode):
    """kernels: by operator; casts: kernels that change the dtype alone; waits: what makes the CPU wait for the GPU."""

    def __init__(self, numbers: Callable[[], float] = lambda: 1.0):
        super().__init__()
        self.numbers = numbers
        self.kernels: Counter[str] = Counter()
        self.casts = 0
        self.waits: Counter[str] = Counter()
        self.events: list[FakeEvent] = []

    def wait(self, why: str, until: FakeEvent | None = None) -> None:
        """The GPU has one queue: what was queued before has then happened too."""
        self.waits[why] += 1
        for event in self.events[: None if until is None else self.events.index(until) + 1]:
            event.done = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func)
        if func.namespace == "prim":
            return func(*args, **kwargs)
        if name.startswith(ONE_KERNEL[0]):
            self.kernels[name] += 1
            query = args[0].transpose(1, 2)  # its result lies as the flash kernels lay it
            return torch.empty_like(query, memory_format=torch.contiguous_format).transpose(1, 2)
        if not name.startswith(ONE_KERNEL) and _decomposes(func):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name == "aten._local_scalar_dense.default":
            if args[0].is_cuda:
                self.wait("item")
            return args[0].dtype is torch.bool or self.numbers()
        result = func(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._count(name, func, tensors, results, args, kwargs)
        return result

    def _count(self, name: str, func, tensors: list[Tensor], results: list[Tensor], args, kwargs) -> None:
        devices = {tensor.device.type for tensor in (*tensors, *results) if tensor.ndim or tensor.is_cuda}
        if "cuda" not in devices:
            return
        if name.startswith(("aten._to_copy", "aten.copy_")) and "cpu" in devices:
            non_blocking = kwargs.get("non_blocking") or (name.startswith("aten.copy_") and len(args) > 2 and args[2])
            if not non_blocking:
                self.wait("copy")
            return
        writes = any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)
        known = {tensor.untyped_storage()._cdata for tensor in tensors}
        is_view = any(r.alias_info is not None for r in func._schema.returns) or all(
            tensor.untyped_storage()._cdata in known for tensor in results
        )
        if results and "empty" not in name and (writes or not is_view):
            self.kernels[name] += 1
            self.casts += name.startswith("aten._to_copy")


class FakeEvent:
    """Has happened once something was waited for that was queued later, or this event was."""

    def __init__(self, counts: Counts):
        self.counts, self.done = counts, False

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self.counts.wait("event", until=self)


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Tensors are fake, and are made on the GPU where their device says so."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


@contextmanager
def counted(numbers: Callable[[], float] = lambda: 1.0) -> Iterator[Counts]:
    """Counts what happens on the fake GPU meanwhile."""
    from afa_core import host_copy

    counts = Counts(numbers)

    def recorded(device: torch.device) -> FakeEvent | None:
        if device.type != "cuda":
            return None
        counts.events.append(FakeEvent(counts))
        return counts.events[-1]

    def tolist(tensor: FakeTensor, real=FakeTensor.tolist) -> list:
        """In one copy, as PyTorch does it with a real one; of a fake one it would ask for every number."""
        return real(tensor.cpu())

    with patch.object(host_copy, "recorded", recorded), patch.object(FakeTensor, "tolist", tolist), counts:
        yield counts


def to_fake_gpu(module: torch.nn.Module, device: str = "cuda") -> None:
    """Weights and buffers of a module on the meta device, or any other, as tensors of the fake GPU. In fake_gpu()."""
    module._apply(lambda tensor: torch.empty_like(tensor, device=device))


def _decomposes(func) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
