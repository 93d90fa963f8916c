"""Selective ensembling: exact where nothing is left out, and really cheaper where something is."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from afa_core.fusion.fusion import FusionError, FusionState
from afa_core.fusion.lockstep import absent, lockstep
from afa_core.fusion.points import FusionPoint
from afa_core.fusion.sabw_fusion import SABWFusion
from afa_core.fusion.selection import KeptRouting, Selection, Selector, left_out, routing_table
from afa_core.training.fusions import ExpertDropout
from afa_core.training.loop import Stop
from tests.core.test_fusion import POINTS, tiny_aggregator, tiny_state, toy_stream, toy_weights
from tests.support.ensembles import certain_aggregator, ensemble, random_aggregator
from tests.support.graphs import control_net, freeu_v2, ip_adapter, sample
from tests.support.shop import Shop
from tests.support.toy_training import run as train_toy


# ------------------------------------------------------------------ which experts are left out
def test_left_out_is_by_share_and_never_everyone():
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8]])
    assert left_out(shares, 0.0) == {0: frozenset(), 1: frozenset(), 2: frozenset()}
    assert left_out(shares, 0.2) == {0: frozenset({2}), 1: frozenset({2}), 2: frozenset({0})}
    assert left_out(shares, 1.0) == {0: frozenset({1, 2}), 1: frozenset({0, 2}), 2: frozenset({0, 1})}


def table_of(points, shares):
    return routing_table({"points": points, "shares": shares}, POINTS, 2)


def test_a_files_table():
    rows = [[[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]
    table = table_of([point.name for point in POINTS], rows)
    assert torch.equal(table, torch.tensor([rows[0], [[1.0, 1.0]] * 3]))


def test_points_that_are_not_fused_go_with_the_next_that_is():
    assert table_of(["prediction"], [[[0.25, 0.75]]]).tolist() == [[[0.25, 0.75]] * 3]


@pytest.mark.parametrize(
    "routing",
    [
        {},
        {"points": 3, "shares": 4},
        {"points": ["input 0"], "shares": [[[0.5, 0.5]]]},
        {"points": ["prediction"], "shares": [[[0.5, 0.3, 0.2]]]},
        {"points": ["prediction"], "shares": [[[float("nan"), 0.5]]]},
        {"points": ["prediction"], "shares": "many"},
    ],
)
def test_a_table_that_says_nothing_of_these_experts(routing):
    assert routing_table(routing, POINTS, 2) is None


def test_without_a_table_the_pictures_must_tell():
    with pytest.raises(FusionError, match="decide_every"):
        Selection(skip_below=0.2)
    assert not Selection(skip_below=0.2, decide_every=2).is_full


def test_the_table_is_read_at_the_noise_level_of_the_step():
    table = torch.tensor([[[0.9, 0.1]] * 3, [[0.1, 0.9]] * 3])
    selector = Selector(Selection(0.2, 1, table), None, 3)
    low, high = (selector.choose(1, lambda t=timestep: t, "both").left_out for timestep in (0.1, 0.9))
    assert (low[0], low[1]) == (frozenset(), frozenset({0, 1, 2})) == (high[1], high[0])


@pytest.mark.parametrize("every", [2, 3])
def test_every_so_many_steps_all_decide(every):
    """Each batch of conditionings for itself; a batch that was not there in the full step is evaluated in full."""
    selector = Selector(Selection(0.2, every), SABWFusion(tiny_aggregator()), 3)
    for step in range(7):
        for batch in ("both", "late") if step > 0 else ("both",):
            choice = selector.choose(step + 1, lambda: 0.5, batch)
            full = step % every == 0 or (batch == "late" and step == 1)
            assert (choice.keep is not None) == full, (step, batch)
            if full:
                for point in POINTS:
                    choice.keep.keep(point, torch.tensor([0.9, 0.1]).view(1, 2, 1, 1))
                choice.keep.end()
            else:
                assert choice.left_out == {0: frozenset(), 1: frozenset({0, 1, 2})}


# ------------------------------------------------------------------ in lockstep
def evaluated(fusion, left_out=(), observe=None):
    """The prediction of two toys in float64, the second left out of some points."""
    torch.manual_seed(0)
    first, second, state = toy_weights(), toy_weights(), tiny_state()
    streams = [toy_stream(first), leaving_out(toy_stream(second), left_out)]
    return lockstep(streams, POINTS, fusion, FusionState(state.embeddings, observe))


def kept_routing() -> KeptRouting:
    return KeptRouting(len(POINTS), Selection())


def leaving_out(stream, points):
    feature = next(stream)
    for index in range(len(POINTS) - 1):
        feature = stream.send((yield None if index in points else feature))
    yield None if len(POINTS) - 1 in points else feature


def test_who_is_left_out_has_no_share():
    seen = kept_routing()
    evaluated(SABWFusion(tiny_aggregator()), {1}, seen.keep)
    assert seen.maps[1].mean((0, 2, 3)).tolist() == [1.0, 0.0]
    assert (seen.maps[0] > 0).all() and (seen.maps[2] > 0).all()


def test_the_others_share_what_is_left():
    """The mean of the others stands in for the feature of an expert that was left out, and has no share."""
    aggregator, state = tiny_aggregator(3), tiny_state(3)
    a, b = torch.randn(2, 1, 5, 2, 3, dtype=torch.float64)
    seen = kept_routing()
    SABWFusion(aggregator)(POINTS[1], [a, None, b], replace(state, observe=seen.keep))
    shares = seen.maps[1]
    assert not shares[:, 1].any() and torch.allclose(shares.sum(1), torch.ones(1, 2, 3, dtype=torch.float64))
    read = aggregator(state.mean_time, state.mean_text)[1]
    stand_in = aggregator.logits(1, [a, (a + b) / 2, b], read, 1).softmax(1)[:, [0, 2]]
    assert torch.allclose(shares[:, [0, 2]], stand_in / stand_in.sum(1, keepdim=True))


def test_an_expert_left_out_of_everything_needs_no_stream():
    fusion = SABWFusion(tiny_aggregator())
    weights, state = toy_weights(), tiny_state()
    alone = lockstep([toy_stream(weights)], POINTS, lambda point, features, state: features, state)
    assert torch.equal(lockstep([toy_stream(weights), absent()], POINTS, fusion, state), alone)
    assert torch.equal(lockstep([absent(), toy_stream(weights)], POINTS, fusion, state), alone)


def test_kept_maps_fuse_as_they_did():
    kept = kept_routing()
    found = evaluated(SABWFusion(tiny_aggregator()), observe=kept.keep)
    kept.end()
    assert torch.allclose(evaluated(kept), found, atol=1e-12)


def test_kept_maps_without_an_expert():
    kept, seen = kept_routing(), kept_routing()
    evaluated(SABWFusion(tiny_aggregator()), observe=kept.keep)
    kept.end()
    evaluated(kept, {1}, seen.keep)
    assert seen.maps[1].mean((0, 2, 3)).tolist() == [1.0, 0.0]
    assert torch.allclose(seen.maps[2], kept.maps[2])


@pytest.mark.parametrize("point, rate, fewest, most", [(0, 0.0, 3, 3), (0, 0.5, 1, 3), (0, 1.0, 1, 1), (2, 1.0, 2, 2)])
def test_dropout_never_loses_everyone(point, rate, fewest, most):
    counts = []

    def fusion(point, features, state):
        counts.append(sum(feature is not None for feature in features))
        return features

    dropout = ExpertDropout(fusion, rate, torch.Generator().manual_seed(0))
    for _ in range(50):
        dropout(POINTS[point], [torch.zeros(1)] * 3, None)
    assert (min(counts), max(counts)) == (fewest, most)


def test_lost_experts_go_on_by_themselves_where_nothing_is_fused():
    fusion = ExpertDropout(SABWFusion(tiny_aggregator(3, ablations=("blocks",))), 0.9, torch.Generator().manual_seed(0))
    features = [torch.randn(1, 3, 2, 2, dtype=torch.float64) for _ in range(3)]
    assert all(x is own for x, own in zip(fusion(POINTS[0], features, tiny_state(3)), features, strict=True))


def test_gradients_while_experts_are_lost():
    aggregator = tiny_aggregator(3)
    fusion = ExpertDropout(SABWFusion(aggregator), 0.4, torch.Generator().manual_seed(1))
    for _ in range(4):
        streams = [toy_stream(toy_weights()) for _ in range(3)]
        lockstep(streams, POINTS, fusion, tiny_state(3)).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in aggregator.parameters())


def test_a_training_that_loses_experts_goes_on_to_the_same_numbers(tmp_path):
    def stop(report):
        if report.state.step == 5:
            raise Stop

    folders = [tmp_path / name for name in ("whole", "stopped", "without")]
    for folder in folders:
        folder.mkdir()
    _, whole = train_toy(folders[0], 8, expert_dropout=0.5)
    train_toy(folders[1], 8, stop, expert_dropout=0.5)
    assert train_toy(folders[1], 8, expert_dropout=0.5)[1].losses == whole.losses
    assert train_toy(folders[2], 8)[1].losses != whole.losses


# ------------------------------------------------------------------ in the host
@pytest.fixture(scope="module", params=["tiny_sd15", "tiny_sdxl"])
def shop(request, comfy_host, pack):
    return Shop(comfy_host, request.param)


def with_table(file, shares_of):
    """The file with a routing table of one noise level: shares_of(index of the fusion point)."""
    count = len(file.config.channels)
    names = [point.name for point in points_like(file.config.channels)]
    return replace(file, routing={"points": names, "shares": [[shares_of(index) for index in range(count)]]})


def points_like(channels) -> list[FusionPoint]:
    """Named as a U-Net's are, which needs no more than their number."""
    inputs = (len(channels) - 1) // 2
    names = [f"input {i}" for i in range(inputs)] + ["middle"]
    names += [f"output {i}" for i in range(len(channels) - inputs - 2)] + ["prediction"]
    return [FusionPoint(i, name, c, 1) for i, (name, c) in enumerate(zip(names, channels, strict=True))]


