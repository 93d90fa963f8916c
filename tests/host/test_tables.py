"""make tables: its own measures against the trainer's and by hand, rows that survive a stop, and the verdicts."""

from pathlib import Path

import pytest
import torch

from tests.pocket import common
from tests.pocket.scenes import checkpoints, judge, pairs, pictures
from tests.tables.budget import QUICK
from tests.tables.figures import coloured
from tests.tables.followed import prompt_maps
from tests.tables.learners import learnt
from tests.tables.limits import gap_share
from tests.tables.loss_tables import loss_table
from tests.tables.markdown import columns, table
from tests.tables.measure import by_variant
from tests.tables.noise_loss import noise_losses
from tests.tables.oracle import ORACLE
from tests.tables.paint import paint
from tests.tables.paper import beside_ours, claims
from tests.tables.questions import Question, halves
from tests.tables.statistics import difference
from tests.tables.store import Store
from tests.tables.systems import AVERAGES, System, systems
from tests.tables.trained import OURS, missing, trained
from tests.tables.world import BASE, World

CAPTION = "left twemoji, red apple, food fruit; right twemoji, nerd face, face glasses"
DOMAINS = ("animals", "people")


@pytest.fixture
def world(comfy_host, pack, tmp_path):
    names = [BASE, *checkpoints.expert_names("near")]
    checkpoints.ensure(Path(comfy_host.base, "models", "checkpoints"), names)
    return World(comfy_host, QUICK, Store(tmp_path, {}), "near")


def question(world: World, count: int = 6) -> Question:
    random = torch.Generator().manual_seed(0)
    text = world.text(CAPTION)[0][0].expand(count, -1, -1)
    latents, noise = (torch.randn(count, 4, 8, 16, generator=random) for _ in range(2))
    timesteps = torch.linspace(0, 999, count).long()
    return Question(latents, noise, timesteps, text, world.text("")[0][0], [DOMAINS] * count)


def of_name(world: World, name: str) -> System:
    (system,) = [s for s in systems(world, []) if s.name == name]
    return system


# ---- the noise loss ----


def test_the_loss_is_the_trainers(world):
    """On the sampler's path, what the trainer computes on its own: for the experts, fusions of them and the oracle."""
    from afa_core.host.experts.experts import Expert
    from afa_core.host.training.frozen_experts import HostExperts, outside_inference
    from afa_core.training.data.dataset import Batch
    from afa_core.training.draw import Draw
    from afa_core.training.objective import baseline_losses, sample_loss
    from tests.pocket.scenes.rows import oracle_by_place

    asked, names = question(world), [*AVERAGES, ORACLE, "expert of people"]
    ours = {name: noise_losses(world, of_name(world, name).for_noise_loss(world), [asked]) for name in names}
    frozen = HostExperts([Expert(world.load(name)[0], name) for name in world.experts])
    with outside_inference(), torch.no_grad():
        frozen.load([6, 4, 8, 16])
        texts = [{"c_crossattn": asked.text.clone(), "y": None}] * 3
        batch = Batch(list(range(6)), asked.latents, texts, torch.zeros(6, dtype=torch.bool))
        draw = Draw(asked.noise, asked.timesteps / 1000)
        theirs = baseline_losses(frozen, batch, draw)
        theirs[ORACLE] = sample_loss(frozen, oracle_by_place(asked.domains), batch, draw)
    theirs["expert of people"] = theirs[world.experts[0]]
    for name, losses in ours.items():
        torch.testing.assert_close(losses, theirs[name], rtol=1e-4, atol=1e-5)


def test_magic_fusions_loss_has_the_mask_of_the_guidance_that_is_painted_with(world):
    """At guidance 1 with temperatures of the guidance, the shares are those at that guidance with temperatures of 1."""
    from afa_core.fusion.magic import MagicFusion

    random = torch.Generator().manual_seed(1)
    guided, unguided = ([torch.randn(2, 4, 8, 8, generator=random) for _ in range(3)] for _ in range(2))
    cfg = world.budget.cfg
    plain, sharp = MagicFusion((1.0,) * 3), MagicFusion((cfg,) * 3)
    torch.testing.assert_close(sharp.shares(guided, unguided, 1.0), plain.shares(guided, unguided, cfg))
    system = of_name(world, "MagicFusion, all three")
    (model,) = system.for_noise_loss(world)
    assert model.get_attachment("afa").fusion.temperatures == (cfg,) * 3
    assert system.make(world)[0].get_attachment("afa").fusion.temperatures == (1.0,) * 3


