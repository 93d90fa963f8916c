"""The README's first picture: python -m tests.tools.readme_picture

Each expert, the weighted merge, the noise average and AFA paint the watched pairs of subjects that only the experts learnt, from
the same noise. The judge of the tables (tests/pocket/scenes/judge.py) says which pictures show both subjects. The pair
shown is chosen by a rule: the first one that AFA shows, and the fewest others. Prints how many pairs each row shows.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

from tests.pocket.scenes import judge, pictures  # noqa: E402
from tests.support.comfy.bootstrap import REPOSITORY  # noqa: E402
from tests.tables.budget import FULL  # noqa: E402
from tests.tables.followed import mean_maps  # noqa: E402
from tests.tables.paint import paint  # noqa: E402
from tests.tables.questions import PairList  # noqa: E402
from tests.tables.systems import expert_name, systems  # noqa: E402
from tests.tables.trained import Trained  # noqa: E402
from tests.tables.world import World, start  # noqa: E402

from .demo import TRAINED  # noqa: E402
from .thumbnails import layouts  # noqa: E402
from .thumbnails.look import EXPERTS, FRAME, INK, QUIET, Sheet  # noqa: E402
from .thumbnails.painted import DOMAINS  # noqa: E402

LIST, AFA = "watched_experts_only", "AFA"
ROWS = {expert_name(domain): domain for domain in DOMAINS} | {
    name: name for name in ("weighted merge", "noise average", AFA)
}
"""Names of the tables' rows, with the words below their pictures."""
PLACE = REPOSITORY / "docs" / "images" / "scene.jpg"
WIDTH, HEIGHT = 1240, 424


def painted(world: World, pairs: PairList) -> tuple[dict[str, Tensor], Tensor]:
    """-> (pictures [n, 64, 128, 3] by row, AFA's mean weights [n, N, 8, 16])."""
    from afa_core.host.sampling.parts import ensemble_of

    aggregator = world.aggregators / TRAINED.name
    aggregator.write_bytes(TRAINED.read_bytes())
    rows = {system.name: system for system in systems(world, [Trained(AFA, 1, aggregator)])}
    found, maps = {}, []
    for name in ROWS:
        models = rows[name].make(world)

        def routed(place: slice, latents: Tensor, model=models[0]) -> None:
            maps.append(mean_maps(ensemble_of(model).record.run_of(latents)))

        found[name] = paint(world, models, pairs, FULL.steps, routed if name == AFA else None)
        world.running.release()
    return found, torch.cat(maps)


def chosen(found: dict[str, Tensor], pairs: PairList) -> int:
    """The place of the pair in the list."""
    shown = {name: judge.judged(each.movedim(-1, 1), pairs.pairs).both for name, each in found.items()}
    for name, both in shown.items():
        print(f"{ROWS[name]}: both subjects in {int(both.sum())} of {len(both)} pictures")
    others = sum(both.int() for name, both in shown.items() if name != AFA)
    return int(torch.where(shown[AFA], others, len(shown)).argmin())


def drawn(tiles: dict[str, Image.Image], weights: Tensor, names: list[str]) -> Image.Image:
    """tiles: one a row; weights: AFA's [N, h, w]; names: of the left and the right subject."""
    frames = dict(zip(ROWS, EXPERTS, strict=False)) | {AFA: INK}
    shown = [(tile, ROWS[row], frames.get(row, FRAME)) for row, tile in tiles.items()]
    shown.append((layouts.tinted(tiles[AFA], weights), "AFA: the leading expert", INK))
    sheet = Sheet(WIDTH, HEIGHT)
    slots = [(20 + column * 304, top) for top in (20, 228) for column in range(4)]
    words_at = slots.pop(3)
    for (left, top), (picture, words, frame) in zip(slots, shown, strict=True):
        sheet.picture((left, top, 288, 144), picture, frame, 2 if frame == FRAME else 4)
        sheet.words((left + 144, top + 166), words, 24, QUIET if frame == FRAME else INK)
    for line, (place, subject) in enumerate(zip(pictures.PLACES, names, strict=True)):
        sheet.words((words_at[0] + 8, words_at[1] + 54 + 38 * line), f"{place}: {subject}", 21, INK, anchor="lm")
    return sheet.finished()


def picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels * 255).round().byte().numpy())


def main() -> None:
    world, pairs = start(FULL), PairList(LIST, 0, 1)
    found, maps = painted(world, pairs)
    place = chosen(found, pairs)
    print(f"shown: {pairs.captions[place]}")
    names = [subject.name for subject in pairs.pairs[place]]
    drawn({row: picture(each[place]) for row, each in found.items()}, maps[place], names).save(PLACE, quality=90)
    print(f"{PLACE.relative_to(REPOSITORY)}  {PLACE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
