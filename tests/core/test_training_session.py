"""A training's promises: it goes on to the same numbers after anything, and never leaves half a file."""

import copy
from dataclasses import replace

import pytest
import torch

from afa_core.aggregator.file import AggregatorError, load_aggregator
from afa_core.training import loop
from afa_core.training.fusions import OnlyPoints
from afa_core.training.loop import Stop, evaluate, micro_batch, training_step
from afa_core.training.session import RESUME, Keeping, TrainingError, check_continues
from afa_core.training.state import Training, TrainingSettings, TrainingState
from afa_core.training.tasks.aggregator import AggregatorTask
from tests.support import toy_training
from tests.support.killing import STEPS
from tests.support.toy_training import run
from tests.support.training_toys import ToyExperts, computed_steps, same_weights, toy_dataset


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The file and state of an uninterrupted training."""
    return run(tmp_path_factory.mktemp("whole"), STEPS)


def test_training_is_deterministic(whole, tmp_path):
    file, state = run(tmp_path, STEPS)
    assert same_weights(file.state, whole[0].state)
    assert state.losses == whole[1].losses


def test_training_lowers_the_held_out_loss(whole):
    evaluations = whole[1].evaluations
    assert evaluations[0]["held_out"] == pytest.approx(whole[1].baselines["block average"], rel=1e-5)
    assert whole[1].best_loss("held_out") < evaluations[0]["held_out"]


@pytest.mark.parametrize("changes", [{}, {"expert_dropout": 0.5, "load_balance": 0.1}])
def test_checkpointed_aggregators_learn_the_same(tmp_path, monkeypatch, changes):
    """Also where a second draw of lost experts, or a second look at the shares, would be another one."""
    plain, reported = run(tmp_path / "plain", 5, **changes)
    monkeypatch.setattr(ToyExperts, "checkpointing", True)
    saving, reported_saving = run(tmp_path / "saving", 5, **changes)
    assert same_weights(plain.state, saving.state)
    assert reported.losses == reported_saving.losses


@pytest.mark.parametrize("resume", RESUME)
def test_a_file_without_its_state_is_not_overwritten_unless_asked(tmp_path, resume):
    """Somebody else's, or a result whose state was deleted."""
    keeping = Keeping(tmp_path / "toy.safetensors", resume)
    check_continues(keeping, {})
    keeping.path.touch()
    if resume == "start anew":
        check_continues(keeping, {})
        return
    with pytest.raises(TrainingError, match=r"toy.safetensors is there already, without toy.resume, .* to \"start anew\" to replace it"):
        check_continues(keeping, {})


class Interrupted(BaseException):
    """Like the host's interruption, which newer hosts do not count among the exceptions."""


@pytest.mark.parametrize("at", [0, 1, 5, 6, 16])
def test_an_interrupted_training_goes_on_to_the_same_numbers(whole, tmp_path, at):
    def interrupt(report):
        if report.state.step >= at:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(tmp_path, STEPS, interrupt)
    assert any(tmp_path.iterdir()) == bool(at)
    if at:
        assert load_aggregator(tmp_path / "toy.safetensors").config == whole[0].config
    with computed_steps() as steps:
        file, state = run(tmp_path, STEPS)
    assert steps == list(range(at, STEPS))
    assert same_weights(file.state, whole[0].state)
    assert state.losses == whole[1].losses
    assert state.evaluations == whole[1].evaluations


def test_stopping_keeps_the_work_and_ends_well(tmp_path):
    def stop(report):
        if report.state.step == 7:
            raise Stop

    file, state = run(tmp_path, STEPS, stop)
    assert state.finished == "stopped" and state.step == 7
    assert same_weights(file.state, load_aggregator(tmp_path / "toy.safetensors").state)


def test_more_steps_continue_a_finished_training(whole, tmp_path):
    run(tmp_path, 9)
    with computed_steps() as steps:
        file, state = run(tmp_path, STEPS)
    assert steps == list(range(9, STEPS))
    assert state.losses == whole[1].losses
    assert same_weights(
        load_aggregator(tmp_path / "toy-last.safetensors").state, half(torch_state(tmp_path / "toy.resume"))
    )


def test_a_finished_training_is_not_trained_again(tmp_path):
    run(tmp_path, STEPS)
    reported = []
    run(tmp_path, STEPS, reported.append)
    assert reported == []


def torch_state(path):
    from safetensors.torch import load_file

    return {key[7:]: tensor for key, tensor in load_file(path).items() if key.startswith("module.")}


def half(state):
    return {key: tensor.half() for key, tensor in state.items()}


def test_a_changed_setting_is_named_and_refused(tmp_path):
    run(tmp_path, 4)
    with pytest.raises(
        TrainingError, match=r"toy was begun with other settings \(learning_rate was 0.003 and is 0.5\): "
    ):
        run(tmp_path, 8, learning_rate=0.5)
    _, state = run(tmp_path, 8, resume="continue with changes", learning_rate=0.5)
    assert state.step == 8
    _, state = run(tmp_path, 8, resume="start anew", learning_rate=0.5)
    assert len(state.losses) == 8


