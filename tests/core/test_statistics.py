"""Paired statistics, FID and IS, each against hand-computed or independent values."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from afa_core.scoring.distribution import frechet_distance, inception, inception_features, inception_score
from afa_core.scoring.statistics import bootstrap_interval, by_prompt, compare, summarise
from tests.support.inception_state import random_inception

# ---- statistics ----


def test_a_summary_by_hand():
    found = summarise([1.0, 2.0, 3.0, 6.0])
    assert (found.n, found.mean) == (4, 3.0)
    assert found.standard_error == pytest.approx(math.sqrt(14 / 3 / 4))
    assert found.low < found.mean < found.high


def test_one_value_has_no_error():
    found = summarise([2.5])
    assert found.mean == 2.5
    assert math.isnan(found.standard_error) and math.isnan(found.low)
    with pytest.raises(ValueError, match="no scores"):
        summarise([])


def test_the_bootstrap_agrees_with_scipys():
    values = np.random.default_rng(0).gamma(2.0, size=60)
    low, high = bootstrap_interval(values.tolist())
    theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=1)
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.02)
    assert (low, high) == bootstrap_interval(values.tolist())


def test_pictures_of_one_prompt_count_once():
    assert by_prompt(["a", "b", "a"], [1.0, 5.0, 3.0]) == {"a": 2.0, "b": 5.0}


def test_a_comparison_by_hand():
    ours = {"a": 3.0, "b": 2.0, "c": 5.0, "d": 1.0}
    found = compare(ours, {"a": 1.0, "b": 2.0, "c": 4.0, "d": 2.0})
    assert (found.wins, found.losses) == (2, 1)
    assert found.difference.mean == pytest.approx(0.5)
    with pytest.raises(ValueError, match="same prompts"):
        compare(ours, {"a": 1.0})


# ---- FID and IS ----


def features(n, size, seed, shift=0.0):
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed)) * 1.5 + shift


def test_the_distance_of_two_gaussians_by_formula():
    """In one dimension: (m1 - m2)^2 + (s1 - s2)^2."""
    one, other = features(50, 1, 0), features(70, 1, 1, 2.0)
    expected = (one.mean() - other.mean()) ** 2 + (one.std() - other.std()) ** 2
    assert frechet_distance(one, other) == pytest.approx(expected.item(), rel=1e-5)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_fid_is_scipys_and_torch_fidelitys():
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    one, other = features(300, 24, 0).double(), features(200, 24, 1, 0.3).double()
    root = scipy.linalg.sqrtm(np.cov(one.numpy().T) @ np.cov(other.numpy().T)).real
    difference = one.mean(0) - other.mean(0)
    traces = np.trace(np.cov(one.numpy().T)) + np.trace(np.cov(other.numpy().T))
    expected = (difference @ difference).item() + traces - 2 * np.trace(root)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6)
    few = features(10, 24, 2).double()  # fewer than dimensions
    theirs = fid_statistics_to_metric(fid_features_to_statistics(few), fid_features_to_statistics(other), False)
    assert frechet_distance(few, other) == pytest.approx(theirs[KEY_METRIC_FID], rel=1e-4)


def test_inception_score_by_hand():
    """Sure of a different class each: the number of classes. Sure of one class: 1."""
    clear = 50 * torch.eye(5).repeat(8, 1)
    mean, deviation = inception_score(clear, splits=1)
    assert mean == pytest.approx(5, rel=1e-4)
    assert deviation == 0
    assert inception_score(clear[:1].repeat(20, 1))[0] == pytest.approx(1)


def test_the_inception_network_from_a_file(tmp_path):
    """A file of the right layout, with small weights instead of trained ones."""
    path = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(random_inception(), path)
    generator = torch.Generator().manual_seed(0)
    network = inception(path)
    pictures = torch.rand(3, 40, 60, 3, generator=generator)
    found, logits = inception_features(network, [pictures[:2], pictures[2:]])
    assert found.shape == (3, 2048)
    assert logits.shape == (3, 1008)
    expected = network((pictures.movedim(-1, 1) * 255).round().to(torch.uint8))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.save({"fc.weight": torch.zeros(1)}, path)
    with pytest.raises(RuntimeError):
        inception(path)
