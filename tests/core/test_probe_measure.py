"""The probe's measures on experts of known structure."""

import itertools
import json

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from afa_core.probe import measure as maths
from afa_core.probe.plot import probe_plot
from afa_core.probe.report import Probe, best_fixed_mix, report_of
from afa_core.probe.table import probe_table

LEVELS = (100, 500)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- least loss over mixes ----

grams = st.tuples(st.integers(1, 5), st.integers(0, 10**6)).map(
    lambda drawn: (lambda a: a @ a.T / 7)(normal(drawn[0], 7, seed=drawn[1]).double() + 0.7)
)


@given(grams)
def test_the_simplex_minimum_is_the_one_a_solver_finds(gram):
    weights = maths.simplex_minimum(gram)
    assert weights.min() >= 0 and weights.sum().item() == pytest.approx(1)
    found = minimize(
        lambda w: w @ gram.numpy() @ w,
        numpy.full(len(gram), 1 / len(gram)),
        jac=lambda w: 2 * gram.numpy() @ w,
        bounds=[(0, 1)] * len(gram),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert maths.quadratic(gram, weights).item() <= found.fun * (1 + 1e-6) + 1e-12


@given(grams)
def test_the_sum_one_minimum_cannot_be_improved(gram):
    weights = maths.sum_one_minimum(gram)
    least = maths.quadratic(gram, weights)
    for step in (1e-2, -1e-2):
        for i, j in itertools.permutations(range(len(gram)), 2):
            other = weights.clone()
            other[i] += step
            other[j] -= step
            assert maths.quadratic(gram, other) >= least * (1 - 1e-6)


def test_grams_are_solved_together_as_one_by_one():
    batch = torch.stack([(lambda a: a @ a.T)(normal(3, 5, seed=s).double()) for s in range(6)]).reshape(2, 3, 3, 3)
    together = maths.simplex_minimum(batch)
    for i, j in itertools.product(range(2), range(3)):
        torch.testing.assert_close(together[i, j], maths.simplex_minimum(batch[i, j]))


def test_the_same_expert_twice_has_equal_weights():
    gram = torch.full((2, 2), 0.3, dtype=torch.float64)
    assert maths.quadratic(gram, maths.simplex_minimum(gram)).item() == pytest.approx(0.3)
    torch.testing.assert_close(maths.sum_one_minimum(gram), torch.full((2,), 0.5, dtype=torch.float64))


def test_gram_and_diversity():
    errors = torch.stack([normal(4, 2, 8, 8, seed=0), normal(4, 2, 8, 8, seed=1)])
    errors = torch.cat([errors, 2 * errors[:1]])
    gram = maths.gram_of(errors)
    assert gram[0, 1].item() == pytest.approx((errors[0] * errors[1]).mean().item(), abs=1e-6)
    correlation = maths.diversity(gram)
    assert correlation[0, 2].item() == pytest.approx(1)
    assert abs(correlation[0, 1].item()) < 0.15
    assert correlation.diagonal().tolist() == pytest.approx([1, 1, 1])


# ---- experts of known structure ----


def halves(places=True, pictures=False, draws=8, seed=0, picture=0):
    """Errors [2, M, C, 16, 16] of two experts: one fails on the left and one on the right, the same or other halves for
    each noise; or each fails on every other picture."""
    shared = normal(draws, 4, 16, 16, seed=seed + 1000 * picture)
    scale = torch.ones(2, draws, 1, 16, 16)
    for m in range(draws):
        swap = places == "moving" and bool(normal(1, seed=seed + m + 77 * picture) > 0)
        if places:
            scale[0, m, :, :, :8] = 1.5 if not swap else 1.0
            scale[1, m, :, :, 8:] = 1.5 if not swap else 1.0
            if swap:
                scale[0, m, :, :, 8:] = 1.5
                scale[1, m, :, :, :8] = 1.5
        if pictures:
            scale[picture % 2, m] = 1.5
    own = torch.stack([normal(draws, 4, 16, 16, seed=seed + 1000 * picture + 1 + k) for k in range(2)])
    return scale * (shared + 0.05 * own)


def examined(count=12, domains=None, cosine=0.9, **structure):
    rows = [[halves(seed=s, picture=i, **structure) for s in range(len(LEVELS))] for i in range(count)]
    fixed = best_fixed_mix(torch.stack([torch.stack([maths.gram_of(e) for e in row]) for row in rows]))
    cells = [[maths.examine(errors, fixed) for errors in row] for row in rows]
    weights = torch.tensor([[1, cosine], [cosine, 1]])
    return report_of(Probe(["one", "two"], domains or [""] * count, LEVELS, 8, weights, cells))


def test_experts_for_different_places_are_worth_it():
    report = examined()
    assert report["verdict"] == "worth it" and report["sentence"].startswith("Worth it")
    # Following the right expert everywhere leaves 1.0025 of what the equal mix has: ((1 + 1.5) / 2)^2 = 1.5625.
    pick = report["routers"]["pick"]
    assert pick["gain"] == pytest.approx(1 - 1 / 1.5625, abs=0.02)
    assert pick["low"] <= pick["gain"] <= pick["high"]
    assert report["routers"]["picture"]["gain"] == pytest.approx(0, abs=0.02)  # no picture has a better expert
    assert report["fixed_mix"]["weights"] == pytest.approx([0.5, 0.5], abs=0.03)
    assert report["kappa"] > 0.9
    assert report["wins"] == pytest.approx([0.5, 0.5], abs=0.05)


def test_experts_whose_strengths_move_with_the_noise_are_not():
    report = examined(places="moving")
    assert report["verdict"] == "not worth it"
    assert report["kappa"] < 0.1 and report["gain"]["low"] < 0.01


def test_experts_for_different_pictures_are_worth_it_by_picture_and_by_domain():
    domains = ["even", "odd"] * 6
    report = examined(places=False, pictures=True, domains=domains)
    assert report["verdict"] == "worth it"
    for router in ("picture", "domain", "pick"):
        assert report["routers"][router]["gain"] == pytest.approx(1 - 1 / 1.5625, abs=0.02)
    assert [(row["domain"], row["best"]) for row in report["by_domain"]] == [("even", "two"), ("odd", "one")]
    assert report["kappa"] > 0.9
    unsorted = examined(places=False, pictures=True)
    assert "domain" not in unsorted["routers"] and unsorted["verdict"] == "worth it"


def test_experts_that_differ_by_chance_only_are_not_worth_training_but_worth_mixing():
    report = examined(places=False, pictures=False)
    assert report["verdict"] == "not worth it"
    assert report["gain"]["gain"] < 0.01 and abs(report["kappa"]) < 0.05
    assert "; a merge of 0.5" in report["sentence"]


def test_one_expert_that_is_better_everywhere_needs_no_router():
    rows = [[torch.stack([normal(8, 4, 16, 16, seed=i), 2 * normal(8, 4, 16, 16, seed=i)])] for i in range(6)]
    fixed = best_fixed_mix(torch.stack([torch.stack([maths.gram_of(e) for e in row]) for row in rows]))
    cells = [[maths.examine(errors, fixed) for errors in row] for row in rows]
    report = report_of(Probe(["good", "bad"], [""] * 6, (500,), 8, torch.eye(2), cells))
    assert report["verdict"] == "not worth it"
    assert report["fixed_mix"]["weights"] == pytest.approx([1, 0])
    assert report["best_single"]["expert"] == "good"
    assert report["sentence"].endswith("; good alone is as good as any merge.")


@pytest.mark.parametrize(
    ("noise", "cosine", "verdict"),
    [(0, 1, "the same model"), (0.01, 0.99999, "the same model"), (0.01, 0.99, "not worth it"), (0.5, 0.99999, "not worth it")],
)  # fmt: skip
def test_the_same_model_has_equal_weights_and_predictions(noise, cosine, verdict):
    """Equal weights with other predictions are one checkpoint with a LoRA; equal predictions of other weights are alike."""
    cells = []
    for i in range(6):
        one = normal(4, 4, 16, 16, seed=i)
        errors = torch.stack([one, one + noise * normal(4, 4, 16, 16, seed=i + 50)])
        cells.append([maths.examine(errors, torch.tensor([0.5, 0.5]).double())])
    report = report_of(
        Probe(["a", "b"], [""] * 6, (500,), 4, torch.tensor([[1, cosine], [cosine, 1]], dtype=torch.float64), cells)
    )
    assert report["verdict"] == verdict
    if verdict == "the same model":
        assert report["same"] == [[0, 1]] and report["sentence"].startswith("The same model: b is a copy of a;")


def test_three_copies_are_named_once_each():
    errors = normal(4, 4, 16, 16)[None].expand(3, -1, -1, -1, -1)
    cells = [[maths.examine(errors, torch.full((3,), 1 / 3, dtype=torch.float64))] for _ in range(3)]
    report = report_of(Probe(["a", "b", "c"], [""] * 3, (500,), 4, torch.ones(3, 3), cells))
    assert report["sentence"].startswith("The same model: b is a copy of a and c is a copy of a;")


def test_one_noise_is_too_few():
    with pytest.raises(ValueError, match="2 noises or more"):
        maths.examine(halves(draws=1), torch.tensor([0.5, 0.5]).double())


def test_a_router_never_sees_the_noise_it_is_measured_on():
    """Pure noise has no structure: a router fitted to the noise it is measured on would gain, one fitted to other noise loses a little."""
    errors = torch.stack([normal(4, 1, 32, 32, seed=0), normal(4, 1, 32, 32, seed=1)])
    cell = maths.examine(errors, torch.tensor([0.5, 0.5]).double())
    assert cell.pick == pytest.approx(1, abs=0.08)
    assert cell.picture >= 0.5 * 0.95
    assert cell.mix[0].item() == pytest.approx(0.5, abs=0.05)
    assert (cell.mix[1:] >= cell.mix[0] * 0.999).all()


def test_the_mix_by_picture_is_not_fitted_to_the_noise_it_is_measured_on():
    """On few values a mix fitted to the values it is measured on beats the equal one; one fitted to others cannot."""
    equal = torch.full((4,), 0.25, dtype=torch.float64)
    losses = [maths.examine(normal(4, 2, 1, 2, 2, seed=seed), equal).picture for seed in range(300)]
    assert sum(losses) / 300 > 0.27


def test_the_interval_covers_the_truth():
    """Over many samples of pictures with a known gain, 95 % of the intervals should hold it."""
    hits = 0
    for seed in range(200):
        fixed = 1 + 0.3 * normal(24, seed=seed).abs().double()
        routed = fixed * (0.95 + 0.05 * normal(24, seed=seed + 1000).double())
        low, high = maths.interval(routed, fixed, seed)
        hits += low <= 0.05 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_a_picture_alone_in_its_domain_gets_the_others_mix():
    grams = torch.stack([torch.diag(torch.tensor(d)).double()[None] for d in ([1.0, 9.0], [1.0, 9.0], [9.0, 1.0])])
    losses = maths.domain_losses(grams, ["x", "x", "y"])[:, 0]
    own = maths.quadratic(grams[0, 0], maths.simplex_minimum(grams[0, 0]))
    assert losses[:2].tolist() == pytest.approx([own.item()] * 2)
    assert losses[2] > own * 3
    assert maths.domain_losses(grams[:1], ["x"]).shape == (1, 1)


def test_plot_table_and_json():
    report = json.loads(json.dumps(examined(count=4, domains=["a", "b"] * 2)))
    plot = probe_plot(report)
    assert plot.ndim == 4 and plot.shape[-1] == 3 and 0 <= plot.min() < plot.max() <= 1
    table = probe_table(report)
    assert table.splitlines()[0] == report["sentence"]
    assert "\n\nLoss by sub-folder:\n\n- a: " in table
    assert [row["timestep"] for row in report["by_level"]] == list(LEVELS)
