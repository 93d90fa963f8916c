"""Terms and weights of the loss: the balance of shares, of a whole batch and computed where it counts alone, and min-SNR."""

import pytest
import torch

from afa_core.training.draw import training_draw
from afa_core.training.objective import Balance, problem, sample_loss, snr_weight
from tests.support.toy_training import task
from tests.support.training_toys import POINTS, ToyExperts, toy_dataset


def test_a_batch_that_is_evaluated_in_parts_has_the_balance_of_the_whole():
    shares = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    whole, parts = Balance(), Balance()
    whole.observe(POINTS[0], shares)
    for part in shares.split([2, 1, 1]):
        parts.observe(POINTS[0], part)
    torch.testing.assert_close(parts.shares, whole.shares)
    assert parts.imbalance().item() == pytest.approx(whole.imbalance().item())


@pytest.mark.parametrize(("load_balance", "terms"), [(0.0, ["error"]), (0.1, ["error", "balance"])])
def test_shares_are_gathered_only_where_the_loss_asks_for_balance(monkeypatch, load_balance, terms):
    observers, predict = [], ToyExperts.predict
    monkeypatch.setattr(ToyExperts, "predict", lambda *args: observers.append(args[-1]) or predict(*args))
    batch = toy_dataset().train_batch(0)
    loss = task(0, load_balance=load_balance).loss(batch, training_draw(batch.latents.shape, 0, 0))
    assert list(loss) == terms
    assert [observer is not None for observer in observers] == [load_balance > 0]


def test_min_snr_weighs_the_loss_of_every_sample():
    batch = toy_dataset().train_batch(0)
    draw = training_draw(batch.latents.shape, 0, 0)
    weighed = task(0, min_snr_gamma=0.01)
    sigma, _, _ = problem(weighed.experts, batch, draw)
    weights = snr_weight(weighed.experts, sigma, 0.01)
    each = sample_loss(weighed.experts, weighed.fusion(), batch, draw)
    assert weights.max() > 1.01 * weights.min()
    torch.testing.assert_close(weighed.loss(batch, draw)["error"], (weights * each).mean())
    torch.testing.assert_close(task(0).loss(batch, draw)["error"], each.mean())
