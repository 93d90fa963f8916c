"""Writing files so that a half-written one is never seen."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a draft beside `path` to write, and moves it there at the end; on any failure the draft is removed.

    The draft is hidden and has a suffix of its own, so that no list of models ever shows it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        draft.touch()
        mode = draft.stat().st_mode
        yield draft
        os.chmod(draft, mode)  # a writer's own may be for its user alone
        with draft.open("rb+") as written:
            os.fsync(written.fileno())  # else a power cut may leave the name on an empty file
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def write_safetensors(state: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    """One .safetensors. Raises OSError or SafetensorError where it cannot be written; `path` is then as before."""
    with replacing(path) as draft:
        save_file(state, draft, metadata)
