"""What is said of a training speaks of the weights that were kept."""

from afa_core.training.report import report_text
from afa_core.training.state import TrainingState
from tests.support.toy_training import task

SHARES = {0: 0.5, 5: 0.3, 10: 0.1}
"""Of the first expert, at every step that is evaluated."""


def test_the_shares_beside_the_best_loss_are_those_of_the_same_weights():
    state = TrainingState({}, step=10, baselines={"model_1": 0.8, "model_2": 0.9})
    for (step, share), loss in zip(SHARES.items(), [1.0, 0.4, 0.9], strict=True):
        state.evaluations.append({"step": step, "held_out": loss, "shares": [[share, 1 - share]]})
    text = report_text("toy", task(0), state)
    assert "- this aggregator: 0.40000" in text
    assert "- model_1: 0.300\n- model_2: 0.700" in text


def test_a_goal_is_no_rival(monkeypatch):
    """A student that comes near its ensemble has paid, though the ensemble loses less."""
    student = task(0)
    monkeypatch.setattr(student, "goal", "ensemble", raising=True)
    state = TrainingState({}, step=10, baselines={"model_1": 0.8, "model_2": 0.9, "ensemble": 0.3})
    state.evaluations.append({"step": 10, "held_out": 0.4, "shares": [[0.5, 0.5]]})
    text = report_text("toy", student, state)
    assert "-50.00 % against the best without training (model_1, 0.80000)" in text
    assert "- ensemble: 0.30000" in text and "not below" not in text
