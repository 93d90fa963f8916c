"""Finished rows on disk, each under a fingerprint of all that it depends on."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from afa_core.atomic_file import replacing


class Store:
    """One JSON file a row, whole at every moment.

    common: what every row depends on; a row of other weights or settings has another name, and is not found
    """

    def __init__(self, folder: Path, common: dict[str, Any]):
        self.folder = folder
        self.common = common
        self.rows: dict[Path, float] = {}

    def row(self, name: str, depends: Any, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row of this name, measured only where it is not there yet; `seconds` is what measuring took."""
        path = self.folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}-{fingerprint(self.common, depends)}.json"
        if not path.exists():
            started = time.perf_counter()
            row = {**measure(), "seconds": round(time.perf_counter() - started, 1)}
            with replacing(path) as draft:
                draft.write_text(json.dumps(row))
            print(f"{name}: {row['seconds']} s", flush=True)
        row = json.loads(path.read_text())
        self.rows[path] = row["seconds"]
        return row

    @property
    def minutes(self) -> float:
        """What measuring the rows took that were asked for."""
        return sum(self.rows.values()) / 60


def fingerprint(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
