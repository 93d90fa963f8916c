"""A folder of prompts, with or without pictures: what training and the probe learn from.

Understands pictures with a text file of the same name, kohya's `10_name` folders, `metadata.jsonl`, and
text files alone. What cannot be used is reported and left out, never fatal.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ...digests import json_digest
from .pictures import OTHER_PICTURES, PICTURES, PictureError, picture_size

CAPTIONS = (".txt", ".caption")
METADATA = "metadata.jsonl"
HELD_OUT = "held_out.txt"
EXPECTED = (
    "put pictures (png, jpg, jpeg, webp, bmp) with a .txt of the same name into it, a metadata.jsonl with file_name "
    "and text, or .txt files with one prompt a line"
)
MOST_FILES = 200_000
"""Files and folders that are listed at most: a mistyped path would list a whole disk."""
LONGEST_CAPTION = 2**16
LONGEST_LIST = 2**26
"""Bytes that are read of a caption, and of a list of prompts or metadata.jsonl."""

_REPEATS = re.compile(r"([1-9]\d{0,2})_(.+)")
_NOT_PROMPTS = re.compile(r"(readme|licen[cs]e|credits)\b", re.IGNORECASE)


class PromptFolderError(ValueError):
    """A folder that nothing can be learnt from, in one sentence that says what was expected."""


@dataclass(frozen=True)
class PromptItem:
    """One caption, and the picture it describes where there is one.

    name:    the picture's path below the folder, or the text file's with its line
    content: hash of the picture's bytes; empty without one
    domain:  the first sub-folder, without kohya's number; empty at the root
    size:    width and height in pixels; None without a picture
    """

    path: Path | None
    caption: str
    repeats: int = 1
    name: str = ""
    content: str = ""
    domain: str = ""
    size: tuple[int, int] | None = None


@dataclass
class PromptFolder:
    """held_out: captions and file names that the folder's held_out.txt keeps from training."""

    root: Path
    items: list[PromptItem] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    held_out: frozenset[str] = frozenset()

    @property
    def has_pictures(self) -> bool:
        return any(item.path is not None for item in self.items)

    @property
    def digest(self) -> str:
        """SHA-256 over the names, contents, captions and repeats of what is learnt from."""
        rows = sorted([i.name, i.size, i.content, i.caption, i.repeats] for i in self.items)
        return json_digest([rows, sorted(self.held_out)])

    def lists_as_held_out(self, item: PromptItem) -> bool:
        """Whether held_out.txt names it: by its caption, its path, its file name, or that without the ending."""
        path = PurePosixPath(item.name)
        return not self.held_out.isdisjoint({item.caption, item.name, path.name, path.stem})


def picture_digest(file: Path) -> str:
    """A hash of a file's bytes: `PromptItem.content`."""
    digest = hashlib.blake2b(digest_size=32)
    with file.open("rb") as data:
        while block := data.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def read_prompt_folder(
    path: str | Path,
    tick: Callable[[], None] = lambda: None,
    digest: Callable[[Path], str] = picture_digest,
) -> PromptFolder:
    """Reads a folder, or a single text file with a prompt a line.

    `tick` is called for every file, so that a caller can interrupt; `digest` may have the pictures' from before.
    Raises PromptFolderError where nothing is left to learn from.
    """
    root = Path(path)
    if not root.exists():
        raise PromptFolderError(f"The prompt folder {root} does not exist: make it, and {EXPECTED}.")
    folder = PromptFolder(root if root.is_dir() else root.parent)
    files = _files(folder, tick) if root.is_dir() else [root]
    listed = next((file for file in files if file == root / HELD_OUT), None)
    if listed is not None:
        folder.held_out = frozenset(_lines(folder, listed))
    kinds = PICTURES.keys() | OTHER_PICTURES
    if root.is_dir() and any(file.suffix.lower() in kinds for file in files):
        _read_pictures(folder, files, tick, digest)
    else:
        _read_prompts(folder, files)
    folder.items.sort(key=lambda item: item.name)
    if not folder.items:
        left_out = "".join(f"; {name} {reason}" for name, reason in folder.skipped[:3])
        raise PromptFolderError(f"Nothing in the prompt folder {root} can be learnt from: {EXPECTED}{left_out}.")
    return folder


def folder_stamp(path: Path, tick: Callable[[], None]) -> str:
    """Changes whenever a file of a prompt folder is written again. Raises PromptFolderError or OSError."""
    digest = hashlib.sha256()
    for file in _walk(path, tick) if path.is_dir() else [path]:
        digest.update(f"{file}\n".encode("utf-8", "surrogateescape"))
        with suppress(FileNotFoundError):  # a link to nothing
            stat = file.stat()
            digest.update(f"{stat.st_mtime_ns}:{stat.st_size}\n".encode())
    return digest.hexdigest()


def _files(folder: PromptFolder, tick: Callable[[], None]) -> list[Path]:
    """Every file below the folder, but hidden ones and those that a link leads out of it to."""
    files = []
    inside = folder.root.resolve()
    for file in _walk(folder.root, tick):
        if file.is_dir():
            folder.skipped.append((_name(folder, file), "is a link to a folder, which is not followed"))
        elif file.resolve().is_relative_to(inside):
            files.append(file)
        else:
            folder.skipped.append((_name(folder, file), "is a link that leads out of the folder"))
    return files