def test_models_that_share_the_steps_are_asked_in_turn(world):
    asked = question(world)
    first, second = (noise_losses(world, [world.load(name)[0]], [asked]) for name in world.experts[:2])
    both = noise_losses(world, [world.load(name)[0] for name in world.experts[:2]], [asked])
    torch.testing.assert_close(both, torch.cat([second[:3], first[3:]]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first, second, rtol=1e-3)


def test_the_default_aggregator_is_committed_and_the_others_are_named_as_missing(world):
    (found,) = trained(world)
    assert found.name == OURS and f"{OURS} of near experts (seed 2, 3)" in missing(world, [found])
    (ours,) = [system for system in systems(world, [found]) if system.name == OURS]
    losses, average = (noise_losses(world, row.make(world), [question(world)]) for row in (ours, of_name(world, "noise average")))
    assert losses.isfinite().all() and not torch.equal(losses, average)
    found.path.unlink()  # the host is other tests' too


# ---- painting ----


class Pairs:
    captions = [CAPTION, "left twemoji, dog face, animal mammal; right twemoji, soccer ball, sport"]
    domains = [DOMAINS, ("animals", "things")]


def test_a_switch_between_one_and_the_same_is_no_switch(world):
    same, other = world.experts[:2]

    def painted(*names):
        return paint(world, [world.load(name)[0] for name in names], Pairs, 4)

    alone, switched = painted(same), painted(same, same)
    assert alone.shape == (2, 64, 128, 3)
    torch.testing.assert_close(switched, alone, rtol=1e-3, atol=1e-3)
    assert (painted(same, other) - alone).abs().max() > 0.01


def test_the_oracle_paints_every_half_by_its_expert(world):
    """With guidance, prompts and negative prompts are asked together; one step's latents are the experts' own."""

    def latents(models):
        found = []
        paint(world, models, Pairs, 1, lambda place, latent: found.append(latent))
        return found[0]

    (oracle,) = of_name(world, ORACLE).make(world)
    ours = latents([oracle])
    people, animals, things = (latents([world.load(name)[0]]) for name in world.experts)
    expected = torch.stack([torch.cat([animals[0, ..., :8], people[0, ..., 8:]], -1),
                            torch.cat([animals[1, ..., :8], things[1, ..., 8:]], -1)])  # fmt: skip
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


# ---- scores ----


def test_left_halves_come_first():
    scenes = torch.arange(2.0)[:, None, None, None].expand(2, 64, 128, 3).clone()
    scenes[..., 64:, :] += 10
    assert halves(scenes)[:, 0, 0, 0].tolist() == [0, 1, 10, 11]


def test_the_judge_looks_for_each_subject_in_its_half(monkeypatch):
    """A network that names a subject by the half's colour: the second pair is swapped, the third right on the right only."""
    rows = pairs.load("watched_known")[:3]
    codes = [subject.code for pair in rows for subject in pair]

    class Named(torch.nn.Module):
        def forward(self, halves):
            return torch.nn.functional.one_hot(halves[:, 0, 0, 0].long(), 6).float()

    monkeypatch.setattr(judge, "_classes", lambda: codes)
    monkeypatch.setattr(judge, "_network", Named)
    painted = torch.zeros(3, 3, 64, 128)
    for i, (left, right) in enumerate([(0, 1), (3, 2), (0, 5)]):
        painted[i, ..., :64], painted[i, ..., 64:] = left, right
    found = judge.judged(painted, rows)
    assert found.left.tolist() == [True, False, False]
    assert found.right.tolist() == [True, False, True]
    assert found.both.tolist() == [True, False, False]


def test_the_judge_never_saw_one_hand():
    assert {*judge.TRAINED, judge.UNSEEN} == set(common.HANDS) and judge.UNSEEN not in judge.TRAINED


def test_maps_that_are_the_same_everywhere_have_two_halves():
    class Step:
        guided, maps, shares = [True, False], {}, {5: torch.tensor([[0.2, 0.8], [0.5, 0.5]])}

    maps = prompt_maps([Step()], 5)
    torch.testing.assert_close(maps, torch.tensor([[[[0.2, 0.2]], [[0.8, 0.8]]]]))


def test_a_place_has_the_colour_of_the_expert_that_leads():
    from matplotlib.colors import to_rgb

    from afa_core.plots import COLOURS

    weights = torch.tensor([[[0.0, 1 / 3]], [[1.0, 1 / 3]], [[0.0, 1 / 3]]])
    painted = coloured(weights)
    assert painted.shape == (64, 128, 3)
    torch.testing.assert_close(painted[0, 0], torch.tensor(to_rgb(COLOURS[1])))
    torch.testing.assert_close(painted[0, -1], torch.ones(3))


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


def test_seeds_of_one_variant_are_averaged():
    rows = {
        "AFA": {"losses": [1.0, 2.0]},
        "AFA, seed 2": {"losses": [3.0, 2.0]},
        "MagicFusion, all three": {"losses": [0.0, 0.0]},
    }
    assert by_variant(rows) == {
        "AFA": {"losses": [2.0, 2.0], "seeds": 2},
        "MagicFusion, all three": {"losses": [0.0, 0.0], "seeds": 1},
    }


def test_every_row_of_the_protocol_is_there(world):
    names = [system.name for system in systems(world, [])]
    assert len(set(names)) == len(names)
    for part in ("base", "expert of ", "weighted merge", "MBW ", "autoMBW", "MagicFusion", "MaxFusion", "probe's weights",
                 "noise average", "block average", ORACLE, "step switch"):  # fmt: skip
        assert any(name.startswith(part) for name in names), part


def test_what_baselines_choose_by_is_on_no_list():
    listed = {code for codes in pairs.listed() for code in codes}
    chosen = learnt(12)
    assert {(pair.left.domain, pair.right.domain) for pair in chosen} == {
        (a, b) for a in common.DOMAINS for b in common.DOMAINS if a != b
    }
    assert not listed & {subject.code for pair in chosen for subject in pair}


# ---- tables ----


class Codes:
    codes = [("a", "b"), ("c", "d"), ("e", "f")]


def rows_of(**losses):
    return {name.replace("_", " "): {"losses": values} for name, values in losses.items()}


def test_a_claim_holds_only_where_every_interval_says_so():
    kinds = {
        "base": "base",
        "weighted merge": "free",
        "noise average": "free",
        "block average": "free",
        "AFA": "trained",
    }
    there = [System(name, "", 1, lambda w: [], kind) for name, kind in kinds.items()]
    rows = rows_of(base=[0.5, 0.6, 0.7], weighted_merge=[0.4, 0.5, 0.6], noise_average=[0.5, 0.6, 0.7],
                   block_average=[0.3, 0.4, 0.5], AFA=[0.4, 0.5, 0.6])  # fmt: skip
    verdicts = [
        line.split(" | ")[1] for line in beside_ours(rows, claims(there, "AFA"), "losses", Codes).splitlines()[2:]
    ]
    assert verdicts == ["holds", "undecided", "disagrees"]


def test_a_gap_is_measured_from_the_best_row_without_training():
    rows = rows_of(base=[1.0], noise_average=[0.8], AFA=[0.5], **{ORACLE.replace(" ", "_"): [0.4]})
    best, share = gap_share(rows, ["base", "noise average"], "AFA")
    assert best == "noise average" and share == pytest.approx(0.75)


def test_near_and_far_experts_stand_beside_each_other():
    near, far = rows_of(AFA=[0.4, 0.5, 0.6], merge=[0.5, 0.6, 0.7]), rows_of(merge=[0.8, 0.8, 0.8])
    near["merge"]["seeds"] = 2
    lines = loss_table({"near": near, "far": far}, Codes, "AFA").splitlines()
    assert lines[2:] == [
        "| AFA | **0.5000** |  | - |  |",
        "| merge (near: 2 seeds) | 0.6000 | -0.1000 (-0.1000 to -0.1000) | **0.8000** |  |",
    ]


def test_a_difference_is_over_subjects():
    assert difference([1.0, 2, 3], [2.0, 3, 4], Codes).sign == -1
    assert difference([1.0, 2, 9], [2.0, 3, 1], Codes).sign == 0


def test_the_best_of_a_column_is_bold():
    assert columns([[1.0, 2.0], [3.0, 1.0]], [".1f", ".0f"], [True, False]) == [["**1.0**", "**2**"], ["3.0", "1"]]
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_captions_are_those_of_the_lists():
    pair = pairs.load("watched_known")[0]
    assert pictures.caption(tuple(pictures.plain(s).caption for s in pair)).startswith("left twemoji, ")
