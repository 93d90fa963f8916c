"""How the identity bias should be learnt, on the watched pairs: python -m tests.pocket.scenes.biases [variant ...]

Its start, its learning rate, and one bias a fusion point beside one an expert and point. Trainings are short and of one seed:
directions, by which the protocol chooses nothing. A finished variant is not trained again; prints Markdown.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from afa_core.training.draw import held_out_draw  # noqa: E402
from afa_core.training.loop import Report, train, with_weights  # noqa: E402
from afa_core.training.objective import sample_loss  # noqa: E402
from afa_core.training.state import RATE_OF_SCALARS, Training, TrainingSettings, TrainingState  # noqa: E402
from afa_core.training.tasks.aggregator import AggregatorSettings, AggregatorTask  # noqa: E402

from .. import common  # noqa: E402
from . import aggregators, datasets, statistics, world  # noqa: E402
from .rows import LOOKS, over_looks  # noqa: E402

STEPS, SEED = 600, 1
SHIPPED = "as in the pack"


@dataclass(frozen=True)
class Variant:
    """start: of the biases; rate: of the learning rate; each: every expert has a bias of its own at every point"""

    start: float = 0.0
    rate: float = RATE_OF_SCALARS
    each: bool = False


VARIANTS = {
    SHIPPED: Variant(),
    "start at 4": Variant(start=4.0),
    "a tenth of the learning rate": Variant(rate=RATE_OF_SCALARS / 10),
    "the weights' learning rate": Variant(rate=1),
    "one an expert and point": Variant(each=True),
}


def apply(variant: Variant, module: nn.Module, experts: int) -> None:
    """Changes a new aggregator's biases."""
    biased = {index: point for index, point in module.aggregators.items() if point.identity_bias is not None}
    for point in biased.values():
        nn.init.constant_(point.identity_bias, variant.start)
    if variant.each:
        # Scalars, as the pack's own are, so that the optimizer treats them alike.
        own = {i: nn.ParameterList(nn.Parameter(p.identity_bias.detach().clone()) for _ in range(experts)) for i, p in biased.items()}
        module.own_biases = nn.ModuleDict(own)
        module.identity_bias = lambda index: _of_experts(module.own_biases, str(index))


def _of_experts(biases: nn.ModuleDict, index: str) -> Tensor | None:
    """[1, N, 1, 1]"""
    return torch.stack(list(biases[index])).view(1, -1, 1, 1) if index in biases else None


def measured(of: world.World, variant: Variant) -> dict[str, Tensor]:
    """Trains; gives the loss of every watched pair and the biases that the training ends with."""
    from afa_core.host.training.frozen_experts import outside_inference

    settings = TrainingSettings(steps=STEPS, seed=SEED, evaluate_every=STEPS, **aggregators.SETTINGS)
    asked = AggregatorSettings(load_balance=aggregators.LOAD_BALANCE)
    task = AggregatorTask(of.experts, of.config(identity_bias=True), [], asked, SEED)
    apply(variant, task.module, datasets.EXPERTS)
    with patch("afa_core.training.state.RATE_OF_SCALARS", variant.rate):
        training = Training(task, datasets.training(), settings, TrainingState({}))
    with outside_inference():
        train(training, _say, lambda: None)
    training.feed.close()
    return with_weights(task.module, training.weights, lambda: {"losses": _losses(task), "biases": _biases(task)})


@torch.no_grad()
def _losses(task: AggregatorTask) -> Tensor:
    batches = datasets.listed(datasets.WATCHED[1]).batches(world.BATCH)
    fusion = task.fusion()
    found = [sample_loss(task.experts, fusion, b, held_out_draw(b, look)) for look in range(LOOKS) for b in batches]
    return over_looks(found)


@torch.no_grad()
def _biases(task: AggregatorTask) -> Tensor:
    """[points, 1 or N]"""
    found = (task.module.identity_bias(index) for index in task.config.biased_points)
    return torch.stack([bias.clone().flatten() for bias in found])


def _say(report: Report) -> None:
    if report.state.step % 100 == 0:
        print(f"step {report.state.step}, loss {sum(report.state.losses[-100:]) / 100:.4f}", flush=True)


def table(found: dict[str, dict[str, Tensor]]) -> str:
    scenes = datasets.listed(datasets.WATCHED[1])
    codes = [(left.subject.code, right.subject.code) for left, right in scenes.drawn]
    lines = [f"| identity bias | loss | minus {SHIPPED}, 95 % over subjects | biases: least, middle, largest |", "|---|---|---|---|"]
    for name, of in found.items():
        apart = of["losses"] - found[SHIPPED]["losses"]
        cell = statistics.over_subjects(apart, codes) if apart.any() else ""
        spread = ", ".join(f"{value:.1f}" for value in of["biases"].quantile(torch.tensor([0.0, 0.5, 1.0])).tolist())
        lines.append(f"| {name} | {of['losses'].mean():.4f} | {cell} | {spread} |")
    return "\n".join(lines)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("variants", nargs="*", metavar="variant", help="default: all")
    args = ask.parse_args()
    of, found = world.start("near"), {}
    for name in args.variants or VARIANTS:
        kept = common.WORK / f"scenes_bias_{name.replace(' ', '_')}_{STEPS}.pt"
        if not kept.exists():
            common.save_atomic(measured(of, VARIANTS[name]), kept)
        found[name] = torch.load(kept, weights_only=True)
    if SHIPPED in found:
        print(table(found))


if __name__ == "__main__":
    main()
