"""Whatever goes wrong while the trainer node works: it is reported, and the training goes on to the same numbers."""

import shutil
from contextlib import ExitStack

import pytest
import torch
from PIL import Image

from afa_core.fusion.not_finite import NotFinite
from afa_core.training.data.prompt_folder import read_prompt_folder
from tests.support.faults import failing_module, interrupted, interruption, nan_from, out_of_memory
from tests.support.node_trainer import STEPS, Trainer, twelve_pictures
from tests.support.training_toys import computed_steps, same_weights

IN_THE_THIRD_STEP = 7
"""Which call of an expert's block: three measure what needs no training, and one evaluates after two steps."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return twelve_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def trainer(comfy_host, pack, pictures):
    return Trainer(comfy_host, pictures)


@pytest.fixture(scope="module")
def expected(trainer):
    return trainer.run("undisturbed").state


def block(trainer):
    return trainer.models[1].model.diffusion_model.output_blocks[4][0]


def goes_on(trainer, name, expected, left) -> None:
    """The training of this name computes the steps that are left, and ends in the expected weights."""
    with computed_steps() as steps:
        assert same_weights(trainer.run(name).state, expected)
    assert steps == list(range(STEPS))[-left:]


def step_of_adam(failing_at: int):
    """An optimizer whose memory runs out when it has changed some weights of this step already."""

    def step(self, closure=None, real=torch.optim.AdamW.step):
        found = real(self, closure)
        parameters = self.param_groups[0]["params"]
        if self.state[parameters[0]]["step"] == failing_at:
            parameters[0].data.add_(1.0)
            raise out_of_memory()
        return found

    return step


@pytest.mark.parametrize("where", ["in an expert", "while the weights change"])
def test_memory_runs_out(trainer, expected, monkeypatch, where):
    import comfy.model_management as memory

    with ExitStack() as fault:
        if where == "in an expert":
            fault.enter_context(failing_module(block(trainer), out_of_memory(), at=IN_THE_THIRD_STEP))
        else:
            monkeypatch.setattr(torch.optim.AdamW, "step", step_of_adam(failing_at=3))
        text = trainer.error_of(memory.OOM_EXCEPTION, where)
    assert text.startswith("Training ran out of memory: lower batch_size or resolution")
    monkeypatch.undo()
    goes_on(trainer, where, expected, left=2)


def test_nan_from_an_expert_is_told_before_it_spoils_the_weights(trainer, expected):
    with nan_from(block(trainer), first=IN_THE_THIRD_STEP):
        text = trainer.error_of(NotFinite, "nan")
    assert text.startswith("model_2 produced NaN or infinite numbers in block output 4 in training step 3")
    goes_on(trainer, "nan", expected, left=2)


def test_nan_from_an_expert_on_a_held_out_picture(trainer):
    with nan_from(block(trainer)):
        text = trainer.error_of(NotFinite, "nan at once")
    assert text.startswith("model_2 produced NaN or infinite numbers in block output 4 on a held-out picture: ")


def test_nan_from_the_vae_is_left_out_and_reported(trainer, expected, monkeypatch):
    import comfy.sd

    real = comfy.sd.VAE.encode
    calls = []

    def encode(self, pixels):
        calls.append(1)
        return real(self, pixels) * (float("nan") if len(calls) == 1 else 1.0)

    monkeypatch.setattr(comfy.sd.VAE, "encode", encode)
    report = trainer.host.call(
        "AFATrainer", **{k: [v] for k, v in {**trainer.widgets, "save_as": "vae", "resolution": 72, "steps": 1}.items()}
    )[2]
    assert "11 pictures" in report and "is NaN after the VAE" in report


@pytest.mark.parametrize(("moment", "left"), [(400, 4), (3500, 3), (5000, 2)])
def test_an_interruption(trainer, expected, moment, left):
    """Before the first step, in the second and in the third: a step asks some 780 times."""
    name = f"interrupted {moment}"
    with interrupted(moment):
        trainer.error_of(interruption(), name)
    goes_on(trainer, name, expected, left)


def test_the_folder_disappears_while_training(trainer, expected, pictures, tmp_path):
    """Everything was encoded before; that the next training finds nothing is another matter."""
    copy = shutil.copytree(pictures, tmp_path / "copy")
    hook = block(trainer).register_forward_pre_hook(lambda *_: shutil.rmtree(copy, ignore_errors=True))
    try:
        assert same_weights(trainer.run("gone", prompt_folder=str(copy)).state, expected)
    finally:
        hook.remove()
    assert not copy.exists()
    assert "does not exist" in trainer.error_of(ValueError, "gone", prompt_folder=str(copy))


def test_pictures_that_change_while_they_are_encoded_are_left_out(trainer, tmp_path):
    """Else the cache would hold one picture under the name of another, for good."""
    from afa_core.host.experts.experts import Expert
    from afa_core.host.training.cache import cache_folder
    from afa_core.host.training.encoding import DatasetSettings, prepare_dataset

    def paint(shade):
        for i in range(4):
            Image.new("RGB", (64, 64), (shade, 7 * i, 50)).save(tmp_path / f"{i}.png")
            (tmp_path / f"{i}.txt").write_text(f"picture {i}")

    def encoded(change=lambda: None):
        experts = [Expert(model, f"model_{i}") for i, model in enumerate(trainer.models, start=1)]
        clip, vae = trainer.widgets["clip"], trainer.widgets["vae"]
        settings = DatasetSettings(resolution=64, batch_size=1, held_out=0.0)
        return prepare_dataset(
            experts, clip, vae, read_prompt_folder(tmp_path), settings, lambda done, *_: done == 2 and change()
        )

    paint(10)
    disturbed = encoded(lambda: (paint(200), (tmp_path / "3.png").unlink()))
    assert [item.name for item in disturbed.items] == ["0.png", "1.png"]
    reasons = dict(disturbed.skipped)
    assert reasons == {
        "2.png": "was changed while the folder was read: start again",
        "3.png": "is broken or no picture",
    }
    paint(10)
    again = encoded()
    shutil.rmtree(cache_folder())
    fresh = encoded()
    assert torch.equal(again.batch_of([0, 1, 2, 3]).latents, fresh.batch_of([0, 1, 2, 3]).latents)


def test_a_models_folder_that_may_not_be_written_to_is_told_before_the_work(trainer, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "afa", (["/sys/models/afa"], {".safetensors"}))
    monkeypatch.setattr(
        "comfy.sd.VAE.encode", lambda *_: pytest.fail("pictures were encoded before the folder was looked at")
    )
    with pytest.raises(OSError, match="Nothing can be saved in /sys/models/afa .*: allow writing there"):
        trainer.run("nowhere")


def test_an_error_of_the_view_neither_ends_a_training_nor_hides_an_error(trainer, expected, monkeypatch):
    import server

    def broken(*args, **kwargs):
        raise RuntimeError("the event loop is closed")

    monkeypatch.setattr(server.PromptServer.instance, "send_sync", broken)
    monkeypatch.setattr("comfy.utils.PROGRESS_BAR_HOOK", None)
    assert same_weights(trainer.run("no view").state, expected)
    with failing_module(block(trainer), ZeroDivisionError("the first error"), at=IN_THE_THIRD_STEP):
        assert trainer.error_of(ZeroDivisionError, "no view", resume="start anew") == "the first error"
