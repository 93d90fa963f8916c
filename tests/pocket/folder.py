"""Captioned emoji as a prompt folder, such as an artist would lay one out for the trainer.

.pocket/prompt_folder/{domain}/{hand}_{code}.png with its caption in a .txt, in all three hands: emoji that no
expert has seen, and the held-out subjects, whose captions stand in held_out.txt.
"""

from pathlib import Path

from PIL import Image

from . import common, data, others, packages

FOLDER = common.WORK / "prompt_folder"


def ensure() -> Path:
    """Writes the folder once; its pictures are fetched by npm where they are not cached."""
    done = FOLDER / "held_out.txt"
    if done.exists():
        return FOLDER
    _write(others.others())
    done.write_text("\n".join(_write(data.subjects("held_out"))) + "\n")
    return FOLDER


def _write(subjects: list[data.Subject]) -> list[str]:
    captions = []
    for subject in subjects:
        for hand in common.HANDS:
            path = FOLDER / subject.domain / f"{hand}_{subject.code}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.frame(packages.members(hand)[packages.bare(subject.code)])).save(path)
            captions.append(f"{hand}, {subject.name}")
            path.with_suffix(".txt").write_text(captions[-1])
    return captions
