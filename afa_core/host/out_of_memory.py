"""Running out of memory as an error that states what was running, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management


class OutOfMemory(comfy.model_management.OOM_EXCEPTION):
    """A subclass of the host's exception, on which the host unloads every model."""


SAMPLING = "make the picture or the batch smaller, ensemble fewer models, or start ComfyUI with --lowvram"
TRAINING = "lower batch_size or resolution, set gradient_checkpointing, or train on fewer models"


@contextmanager
def naming_what_ran(what: str, remedy: str) -> Iterator[None]:
    """Raises OutOfMemory, which says `what` did not fit, in place of the host's own."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{what} ran out of memory: {remedy}.") from error


def is_out_of_memory(error: Exception) -> bool:
    """Newer hosts also recognise the error of a GPU that reports it late."""
    if hasattr(comfy.model_management, "is_oom"):
        return comfy.model_management.is_oom(error)
    return isinstance(error, comfy.model_management.OOM_EXCEPTION)
