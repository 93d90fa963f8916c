"""make tables: its own measures against the trainer's and by hand, rows that survive a stop, and the verdicts."""

import pytest
import torch

from tests.pocket import assemble
from tests.tables.budget import QUICK, Budget
from tests.tables.markdown import columns, table
from tests.tables.noise_loss import noise_losses
from tests.tables.paint import paint
from tests.tables.paper import AVERAGES, beside_ours, claims
from tests.tables.picture_scores import reciprocal_ranks
from tests.tables.questions import Picture, Question
from tests.tables.statistics import difference
from tests.tables.store import Store
from tests.tables.systems import systems
from tests.tables.trainings import ABLATIONS
from tests.tables.world import BASE, EXPERTS, World


@pytest.fixture
def world(comfy_host, pack, tmp_path):
    assemble.ensure(comfy_host.base / "models" / "checkpoints")
    return World(comfy_host, QUICK, Store(tmp_path, {}))


def question(world: World, count: int = 6) -> Question:
    random = torch.Generator().manual_seed(0)
    text = world.text("twemoji, red apple, food fruit")[0][0].expand(count, -1, -1)
    latents, noise = (torch.randn(count, 4, 8, 8, generator=random) for _ in range(2))
    timesteps = torch.linspace(0, 999, count).long()
    return Question(latents, noise, timesteps, text, world.text("")[0][0])


# ---- the noise loss ----


@pytest.mark.parametrize("method", ["noise average", "block average"])
def test_the_loss_is_the_trainers(world, method):
    """On the sampler's path, what the trainer computes on its own: for the experts and for fusions of them."""
    from afa_core.host.experts.experts import Expert
    from afa_core.host.training.frozen_experts import HostExperts, outside_inference
    from afa_core.training.data.dataset import Batch
    from afa_core.training.draw import Draw
    from afa_core.training.objective import baseline_losses

    asked = question(world)
    (fusion,) = world.call("AFATrainingFreeFusion", method=method)
    fused = world.call("AFAEnsembleModel", aggregator=fusion, **world.sockets())[0]
    ours = {method: noise_losses([fused], [asked])}
    ours |= {name: noise_losses([world.load(name)[0]], [asked]) for name in EXPERTS}
    frozen = HostExperts([Expert(world.load(name)[0], name) for name in EXPERTS])
    with outside_inference():
        frozen.load([6, 4, 8, 8])
        texts = [{"c_crossattn": asked.text.clone(), "y": None}] * len(EXPERTS)
        batch = Batch(list(range(6)), asked.latents, texts, torch.zeros(6, dtype=torch.bool))
        theirs = baseline_losses(frozen, batch, Draw(asked.noise, asked.timesteps / 1000))
    for name, losses in ours.items():
        torch.testing.assert_close(torch.tensor(losses), theirs[name], rtol=1e-4, atol=1e-5)


def test_magic_fusions_loss_has_the_mask_of_the_guidance_that_is_painted_with(world):
    """At guidance 1 with temperatures of the guidance, the shares are those at that guidance with temperatures of 1."""
    from afa_core.fusion.magic import MagicFusion

    random = torch.Generator().manual_seed(1)
    guided, unguided = ([torch.randn(2, 4, 8, 8, generator=random) for _ in range(3)] for _ in range(2))
    cfg = world.budget.cfg
    plain, sharp = MagicFusion((1.0,) * 3), MagicFusion((cfg,) * 3)
    torch.testing.assert_close(sharp.shares(guided, unguided, 1.0), plain.shares(guided, unguided, cfg))
    (system,) = [s for s in systems(world) if s.name == "MagicFusion, all three"]
    (model,) = system.for_noise_loss(world)
    assert model.get_attachment("afa").fusion.temperatures == (cfg,) * 3
    assert system.make(world)[0].get_attachment("afa").fusion.temperatures == (1.0,) * 3


def test_models_that_share_the_steps_are_asked_in_turn(world):
    asked = question(world)
    first, second = (noise_losses([world.load(name)[0]], [asked]) for name in EXPERTS[:2])
    both = noise_losses([world.load(name)[0] for name in EXPERTS[:2]], [asked])
    assert both == pytest.approx([*second[:3], *first[3:]])
    assert first != pytest.approx(second)


# ---- painting ----


