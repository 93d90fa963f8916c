"""The README's first picture: python -m tests.tools.readme_picture

One prompt and seed painted by each expert, the weighted merge, the noise average and AFA, and AFA's routing map. The
prompt is chosen by a rule: of the first pair of every order of domains in the list watched_known, the one whose
picture by AFA is nearest to the real one in mean square; the seed is 1. Prints the distances.
"""

import os

import numpy as np
from PIL import Image

from tests.pocket.scenes import pairs, pictures
from tests.support.comfy.bootstrap import REPOSITORY
from tests.support.comfy.server import LiveServer
from tests.support.comfy.templates import find, with_values

from .thumbnails import layouts
from .thumbnails.files import server
from .thumbnails.look import FRAME, INK, QUIET, Sheet
from .thumbnails.painted import DOMAINS
from .thumbnails.runner import Runner

LIST, STEPS = "watched_known", 20
PLACE = REPOSITORY / "docs" / "images" / "scene.jpg"
WIDTH, HEIGHT = 1240, 424


def candidates() -> list[pairs.Pair]:
    """The first pair of the list for every order of domains."""
    found: dict[tuple[str, str], pairs.Pair] = {}
    for pair in pairs.load(LIST):
        found.setdefault((pair.left.domain, pair.right.domain), pair)
    return list(found.values())


def runner(running: LiveServer, template: str, pair: pairs.Pair) -> Runner:
    run, text = Runner(running, template), caption(pair)
    values = {"Prompt": {"text": text}, "KSampler": {"steps": STEPS}, "AFACompare": {"prompt": text, "steps": STEPS}}
    run.prompt = with_values(run.prompt, values)
    return run


def caption(pair: pairs.Pair) -> str:
    return pictures.caption(tuple(pictures.plain(subject).caption for subject in pair))


def distance(picture: Image.Image, pair: pairs.Pair) -> float:
    """Mean square between a picture and the real one, of colours in 0..1."""
    real = pictures.scene(tuple(pictures.plain(subject) for subject in pair)).permute(1, 2, 0).numpy()
    return float(np.square((np.asarray(picture, dtype=np.float32) - real) / 255).mean())


def chosen(running: LiveServer) -> pairs.Pair:
    distances = {}
    for pair in candidates():
        distances[pair] = distance(runner(running, "sd15_ensemble", pair).saved(), pair)
        print(f"{distances[pair]:.4f}  {caption(pair)}", flush=True)
    return min(distances, key=distances.__getitem__)


def drawn(running: LiveServer, pair: pairs.Pair) -> Image.Image:
    comparison, ensemble = (runner(running, name, pair) for name in ("compare_methods", "sd15_ensemble"))
    (node,) = find(comparison.prompt, "AFACompare")
    painted = comparison.shown([node, 1])
    afa = ensemble.saved()
    tiles = [
        *layouts.named(painted[:3], DOMAINS),
        (painted[3], "weighted merge", FRAME),
        (painted[4], "noise average", FRAME),
        (afa, "AFA", INK),
        (layouts.tinted(afa, ensemble.routing()), "AFA: who is followed where", INK),
    ]
    sheet = Sheet(WIDTH, HEIGHT)
    slots = [(20 + column * 304, top) for top in (20, 228) for column in range(4)]
    words_at = slots.pop(3)
    for (left, top), (picture, words, frame) in zip(slots, tiles, strict=True):
        sheet.picture((left, top, 288, 144), picture, frame, 2 if frame == FRAME else 4)
        sheet.words((left + 144, top + 166), words, 24, QUIET if frame == FRAME else INK)
    for line, (place, subject) in enumerate(zip(pictures.PLACES, pair, strict=True)):
        sheet.words((words_at[0] + 8, words_at[1] + 54 + 38 * line), f"{place}: {subject.name}", 21, INK, anchor="lm")
    return sheet.finished()


def main() -> None:
    with server() as running:
        pair = chosen(running)
        print(f"chosen: {caption(pair)}")
        drawn(running, pair).save(PLACE, quality=90)
        print(f"{PLACE.relative_to(REPOSITORY)}  {PLACE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