def test_a_training_of_an_earlier_version_that_names_nothing_of_its_data_goes_on(tmp_path):
    """Their digest says enough."""
    run(tmp_path, 4)
    check_continues(Keeping(tmp_path / "toy.safetensors", data={"resolution": 64}), {})
    run(tmp_path, 5, data={"resolution": 64})
    with pytest.raises(TrainingError, match=r"\(resolution was 64 and is 128\)"):
        check_continues(Keeping(tmp_path / "toy.safetensors", data={"resolution": 128}), {})


def test_an_expert_that_has_changed_is_named(tmp_path, monkeypatch):
    def with_second(name):
        experts = [{"file": f"{file}.safetensors", "sha256": file[0] * 64} for file in ("a_long_name_of_a_checkpoint", name)]
        monkeypatch.setattr(toy_training, "SOURCES", experts)

    with_second("before")
    run(tmp_path, 4)
    with_second("after")
    with pytest.raises(TrainingError) as failure:
        run(tmp_path, 8)
    said = "(file of expert 2 was 'before.safetensors' and is 'after.safetensors'; sha256 of expert 2 was 'bbbb"
    assert said in str(failure.value)


def test_a_way_to_resume_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="resume should be one of continue, continue with changes, start anew, found 'go on'"):
        run(tmp_path, 4, resume="go on")


def test_losses_on_other_data_or_of_other_experts_are_measured_anew(tmp_path, monkeypatch):
    """A held-out loss of before would else be compared with those after, and its weights kept as the best ones."""
    run(tmp_path, 11)
    kept = run(tmp_path, 12, resume="continue with changes", learning_rate=0.5)[1]
    assert [row["step"] for row in kept.evaluations] == [0, 5, 10, 11, 12]
    monkeypatch.setattr(toy_training, "SOURCES", [{"file": "a"}, {"file": "other"}])
    monkeypatch.setattr(ToyExperts, "labels", ["model_1", "model_2 (other)"])
    file, state = run(tmp_path, 13, resume="continue with changes", learning_rate=0.5)
    assert [row["step"] for row in state.evaluations] == [12, 13] and len(state.losses) == 13
    assert "model_2 (other)" in state.baselines and "model_2" not in state.baselines
    assert file.training["baselines"] == state.baselines


def test_changed_loras_are_named_and_refused(tmp_path, monkeypatch):
    """And a training that was begun before LoRAs counted, without any, goes on."""
    lora = {"file": "style.safetensors", "strength": 1.0, "strength_clip": 1.0}
    plain = [{"file": "a", "sha256": "1", "sketch": "as loaded", "patches": "", "loras": []}, {"file": "b"}]
    tuned = [{**plain[0], "patches": "12345678" * 8, "loras": [lora]}, plain[1]]
    for experts, steps in (([{"file": "a", "sha256": "1"}, {"file": "b"}], 4), (plain, 5)):
        monkeypatch.setattr(toy_training, "SOURCES", experts)
        run(tmp_path, steps)
    monkeypatch.setattr(toy_training, "SOURCES", tuned)
    expected = r"LoRAs of expert 1 was absent and is \['12345678', 'style.safetensors'\]\): "
    with pytest.raises(TrainingError, match=expected):
        run(tmp_path, 6)
    run(tmp_path, 6, resume="continue with changes")
    assert load_aggregator(tmp_path / "toy.safetensors").experts == tuned
    monkeypatch.setattr(toy_training, "SOURCES", plain)
    with pytest.raises(TrainingError, match="LoRAs of expert 1 was .* and is absent"):
        run(tmp_path, 7)


def test_a_damaged_state_is_refused_in_one_sentence(tmp_path):
    run(tmp_path, 4)
    path = tmp_path / "toy.resume"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(AggregatorError, match="toy.resume .* start anew"):
        run(tmp_path, 8)


def test_a_training_with_other_weights_is_refused_in_one_sentence(tmp_path, monkeypatch):
    """As an earlier version saved it, or one with another setting that is continued all the same."""
    from safetensors.torch import safe_open, save_file

    run(tmp_path, 4)
    path = tmp_path / "toy.resume"
    monkeypatch.setattr(toy_training, "CONFIG", replace(toy_training.CONFIG, identity_bias=True))
    with pytest.raises(
        AggregatorError, match=r"toy.resume .*\(its weight \S+identity_bias was absent and is \[\]\): set resume"
    ):
        run(tmp_path, 8, resume="continue with changes")
    monkeypatch.undo()
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    weights = [key for key in tensors if key.startswith("optimizer.")]
    by_number = {f"optimizer.{i}.{key.rsplit('.', 1)[1]}": tensors.pop(key) for i, key in enumerate(weights)}
    save_file({**tensors, **by_number}, path, metadata)
    with pytest.raises(AggregatorError, match=r"an earlier version .* the optimizer's state of 0\): set resume to start"):
        run(tmp_path, 8)


