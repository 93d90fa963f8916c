"""The last results of the viewers, which are still there after a reload of the page and a restart of ComfyUI."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import folder_paths

from ..afa_core.atomic_file import SavingError, replacing
from ..afa_core.digests import json_digest

COMPARISON, CHOICES = "afa.comparison", "afa.choices"

MOST = 32
"""Results of a kind that are kept, the newest; one of a routing viewer has half a megabyte."""

MOST_CHOICES = 10_000


def workflow_id(extra_pnginfo: dict | None) -> str:
    """The id of the workflow that was queued; empty where a graph came without one."""
    return str(((extra_pnginfo or {}).get("workflow") or {}).get("id", ""))


def keep(kind: str, workflow: str, node_id: str, data: dict[str, Any]) -> bool:
    """Replaces the last result of a node. Where it cannot be written, that is logged: a view is not worth a render."""
    path = _file(kind, workflow, node_id)
    try:
        with replacing(path, durable=False) as draft:
            draft.write_text(json.dumps(data), encoding="utf-8")
    except SavingError as error:
        logging.warning("AFA: %s", error)
        return False
    if kind == CHOICES:  # small, and made by hand
        return True
    with suppress(OSError):  # the browser may be reading one
        newest = sorted(path.parent.glob(f"{kind}_*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in newest[MOST:]:
            old.unlink()
    return True


def kept(kind: str, workflow: str, node_id: str) -> dict[str, Any] | None:
    """The last result of a node, or None."""
    try:
        return json.loads(_file(kind, workflow, node_id).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a power cut can leave a torn file: nothing is lost but a view
        return None


def kept_comparison(workflow: str, node_id: str) -> dict[str, Any] | None:
    """The last comparison of a node, and the blind choices that were made between these checkpoints.

    None without its pictures, which the host deletes when it starts; the choices come back with the next comparison.
    """
    shown = kept(COMPARISON, workflow, node_id)
    if shown is None or not _is_there(shown["grid"]):
        return None
    return {"shown": shown, "choices": _choices(workflow, node_id, shown["subject"])}


def keep_choices(workflow: str, node_id: str, subject: list, choices: list) -> bool:
    """Adds to the choices of a node's last comparison; False where it has none, or one of other checkpoints.

    A page sends all of its own each time: another page may have made others since.
    """
    shown = kept(COMPARISON, workflow, node_id)
    if shown is None or shown["subject"] != subject:
        return False
    made = {json.dumps(choice): choice for choice in [*_choices(workflow, node_id, subject), *choices]}
    return keep(CHOICES, workflow, node_id, {"subject": subject, "choices": list(made.values())[:MOST_CHOICES]})


def _choices(workflow: str, node_id: str, subject: list) -> list:
    last = kept(CHOICES, workflow, node_id)
    return last["choices"] if last and last["subject"] == subject else []


def _is_there(picture: dict[str, str]) -> bool:
    """Whether a picture of PreviewImage still lies among the host's temporary files."""
    return Path(folder_paths.get_temp_directory(), picture["subfolder"], picture["filename"]).exists()


def _file(kind: str, workflow: str, node_id: str) -> Path:
    key = json_digest([workflow, node_id])[:24]
    return Path(folder_paths.get_system_user_directory("afa"), "results", f"{kind}_{key}.json")
