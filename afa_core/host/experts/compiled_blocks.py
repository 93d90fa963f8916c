"""Blocks that the host compiled, by a node that names them one by one (its set_torch_compile_wrapper with keys).

The host puts them into a network for one call of its `apply_model`. An ensemble calls that of its first expert only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

KEY = "torch.compile"
"""Of the host's wrapper."""


@dataclass(frozen=True)
class _Executor:
    """What a wrapper is called with."""

    class_obj: BaseModel
    run: Callable[[], Any]

    def __call__(self) -> Any:
        return self.run()


def compiled_parts(patcher: ModelPatcher) -> list[str]:
    """The names of the modules that were compiled for a model; "diffusion_model" is the whole network."""
    return [
        name
        for wrapper in _wrappers(patcher)
        for name in inspect.getclosurevars(wrapper).nonlocals.get("compiled_module_dict", ("diffusion_model",))
    ]


def with_compiled_blocks(patchers: Iterable[ModelPatcher], run: Callable[[], Any]) -> Any:
    """What `run` gives while the compiled blocks of these models are in their networks."""
    for patcher in patchers:
        for wrapper in _wrappers(patcher):
            run = partial(wrapper, _Executor(patcher.model, run))
    return run()


def without_compiled_blocks(patcher: ModelPatcher) -> None:
    """For a model whose network is a copy: the blocks that were compiled are the original's."""
    patcher.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, KEY)


def _wrappers(patcher: ModelPatcher) -> list[Callable]:
    return patcher.wrappers.get(WrappersMP.APPLY_MODEL, {}).get(KEY, [])