def blocks_run(model, run) -> int:
    """How many convolutions of this model's own network run meanwhile."""
    calls = Counter()
    convolutions = [m for m in model.model.diffusion_model.modules() if isinstance(m, torch.nn.Conv2d)]
    hooks = [m.register_forward_hook(lambda *_: calls.update(["conv"])) for m in convolutions]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls["conv"]


def everything(wires):
    """A graph with a ControlNet, a patch that writes in place, and one that goes by the number of the block."""
    return ip_adapter(freeu_v2(control_net(wires)))


@pytest.mark.parametrize("chosen", [0, 1])
def test_leaving_out_whom_nobody_follows_changes_nothing(shop, chosen):
    table = [0.0, 0.0]
    table[chosen] = 1.0
    file = with_table(certain_aggregator(shop.plain, 2, chosen), lambda index: table)
    models = [shop.plain, shop.other]
    selected = everything(shop.wires(ensemble(shop.host, file, *models, skip_below=0.1)))
    found = []
    assert blocks_run(models[1 - chosen], lambda: found.append(sample(selected))) == 0
    assert torch.equal(found[0], sample(everything(shop.wires(models[chosen]))))


def test_twins_that_take_turns_are_one(shop):
    """Each computes the blocks that the other leaves out; control, patches and counters go on as they should."""
    file = with_table(random_aggregator(shop.plain, 2), lambda index: [0.9, 0.1] if index % 2 else [0.1, 0.9])
    twins = ensemble(shop.host, file, *shop.copies, skip_below=0.5)
    assert torch.equal(sample(everything(shop.wires(twins))), sample(everything(shop.wires(shop.plain))))


