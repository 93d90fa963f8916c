"""Weights for every noise level from a probe's grams, and the fusion that uses them."""

import pytest
import torch

from afa_core.fusion.fusion import Embeddings, FusionError, FusionState
from afa_core.fusion.levels import LevelFusion, interpolated
from afa_core.fusion.points import FusionPoint
from afa_core.probe.measure import gram_of, quadratic
from afa_core.probe.weights import STRENGTHS, level_weights, regularised

POINTS = [FusionPoint(0, "middle", 8, 1), FusionPoint(1, "prediction", 4, 1)]


def grams(scales, pictures=12, seed=0):
    """[I, L, K, K] of experts whose errors are independent, of these sizes [L, K]; half of each error is shared by all."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(pictures):
        shared = torch.randn(1, 4, 4, 8, 8, generator=generator)
        own = torch.randn(len(scales[0]), 4, 4, 8, 8, generator=generator)
        rows.append(torch.stack([gram_of(shared + own * torch.tensor(row).view(-1, 1, 1, 1, 1)) for row in scales]))
    return torch.stack(rows)


def test_a_spoiled_expert_loses_its_weight_where_it_is_spoiled():
    found = level_weights(grams([[1.0, 1.0, 1.0], [1.0, 1.0, 3.0]]))
    even, uneven = torch.tensor(found["weights"])
    assert (even - 1 / 3).abs().max() < 0.05
    assert uneven[2] < 0.12
    assert found["low"] > 0 and found["strength"] < STRENGTHS[-1]


def test_equal_experts_keep_equal_shares():
    found = level_weights(grams([[1.0, 1.0, 1.0]]))
    assert abs(found["gain"]) < 0.01
    torch.testing.assert_close(torch.tensor(found["weights"]), torch.full((1, 3), 1 / 3, dtype=torch.float32), atol=0.03, rtol=0)


def test_strength_leads_from_the_best_weights_to_equal_ones():
    mean = grams([[1.0, 2.0, 3.0]]).mean(0)
    weights = [regularised(mean, strength)[0] for strength in STRENGTHS]
    distances = [(each - 1 / 3).norm() for each in weights]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-4
    losses = [quadratic(mean[0], each) for each in weights]
    assert losses == sorted(losses)


def test_one_picture_says_nothing():
    assert level_weights(grams([[1.0, 3.0]], pictures=1))["weights"] == [[0.5, 0.5]]


def test_weights_between_levels_and_beyond_them():
    levels, weights = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    found = interpolated(levels, weights, torch.tensor([0.0, 0.1, 0.2, 0.5, 0.7, 1.0]))
    torch.testing.assert_close(found[:, 0], torch.tensor([1.0, 1.0, 0.875, 0.5, 0.25, 0.0]))


def test_only_predictions_are_fused_each_by_its_own_level():
    fusion = LevelFusion((0.0, 1.0), ((1.0, 0.0), (0.0, 1.0))).bind(POINTS, 2)
    features = [torch.zeros(2, 4, 2, 2), torch.ones(2, 4, 2, 2)]
    state = FusionState([Embeddings(), Embeddings()], level=torch.tensor([0.25, 1.0]))
    assert fusion(POINTS[0], features, state) is features
    for fused in fusion(POINTS[-1], features, state):
        torch.testing.assert_close(fused[:, 0, 0, 0], torch.tensor([0.25, 1.0]))


def test_another_number_of_models_is_refused():
    with pytest.raises(FusionError, match="weights for 2 models, but 3 models are connected"):
        LevelFusion((0.0, 1.0), ((1.0, 0.0), (0.0, 1.0))).bind(POINTS, 3)
