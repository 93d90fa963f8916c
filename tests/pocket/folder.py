"""Captioned emoji as prompt folders, such as an artist would lay one out for the trainer.

{domain}/{hand}_{code}.png with its caption in a .txt, in all three hands. `training()` is for the aggregator: the
experts' own emoji, and some that no expert has seen, read twice as often; as there are half as many of animals, those
four times. Its held_out.txt lists the tenth that the trainer watches, which is `watched()`.
Results are also given on `held_out()`, subjects that nothing was trained on, and `known()`, subjects of the experts'
own that the aggregator has not seen. Pictures are fetched by npm where they are not cached.
"""

from pathlib import Path

from filelock import FileLock
from PIL import Image

from . import common, data, others, packages

WATCHED = 10
"""Every so manieth subject of the training folder is watched instead."""
REPEATS = {"people": 2, "animals": 4, "things": 2}
"""Of emoji that no expert has seen."""


def training() -> Path:
    folder = common.WORK / "aggregator_folder"
    done = folder / "held_out.txt"
    with one_at_a_time():
        if not done.exists():
            _write(_own(), folder)
            for domain, repeats in REPEATS.items():
                _write([s for s in others.unseen() if s.domain == domain], folder, f"{repeats}_{domain}")
            done.write_text("\n".join(data.captions(_watched(), common.HANDS)) + "\n")
    return folder


def one_at_a_time() -> FileLock:
    """Two test workers may want the same folder, and neither may see it half written."""
    common.WORK.mkdir(exist_ok=True)
    return FileLock(common.WORK / "folders.lock")


def watched() -> Path:
    return _whole(common.WORK / "watched_folder", _watched())


def held_out() -> Path:
    return _whole(common.WORK / "held_out_folder", data.subjects("held_out"))


def known() -> Path:
    return _whole(common.WORK / "known_folder", known_subjects())


def _own() -> list[data.Subject]:
    """What the experts learnt from, without `known()`."""
    aside = set(known_subjects())
    own = [s for domain in common.DOMAINS for s in data.subjects("train+spare", domain) + others.of_experts(domain)]
    return [s for s in own if s not in aside]


def _watched() -> list[data.Subject]:
    return (_own() + others.unseen())[::WATCHED]


def known_subjects() -> list[data.Subject]:
    """20 subjects a domain, evenly through the list."""
    return [s for domain in common.DOMAINS for s in data.subjects("train", domain)[::7][:20]]


def _whole(folder: Path, subjects: list[data.Subject]) -> Path:
    with one_at_a_time():
        if not folder.exists():
            _write(subjects, folder)
    return folder


def _write(subjects: list[data.Subject], folder: Path, place: str = "") -> None:
    for subject in subjects:
        for hand in common.HANDS:
            path = folder / (place or subject.domain) / f"{hand}_{subject.code}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.frame(packages.members(hand)[packages.bare(subject.code)])).save(path)
            path.with_suffix(".txt").write_text(data.captions([subject], [hand])[0])