def _walk(root: Path, tick: Callable[[], None]) -> Iterator[Path]:
    """Every file below a folder but hidden ones. Raises PromptFolderError for what can be no prompt folder."""
    count = 0
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        count += 1 + len(names)
        if count > MOST_FILES:
            raise PromptFolderError(
                f"The prompt folder {root} holds more than {MOST_FILES} files: choose the folder of the pictures alone."
            )
        tick()
        yield from (link for name in folders if (link := Path(parent, name)).is_symlink())
        for name in sorted(name for name in names if not name.startswith(".")):
            tick()
            yield Path(parent, name)


def _read_pictures(
    folder: PromptFolder, files: list[Path], tick: Callable[[], None], digest: Callable[[Path], str]
) -> None:
    texts: dict[Path, dict[str, Path]] = {}
    for file in files:
        if file.suffix.lower() in CAPTIONS:
            texts.setdefault(file.with_suffix(""), {})[file.suffix.lower()] = file
    known, listed = set(files), dict[Path, str]()
    for file in files:
        if file.name == METADATA:
            listed.update(_metadata(folder, file, known))
    for file in files:
        if file.suffix.lower() in OTHER_PICTURES:
            folder.skipped.append((_name(folder, file), "is of a kind that is not read (save it as PNG)"))
        if file.suffix.lower() not in PICTURES:
            continue
        tick()
        name, own = _name(folder, file), texts.get(file.with_suffix(""), {})
        repeats, subject = _repeats(folder, file)
        caption = next((_text(folder, own[suffix]) for suffix in CAPTIONS if suffix in own), None)
        caption = listed.get(file) if caption is None else caption
        caption = subject if caption is None else caption
        if not caption:
            empty = "has an empty caption" if own or file in listed else "has no caption (a .txt of the same name)"
            folder.skipped.append((name, empty))
            continue
        try:
            size, content = picture_size(file), digest(file)
        except (PictureError, OSError) as error:
            folder.skipped.append((name, str(error) if isinstance(error, PictureError) else "cannot be read"))
            continue
        folder.items.append(PromptItem(file, caption, repeats, name, content, _domain(folder, file), size))


def _read_prompts(folder: PromptFolder, files: list[Path]) -> None:
    for file in files:
        if file.suffix.lower() not in CAPTIONS or file.name == HELD_OUT:
            continue
        if _NOT_PROMPTS.match(file.name):
            folder.skipped.append((_name(folder, file), "does not look like prompts"))
            continue
        repeats, _ = _repeats(folder, file)
        lines = _lines(folder, file)
        if not lines and not any(name == _name(folder, file) for name, _ in folder.skipped):
            folder.skipped.append((_name(folder, file), "is empty"))
        for number, line in enumerate(lines, start=1):
            name = _name(folder, file) if len(lines) == 1 else f"{_name(folder, file)}:{number:05}"
            folder.items.append(PromptItem(None, line, repeats, name, domain=_domain(folder, file)))


def _metadata(folder: PromptFolder, file: Path, known: set[Path]) -> Iterator[tuple[Path, str]]:
    """(picture, caption) of every sound line; a path must stay below the folder of metadata.jsonl."""
    for number, line in enumerate(_lines(folder, file), start=1):
        where = f"{_name(folder, file)}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            folder.skipped.append((where, "is not JSON"))
            continue
        name, text = (row.get("file_name"), row.get("text")) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(text, str):
            folder.skipped.append((where, "lacks file_name or text"))
            continue
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in name or "\0" in name:
            folder.skipped.append((where, "names a file outside its folder"))
            continue
        picture = file.parent / parts
        if picture not in known:
            folder.skipped.append((where, f"names {name:.80}, which does not exist"))
            continue
        yield picture, _clean(text)


def _lines(folder: PromptFolder, file: Path) -> list[str]:
    text = _raw(folder, file, LONGEST_LIST) or ""
    return [line for line in map(_clean, text.splitlines()) if line]


def _text(folder: PromptFolder, file: Path) -> str:
    return _clean(_raw(folder, file, LONGEST_CAPTION) or "")


def _raw(folder: PromptFolder, file: Path, longest: int) -> str | None:
    """A text file in UTF-8, or in the UTF-16 that Windows saves; None, and reported, for anything else."""
    try:
        if file.stat().st_size > longest:
            folder.skipped.append((_name(folder, file), f"is longer than {longest // 1024} KiB"))
            return None
        data = file.read_bytes()
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        folder.skipped.append((_name(folder, file), "is not UTF-8 text"))
    except OSError:
        folder.skipped.append((_name(folder, file), "cannot be read"))
    return None


def _clean(text: str) -> str:
    # Without lone surrogates, as in a folder's name in another encoding: no tokenizer takes them.
    return " ".join(text.replace("\0", " ").encode("utf-8", "replace").decode().split())


def _name(folder: PromptFolder, file: Path) -> str:
    return file.relative_to(folder.root).as_posix()


def _repeats(folder: PromptFolder, file: Path) -> tuple[int, str | None]:
    """Repeats and subject that the nearest kohya folder says; a year is no number of repeats."""
    for part in reversed(file.relative_to(folder.root).parts[:-1]):
        if match := _REPEATS.fullmatch(part):
            return int(match[1]), _clean(match[2])
    return 1, None


def _domain(folder: PromptFolder, file: Path) -> str:
    parts = file.relative_to(folder.root).parts[:-1]
    if not parts:
        return ""
    match = _REPEATS.fullmatch(parts[0])
    return match[2] if match else parts[0]