def test_a_folder_that_cannot_be_written_is_told_and_does_not_hide_the_first_error(tmp_path, caplog):
    def fail(report):
        if not report.state.step:
            return
        (tmp_path / "toy.safetensors").unlink(missing_ok=True)
        (tmp_path / "toy.safetensors").mkdir(exist_ok=True)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(tmp_path, 8, fail)
    assert "toy.safetensors could not be saved" in caplog.text


def test_what_ends_before_its_first_step_leaves_the_files_of_an_earlier_one(tmp_path):
    run(tmp_path, 6)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(report):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(tmp_path, 9, fail, "start anew")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_what_needs_no_training_is_measured_without_gradients(tmp_path, monkeypatch):
    enabled = []
    monkeypatch.setattr(AggregatorTask, "baselines", lambda self, batch: enabled.append(torch.is_grad_enabled()) or {})
    run(tmp_path, 1)
    assert enabled and not any(enabled)


def test_early_stop_ends_where_the_held_out_loss_is_flat(tmp_path):
    _, state = run(tmp_path, 500, patience=2, learning_rate=1e-9)
    assert state.finished == "the held-out loss is flat"
    assert state.step < 50
    _, again = run(tmp_path, 500, patience=2, learning_rate=1e-9)
    assert again.finished == state.finished and again.step == state.step


@pytest.mark.parametrize("patience", [0, 1])
def test_nan_at_the_first_evaluation_does_not_decide_what_is_best(tmp_path, monkeypatch, patience):
    sound, looks = ToyExperts.predict, iter(range(1000))

    def predict(self, fusion, noisy, *args):
        prediction = sound(self, fusion, noisy, *args)
        evaluating = isinstance(fusion, OnlyPoints) and not torch.is_grad_enabled()
        return prediction * torch.nan if evaluating and next(looks) == 0 else prediction

    monkeypatch.setattr(ToyExperts, "predict", predict)
    file, state = run(tmp_path, 30, patience=patience, learning_rate=3e-3 if patience == 0 else 1e-9)
    losses = [row["held_out"] for row in state.evaluations]
    assert losses[0] != losses[0] and state.best_loss("held_out") == min(losses[1:])
    assert same_weights(file.state, half(state.best))
    assert state.step == (30 if patience == 0 else 10)


def test_the_averaged_weights_are_what_is_saved(tmp_path):
    file, state = run(tmp_path, 8, ema=0.9)
    assert same_weights(file.state, half(state.best))
    assert not same_weights(file.state, half(torch_state(tmp_path / "toy.resume")))


def test_an_evaluation_copies_the_weights_once_for_all_held_out_batches(monkeypatch):
    copies, deepcopy = [], copy.deepcopy
    training = Training(toy_training.task(0), toy_dataset(), TrainingSettings(batch_size=2), TrainingState({}))
    monkeypatch.setattr(copy, "deepcopy", lambda module: copies.append(module) or deepcopy(module))
    evaluate(training, lambda report: None)
    training.feed.close()
    assert len(list(training.dataset.held_out_batches(2))) == 2
    assert copies == [training.task.module]


def test_gradients_of_several_batches_are_averaged():
    settings = TrainingSettings(batch_size=2, gradient_accumulation=2)
    training = Training(toy_training.task(0), toy_dataset(), settings, TrainingState({}))
    weights = [weight for weight in training.task.module.parameters() if weight.requires_grad]

    def gradients(*batches: int):
        training.optimizer.zero_grad()
        for index in batches:
            micro_batch(training, index)
        return [weight.grad for weight in weights]

    both, first, second = gradients(2, 3), gradients(2), gradients(3)
    assert any(grad.any() for grad in both)
    for of_both, *each in zip(both, first, second, strict=True):
        torch.testing.assert_close(of_both, each[0] + each[1])
    one = Training(toy_training.task(0), toy_dataset(), replace(settings, gradient_accumulation=1), TrainingState({}))
    micro_batch(one, 2)
    for of_one, half in zip(one.task.module.parameters(), first, strict=True):
        torch.testing.assert_close(of_one.grad, 2 * half)
    for each in (training, one):
        each.feed.close()


def test_a_step_takes_as_many_batches_as_it_accumulates(monkeypatch):
    settings = TrainingSettings(batch_size=2, gradient_accumulation=2)
    training, seen = Training(toy_training.task(0), toy_dataset(), settings, TrainingState({})), []
    monkeypatch.setattr(loop, "micro_batch", lambda training, index: seen.append(index) or micro_batch(training, index))
    for _ in range(2):
        assert training_step(training) is not None
        training.state.step += 1
    training.feed.close()
    assert seen == [0, 1, 2, 3]


def test_a_killed_training_goes_on_to_the_same_weights():
    """kill -9 while it trains, saves and evaluates. 20 kills: python -m tests.support.toy_training"""
    toy_training.kill(4)
