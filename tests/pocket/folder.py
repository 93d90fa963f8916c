"""Captioned emoji as prompt folders, such as an artist would lay one out for the trainer.

{domain}/{hand}_{code}.png with its caption in a .txt, in all three hands. `training()`: emoji that no expert has
seen, and the held-out subjects, whose captions stand in held_out.txt. `known()`: subjects that the experts were
trained on. Pictures are fetched by npm where they are not cached.
"""

from pathlib import Path

from PIL import Image

from . import common, data, others, packages


def training() -> Path:
    folder = common.WORK / "prompt_folder"
    done = folder / "held_out.txt"
    if not done.exists():
        _write(others.others(), folder)
        done.write_text("\n".join(_write(data.subjects("held_out"), folder)) + "\n")
    return folder


def known(each: int = 20) -> Path:
    """`each` subjects a domain, evenly through the list."""
    folder = common.WORK / "known_folder"
    if not folder.exists():
        chosen = []
        for domain in common.DOMAINS:
            rows = data.subjects("train", domain)
            chosen += rows[:: len(rows) // each][:each]
        _write(chosen, folder)
    return folder


def _write(subjects: list[data.Subject], folder: Path) -> list[str]:
    captions = []
    for subject in subjects:
        for hand in common.HANDS:
            path = folder / subject.domain / f"{hand}_{subject.code}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.frame(packages.members(hand)[packages.bare(subject.code)])).save(path)
            captions.append(f"{hand}, {subject.name}")
            path.with_suffix(".txt").write_text(captions[-1])
    return captions
