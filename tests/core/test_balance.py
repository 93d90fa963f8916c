"""The term of the loss that asks for balanced shares: of a whole batch, and computed where it counts alone."""

import pytest
import torch

from afa_core.training.draw import training_draw
from afa_core.training.objective import Balance
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
