"""The prompt folder that a node names: where it may lie, and reading it without hashing every picture again."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import time
from contextlib import suppress
from pathlib import Path

import comfy.model_management
import folder_paths
from comfy.cli_args import args

from ...atomic_file import SavingError, replacing
from ...training.data.prompt_folder import (
    PromptFolder,
    PromptFolderError,
    folder_stamp,
    picture_digest,
    read_prompt_folder,
)
from .cache import cache_folder

DATA_SETS = "afa_datasets"
"""An entry of extra_model_paths.yaml: folders that prompt folders may lie in, where the server listens to a network."""
SETTLED = 2 * 10**9
"""Nanoseconds after which a file that was written counts as finished: another write would change its time."""


def prompt_folder_path(text: str) -> Path:
    """The folder that was typed: relative to ComfyUI's input folder, or absolute. Raises PromptFolderError.

    Where the server listens to a network, every client that reaches it can type one: only ComfyUI's input folder and the
    folders that its owner lists are open then.
    """
    typed = Path(text.strip().strip('"'))
    if not text.strip():
        raise PromptFolderError(
            "No prompt folder is given: type the name of a folder in ComfyUI's input folder, or an absolute path."
        )
    if not typed.is_absolute() and ".." in typed.parts:
        raise PromptFolderError(f"The prompt folder {text} leads out of ComfyUI's input folder: type an absolute path.")
    path = Path(folder_paths.get_input_directory(), typed)  # an absolute one stays as it is
    listed = folder_paths.folder_names_and_paths.get(DATA_SETS, ([], set()))[0]
    if listens_to_a_network() and not any(
        _inside(path, root) for root in (folder_paths.get_input_directory(), *listed)
    ):
        raise PromptFolderError(
            f"The prompt folder {text} is not open, since this ComfyUI listens to a network: put it into ComfyUI's input "
            f"folder, or let its owner list its folder as {DATA_SETS} in extra_model_paths.yaml."
        )
    return path


def prompt_folder_stamp(text: str | None) -> str:
    """Changes with the contents of a prompt folder: without it the host would answer from its cache.

    text: None where another node gives it, which the host does not hand to fingerprints
    """
    if not (text and text.strip()):
        return ""

    def stop() -> None:  # without taking the interruption from the node that runs next
        if comfy.model_management.processing_interrupted():
            raise InterruptedError("interrupted")

    try:
        return folder_stamp(prompt_folder_path(text), stop)
    except (PromptFolderError, OSError) as error:
        return str(error)


def read_named_folder(text: str) -> PromptFolder:
    """The folder that was typed, read. Raises PromptFolderError, and the host's own exception on an interruption."""
    path = prompt_folder_path(text)
    known = KnownPictures(path)
    try:
        return read_prompt_folder(path, comfy.model_management.throw_exception_if_processing_interrupted, known.digest)
    finally:
        known.save()


def listens_to_a_network() -> bool:
    """Whether others than this machine can reach the server."""
    return not all(_is_loopback(address.strip()) for address in args.listen.split(","))


def _is_loopback(address: str) -> bool:
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _inside(path: Path, root: str) -> bool:
    """By its name first, so that no disk of another machine is read; then by where links lead."""
    named = Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))
    return named and path.resolve().is_relative_to(Path(root).resolve())


class KnownPictures:
    """Digests of a folder's pictures, kept beside the encoded ones: a picture is known by its path, time and size."""

    def __init__(self, root: Path):
        name = hashlib.sha256(str(root).encode()).hexdigest()[:24]
        self.file = cache_folder() / f"pictures_{name}.json"
        self.known: dict[str, list] = {}
        with suppress(OSError, ValueError):  # there is none, or a power cut has torn it: they are hashed again
            self.known = json.loads(self.file.read_text())
        self.new: dict[str, list] = {}

    def digest(self, picture: Path) -> str:
        """As picture_digest. Raises OSError."""
        stat = picture.stat()
        time_and_size = [stat.st_mtime_ns, stat.st_size]
        row = self.known.get(str(picture))
        if row and row[:2] == time_and_size:
            return row[2]
        digest = picture_digest(picture)
        if time.time_ns() - stat.st_mtime_ns > SETTLED:
            self.new[str(picture)] = [*time_and_size, digest]
        return digest

    def save(self) -> None:
        if self.new:
            with suppress(SavingError), replacing(self.file, durable=False) as draft:
                draft.write_text(json.dumps({**self.known, **self.new}))
