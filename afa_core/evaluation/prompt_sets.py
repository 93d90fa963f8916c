"""Prompt sets: our own, and the users' files of the usual benchmarks."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OWN = Path(__file__).with_name("prompts.json")


class PromptSetError(ValueError):
    """A file that holds no prompts we can read; says which, what was expected and found."""


@dataclass(frozen=True)
class Prompt:
    """picture: the file name of the real picture that the text describes, where the set has pictures."""

    text: str
    category: str = ""
    picture: str = ""


def own_prompts() -> list[Prompt]:
    """The set that ships with this pack."""
    return load_prompts(OWN)


def load_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file, in its order. Raises PromptSetError or OSError.

    .txt:        one a line
    .csv, .tsv:  a column Prompts or Prompt, and perhaps Category (DrawBench, PartiPrompts)
    .json:       COCO captions, a list of texts, or a list of objects with `prompt` and perhaps `category`
    """
    readers = {".txt": _read_lines, ".csv": _read_table, ".tsv": _read_table, ".json": _read_json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise PromptSetError(f"{path.name} should be a .txt, .csv, .tsv or .json file of prompts.")
    try:
        prompts = [prompt for prompt in reader(path) if prompt.text.strip()]
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise PromptSetError(f"{path.name} is damaged, or no {path.suffix} file: {error}.") from error
    if not prompts:
        raise PromptSetError(f"{path.name} holds no prompts.")
    return prompts


def _read_lines(path: Path) -> list[Prompt]:
    return [Prompt(line.strip()) for line in path.read_text("utf-8-sig").splitlines()]


def _read_table(path: Path) -> list[Prompt]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        names = {name.lower(): name for name in rows.fieldnames or []}
        text = names.get("prompts", names.get("prompt"))
        if text is None:
            raise PromptSetError(f"{path.name} has no column Prompts or Prompt, found {', '.join(names) or 'nothing'}.")
        category = names.get("category", "")
        return [Prompt(row[text] or "", row.get(category) or "") for row in rows]


def _read_json(path: Path) -> list[Prompt]:
    content = json.loads(path.read_text("utf-8-sig"))
    if isinstance(content, dict) and "annotations" in content:
        return _coco(content)
    if isinstance(content, dict) and "prompts" in content:
        content = content["prompts"]
    if not isinstance(content, list) or not all(isinstance(entry, str | dict) for entry in content):
        raise PromptSetError(f"{path.name} should hold a list of prompts, or COCO's captions.")
    return [_entry(path, entry) for entry in content]


def _entry(path: Path, entry: str | dict[str, Any]) -> Prompt:
    if isinstance(entry, str):
        return Prompt(entry)
    text = entry.get("prompt", entry.get("text"))
    if not isinstance(text, str):
        raise PromptSetError(f"{path.name} has an entry without `prompt`: {str(entry):.80}.")
    return Prompt(text, str(entry.get("category", "")))


def _coco(content: dict[str, Any]) -> list[Prompt]:
    """The first caption of every picture, in the order of the annotations."""
    names = {image["id"]: image["file_name"] for image in content.get("images", [])}
    first: dict[Any, str] = {}
    for annotation in content["annotations"]:
        first.setdefault(annotation["image_id"], annotation["caption"])
    return [Prompt(caption.strip(), "", names.get(image, "")) for image, caption in first.items()]