class Names:
    painted = [
        Picture("twemoji, red apple, food fruit", "animals", None),
        Picture("twemoji, dog face, animal mammal", "animals", None),
    ]


def test_a_switch_between_one_and_the_same_is_no_switch(world):
    same, other = EXPERTS[0], EXPERTS[1]

    def painted(*names):
        return paint(world, [world.load(name)[0] for name in names], Names, 4)

    alone, switched = painted(same), painted(same, same)
    assert alone.shape == (2, 64, 64, 3)
    torch.testing.assert_close(switched, alone, rtol=1e-3, atol=1e-3)
    assert (painted(same, other) - alone).abs().max() > 0.01


# ---- scores ----


def test_reciprocal_ranks_by_hand():
    real = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.9]])
    found = torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.0, 1.0], [1.0, 0.9]])
    assert reciprocal_ranks(found, real, ["a"] * 4).tolist() == pytest.approx([1, 1 / 4, 1 / 2, 1])
    assert reciprocal_ranks(found, real, ["a", "b", "a", "b"]).tolist() == pytest.approx([1, 1 / 2, 1, 1])


def test_a_difference_by_hand():
    """Two looks at three pictures of two subjects: what is averaged are subjects."""
    found = difference([1.0, 2, 3, 1, 2, 3], [0.0, 0, 5, 0, 0, 5], ["x", "x", "y"])
    assert found.mean == pytest.approx((1.5 - 2) / 2)
    assert found.sign == 0
    assert difference([1.0, 2, 3], [2.0, 3, 4], ["x", "y", "z"]).sign == -1


def test_the_best_of_a_column_is_bold():
    assert columns([[1.0, 2.0], [3.0, 1.0]], [".1f", ".0f"], [True, False]) == [["**1.0**", "**2**"], ["3.0", "1"]]
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


# ---- rows ----


def test_a_finished_row_is_not_measured_again(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return {"losses": [0.5]}

    def row(weights, depends):
        return Store(tmp_path, weights).row("loss AFA, held-out", depends, measure)["losses"]

    assert row({"experts": "a"}, [1]) == row({"experts": "a"}, [1]) == [0.5]
    assert len(calls) == 1
    row({"experts": "b"}, [1])
    row({"experts": "a"}, [2])
    assert len(calls) == 3


def test_a_row_that_was_stopped_leaves_nothing(tmp_path):
    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path, {}).row("loss", [], stopped)
    assert not list(tmp_path.iterdir())


def test_every_system_of_the_paper_is_a_row(world):
    names = [system.name for system in systems(world)]
    assert len(set(names)) == len(names)
    for part in ("pocket_base", "weighted merging", "MBW ", "autoMBW", "MagicFusion", "noise average", "block average",
                 "only the last block", "without spatial", "without timestep", "without text", "step switch", "AFA"):  # fmt: skip
        assert any(name.startswith(part) for name in names), part
    claimed = {row for claim in claims(names) for row in claim.rows}
    assert claimed == {name for name in names if not name.startswith("AFA")}


def test_a_claim_holds_only_where_every_interval_says_so():
    subjects = ["x", "y", "z"]
    names = [BASE, *EXPERTS, "weighted merging", *AVERAGES, *ABLATIONS, "AFA"]
    rows = {name: {"losses": [0.5, 0.6, 0.7]} for name in names}
    rows["AFA"] = {"losses": [0.4, 0.5, 0.6]}
    rows["weighted merging"] = {"losses": [0.4, 0.5, 0.6]}
    rows["block average"] = {"losses": [0.3, 0.4, 0.5]}
    verdicts = [line.split(" | ")[1] for line in beside_ours(rows, "losses", True, subjects).splitlines()[2:]]
    assert verdicts == ["holds", "undecided", "disagrees", "undecided"]
    higher = [line.split(" | ")[1] for line in beside_ours(rows, "losses", False, subjects).splitlines()[2:]]
    assert higher == ["disagrees", "undecided", "disagrees", "undecided"]


def test_few_subjects_are_of_every_domain_and_in_every_hand():
    domains = ["animals"] * 8 + ["people"] * 8
    subjects = ["a", "b", "c", "d"] * 2 + ["e", "f", "g", "h"] * 2  # in one hand, then in the other
    assert QUICK.of_each_domain(domains, subjects) == [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14]
    assert Budget().of_each_domain(domains, subjects) == list(range(16))
