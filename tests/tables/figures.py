"""The learnt attention maps as pictures, one a claim: python -m tests.tables.figures [--list NAME] [--variant NAME]

Contributions change with the prompt, the noise, the timestep, the block and the place: docs/results/routing-<claim>.png. Every place
has the colour of the expert that leads there, and is white where none does; by place, brighter is more weight.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from tests.pocket import common  # noqa: E402
from tests.pocket.scenes import aggregators, datasets  # noqa: E402
from tests.support.comfy.bootstrap import REPOSITORY  # noqa: E402

from .budget import FULL  # noqa: E402
from .followed import mean_maps, right_weights  # noqa: E402
from .paint import SEED, decoded, sampled  # noqa: E402
from .questions import PairList  # noqa: E402
from .systems import System, ensemble  # noqa: E402
from .trained import OURS, trained  # noqa: E402
from .world import HEIGHT, WIDTH, World, start  # noqa: E402

NOISES = 4
Panel = tuple[str, Tensor]
"""A title, and a picture [H, W, 3]."""


@dataclass
class Scene:
    """A painted picture [H, W, 3], and the run of the ensemble that painted it."""

    picture: Tensor
    run: object

    def map(self, steps: Sequence[int] = (), points: Sequence[int] = ()) -> Tensor:
        """Mean weights [N, h, w] over these steps and points, by default all."""
        return mean_maps(self.run, steps, points)[0]


class Painter:
    def __init__(self, world: World, system: System, steps: int):
        self.world, self.system, self.steps = world, system, steps
        (self.model,) = system.make(world)

    def paint(self, prompt: str, seed: int = SEED) -> Scene:
        from afa_core.host.sampling.parts import ensemble_of

        with self.system.within():
            latent = sampled(self.world, [self.model], [prompt], self.world.empty_latent(1), self.steps, seed)
        return Scene(decoded(self.world, latent)[0], ensemble_of(self.model).record.run_of(latent["samples"]))


def figures(painter: Painter, pairs: PairList) -> dict[str, object]:
    """By claim."""
    scenes = [painter.paint(caption) for caption in pairs.captions]
    first, names = scenes[0], [f"{pair.left.name} | {pair.right.name}" for pair in pairs.pairs]
    noises = [first, *(painter.paint(pairs.captions[0], SEED + n) for n in range(1, NOISES))]
    steps, points = range(len(first.run.steps)), first.run.fused_points
    some = sorted({round(i * (len(steps) - 1) / 5) for i in range(6)})
    by_block = [(first.run.points[p].name, coloured(first.map(points=[p]))) for p in points]
    by_time = [(f"step {i + 1} of {len(steps)}", coloured(first.map(steps=[i]))) for i in some]
    return {
        "prompt": sheet([_both(name, scene) for name, scene in zip(names, scenes, strict=True)]),
        "noise": sheet([_both(f"{names[0]}, noise {n}", scene) for n, scene in enumerate(noises, start=1)]),
        "timestep": sheet([[(names[0], first.picture), *by_time]]),
        "block": sheet([[(names[0], first.picture), *by_block][i : i + 7] for i in range(0, len(by_block) + 1, 7)]),
        "place": sheet([_by_expert(name, scene) for name, scene in zip(names, scenes, strict=True)], legend=False),
        "right-weight": matrix(scenes, pairs),
    }


def coloured(weights: Tensor) -> Tensor:
    """Weights [N, h, w] -> [H, W, 3]: white at an even weight, full colour where one expert is alone."""
    from matplotlib.colors import to_rgb

    from afa_core.plots import COLOURS
    from afa_core.routing.panels import leads

    paper = torch.ones(3, *weights.shape[1:])
    for strength, colour in zip(leads(weights, 1.0), COLOURS, strict=False):
        paper -= strength * (1 - torch.tensor(to_rgb(colour)))[:, None, None]
    return _large(paper.clamp(0, 1)).movedim(0, -1)


def heat(weight: Tensor) -> Tensor:
    """One expert's weight [h, w] -> [H, W, 3]."""
    from matplotlib import colormaps

    return torch.tensor(colormaps["magma"](_large(weight[None])[0].numpy()))[..., :3]


def _large(maps: Tensor) -> Tensor:
    return F.interpolate(maps[None], (HEIGHT, WIDTH), mode="nearest")[0]


def _both(name: str, scene: Scene) -> list[Panel]:
    return [(name, scene.picture), ("leading expert", coloured(scene.map()))]


def _by_expert(name: str, scene: Scene) -> list[Panel]:
    maps = [(f"expert of {d}", heat(m)) for d, m in zip(common.DOMAINS, scene.map(), strict=True)]
    return [(name, scene.picture), *maps]


def sheet(rows: list[list[Panel]], legend: bool = True):
    """Panels side by side, a row below the other; legend: which colour is whose."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from afa_core.plots import COLOURS

    columns = max(map(len, rows))
    figure = Figure(figsize=(2.2 * columns, 1.35 * len(rows) + 0.4), dpi=100, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, axes in zip(rows, grid, strict=True):
        for ax in axes:
            ax.axis("off")
        for (title, picture), ax in zip(line, axes, strict=False):
            ax.imshow(picture.numpy())
            ax.set_title(title, fontsize=6)
    if legend:
        patches = [Patch(color=c, label=f"expert of {d}") for c, d in zip(COLOURS, common.DOMAINS, strict=False)]
        figure.legend(handles=patches, loc="outside lower center", ncols=3, fontsize=6, frameon=False)
    return figure


def matrix(scenes: list[Scene], pairs: PairList):
    """The weight of the right expert in its half by timestep and block, mean over the scenes."""
    from matplotlib.figure import Figure

    each = [right_weights(scene.run, [domains]) for scene, domains in zip(scenes, pairs.domains, strict=True)]
    weights = torch.cat(each, dim=-1).mean(-1)  # [steps, points]
    run = scenes[0].run
    figure = Figure(figsize=(6, 3.6), dpi=100, layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(weights.T.numpy(), vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_yticks(range(weights.shape[1]), [run.points[i].name for i in run.fused_points], fontsize=7)
    axes.set_xlabel("step")
    axes.set_title(
        f"weight of the right expert in its half, {len(scenes)} pairs; chance {1 / len(common.DOMAINS):.2f}", fontsize=8
    )
    figure.colorbar(shown)
    return figure


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--list", default=datasets.WATCHED[1], help="of pairs.tsv; the held-out lists only at the end")
    ask.add_argument("--variant", default=OURS, choices=aggregators.VARIANTS)
    ask.add_argument("--seed", type=int, default=aggregators.SEEDS[0])
    ask.add_argument("--sampling-steps", type=int, default=FULL.steps)
    args = ask.parse_args()
    world = start(FULL)
    there = [t for t in trained(world) if (t.variant, t.seed) == (args.variant, args.seed)]
    if not there:
        ask.error(f"{args.variant} of seed {args.seed} is not trained: python -m tests.pocket.scenes.aggregators")
    painter = Painter(world, ensemble(there[0], world.experts), args.sampling_steps)
    # One of each order of two domains.
    for claim, figure in figures(painter, PairList(args.list, 6, 1)).items():
        path = REPOSITORY / "docs" / "results" / f"routing-{claim}.png"
        figure.savefig(path)
        print(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    main()
