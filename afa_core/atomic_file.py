"""Writing files so that a half-written one is never seen."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .untrusted import brief

ABANDONED = 3600
"""Seconds after which a draft without a write is what a crash left behind."""

WINDOWS_TRIES = 20


class SavingError(OSError):
    """A file that could not be written, in one sentence; what lay there is as before."""


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Gives a draft beside `path` to write, and moves it there at the end; on any failure the draft is removed.

    The draft is hidden and has a suffix of its own, so that no list of models ever shows it.
    durable: is still there after a power cut, at the price of waiting for the disk.
    Raises SavingError where the disk is full or the folder may not be written to.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        draft.touch()
        mode = draft.stat().st_mode
        yield draft
        os.chmod(draft, mode)  # a writer's own may be for its user alone
        if durable:
            with draft.open("rb+") as written:
                os.fsync(written.fileno())  # else a power cut may leave the name on an empty file
        _move(draft, path)
    except BaseException as error:
        with suppress(OSError):
            draft.unlink()
        if isinstance(error, (OSError, SafetensorError)):
            raise SavingError(
                f"{path.name} could not be saved in {path.parent} ({brief(error)}): make room there, or allow writing."
            ) from error
        raise


def _move(draft: Path, path: Path) -> None:
    """Windows refuses while another program, such as a virus scanner, has one of the two open for a moment."""
    for _ in range(WINDOWS_TRIES if os.name == "nt" else 0):
        with suppress(PermissionError):
            os.replace(draft, path)
            return
        time.sleep(0.1)
    os.replace(draft, path)


def check_writable(folder: Path) -> None:
    """Raises SavingError where no file can be made in a folder: to be called before the work, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SavingError(f"Nothing can be saved in {folder} ({brief(error)}): allow writing there.") from error


def write_safetensors(state: dict[str, Tensor], metadata: dict[str, str], path: Path, durable: bool = True) -> None:
    """One .safetensors. Raises SavingError where it cannot be written; `path` is then as before."""
    with replacing(path, durable) as draft:
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, draft, metadata)


def _remove_abandoned(path: Path) -> None:
    """Drafts of this file from a run that was killed while it wrote."""
    for draft in path.parent.glob(f".{escape(path.name)}.*.part"):
        with suppress(OSError):  # another run removes it at this moment
            if time.time() - draft.stat().st_mtime > ABANDONED:
                draft.unlink()
