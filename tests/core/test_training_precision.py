"""Training through half precision: scaled losses and skipped steps; and what a step waits for."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from afa_core.fusion.not_finite import NotFinite
from afa_core.training import loop, session
from afa_core.training.draw import training_draw
from afa_core.training.feed import Feed
from afa_core.training.loop import micro_batch, training_step
from afa_core.training.session import Keeping, fit
from afa_core.training.state import Training, TrainingSettings, TrainingState
from afa_core.training.tasks.aggregator import AggregatorSettings, AggregatorTask
from tests.support.toy_training import SOURCES, run, task
from tests.support.training_toys import CONFIG, ToyExperts, same_weights, toy_dataset

STEPS = 12


class HalfExperts(ToyExperts):
    """The toys in float16, as most graphics cards run theirs."""

    compute_dtype = torch.float16

    def __init__(self):
        super().__init__()
        for expert in self.experts:
            expert.half()

    def predict(self, fusion, noisy, sigma, texts, observe=None):
        texts = [{"c_crossattn": text["c_crossattn"].half()} for text in texts]
        return super().predict(fusion, noisy.half(), sigma.half(), texts, observe)


class Overflowing(AggregatorTask):
    """Its gradient overflows at the tries of `when`, counted from 1."""

    def __init__(self, when=()):
        super().__init__(HalfExperts(), CONFIG, SOURCES, AggregatorSettings(), 0)
        self.when, self.tries = when, 0
        next(self.module.parameters()).register_hook(self.overflow)

    def overflow(self, gradient):
        self.tries += 1
        return gradient * math.inf if self.when == "always" or self.tries in self.when else gradient


def trained(folder, half, steps=STEPS, listen=lambda report: None, **changes):
    settings = TrainingSettings(
        **{"steps": steps, "batch_size": 2, "learning_rate": 3e-3, "warmup_steps": 2, "evaluate_every": 6, **changes}
    )
    folder.mkdir(exist_ok=True)
    return fit(half, toy_dataset(), settings, Keeping(folder / "half.safetensors", save_every=3), listen)


def test_float16_scales_its_loss_and_learns_what_float32_learns(tmp_path):
    half = Overflowing()
    training = Training(half, toy_dataset(), TrainingSettings(batch_size=2), TrainingState({}))
    assert training.scaler.is_enabled() and training.scaler.get_scale() == 2**16
    training.feed.close()
    _, in_half = trained(tmp_path / "half", half)
    (tmp_path / "full").mkdir()
    _, in_full = run(tmp_path / "full", STEPS, evaluate_every=6)
    assert in_half.best_loss("held_out") == pytest.approx(in_full.best_loss("held_out"), rel=5e-3)
    assert in_half.best_loss("held_out") < 0.9 * in_half.evaluations[0]["held_out"]


def test_a_step_that_overflows_is_tried_again_and_neither_counted_nor_averaged(tmp_path):
    seen = []
    half = Overflowing({4, 5})
    _, state = trained(tmp_path / "a", half, ema=0.9, listen=lambda report: seen.append(report.state.step))
    assert state.skipped == 2 and state.step == STEPS == len(state.losses)
    assert half.tries == STEPS + 2 and seen.count(3) == 3


def test_a_step_that_overflows_changes_nothing_but_the_scale():
    half = Overflowing({1})
    training = Training(half, toy_dataset(), TrainingSettings(batch_size=2, ema=0.9), TrainingState({}))
    before = {key: tensor.clone() for key, tensor in half.module.state_dict().items()}
    assert training_step(training) is None
    assert same_weights(half.module.state_dict(), before) and training.scaler.get_scale() == 2**15
    assert training.average.n_averaged == 0 and not training.state.torn
    training.feed.close()


def test_skipped_steps_stand_in_the_report(tmp_path):
    from afa_core.training.report import report_text

    half = Overflowing({2})
    _, state = trained(tmp_path / "a", half)
    assert "1 steps were tried again, since their gradients overflowed float16." in report_text("half", half, state)


def test_endless_overflow_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "OVERFLOWS", 4)
    with pytest.raises(NotFinite, match="gradients of training step 1 overflow float16 at every scale: lower learning"):
        trained(tmp_path / "a", half := Overflowing("always"))
    assert half.tries == 4 and not any((tmp_path / "a").iterdir())  # no step was taken


def test_an_interrupted_training_in_float16_goes_on_at_the_scale_it_had(tmp_path):
    whole, expected = trained(tmp_path / "whole", Overflowing({4, 5}), steps=8)

    class Interrupted(BaseException):
        pass

    def interrupt(report):
        if report.state.step == 6:
            raise Interrupted

    with pytest.raises(Interrupted):
        trained(tmp_path / "cut", Overflowing({4, 5}), 8, interrupt)
    half = Overflowing()
    file, state = trained(tmp_path / "cut", half, steps=8)
    assert half.tries == 2
    assert same_weights(file.state, whole.state) and state.losses == expected.losses
    assert state.scaler["scale"] == 2**14 and state.skipped == 2


class Reads(TorchDispatchMode):
    """Counts what makes a device wait: numbers that are read."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_before_the_step_is_done():
    training = Training(task(0), toy_dataset(), TrainingSettings(batch_size=2), TrainingState({}))
    micro_batch(training, 0)
    with Reads() as reads:
        micro_batch(training, 1)
    assert reads.count == 0
    with Reads() as control:
        torch.ones(1).item()
    assert control.count == 1
    training.feed.close()


def test_a_feed_gives_what_the_dataset_would_have_given_in_any_order():
    dataset = toy_dataset()
    feed = Feed(dataset, 5, torch.device("cpu"))
    for index in (0, 1, 1, 7, 8, 2):
        batch, draw = feed[index]
        expected = training_draw(batch.latents.shape, 5, index)
        assert torch.equal(batch.latents, dataset.train_batch(index).latents)
        assert torch.equal(draw.noise, expected.noise) and torch.equal(draw.levels, expected.levels)
    feed.close()


def test_an_error_while_a_batch_is_made_reaches_the_step_that_needs_it():
    dataset = toy_dataset()
    feed = Feed(dataset, 0, torch.device("cpu"))
    _ = feed[0]
    dataset.store.latent = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        [feed[index] for index in range(1, 4)]
    feed.close()


def test_slow_steps_are_saved_by_the_clock(tmp_path, monkeypatch):
    saves = []
    real = session.save_state
    monkeypatch.setattr(
        session, "save_state", lambda training, path: (saves.append(training.state.step), real(training, path))
    )
    monkeypatch.setattr(session, "SAVE_SECONDS", 0.0)
    run(tmp_path, 4)
    assert saves == [1, 2, 3, 4, 4]