def test_skipping_nobody_is_the_full_ensemble_to_the_bit(shop):
    file = with_table(random_aggregator(shop.plain, 2), lambda index: [0.5, 0.5])
    full = sample(shop.wires(ensemble(shop.host, file, shop.plain, shop.other)))
    for widgets in ({"skip_below": 0.0}, {"skip_below": 0.4}):
        assert torch.equal(sample(shop.wires(ensemble(shop.host, file, shop.plain, shop.other, **widgets))), full)


def test_between_full_steps_one_leads(shop):
    """Four steps, of which the first and the third are full: six evaluations of a network instead of eight."""

    def run(decide_every):
        model = ensemble(
            shop.host, random_aggregator(shop.plain, 2), *shop.copies, skip_below=1.0, decide_every=decide_every
        )
        sample(shop.wires(model).with_widgets(steps=4))

    alone = blocks_run(shop.plain, lambda: sample(shop.wires(shop.plain).with_widgets(steps=4)))
    both = sum(blocks_run(copy, lambda: run(2)) for copy in shop.copies)
    assert both == alone * 6 / 4


def test_fixed_shares_have_nothing_to_select_by(shop):
    with pytest.raises(FusionError, match="is not trained"):
        ensemble(shop.host, "block average", shop.plain, shop.other, skip_below=0.1)
