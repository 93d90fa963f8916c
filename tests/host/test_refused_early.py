"""What is refused before hours of painting, encoding or scoring, and what is only notified of."""

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from afa_core.atomic_file import write_safetensors
from afa_core.training.resume import SUFFIX
from tests.support.node_trainer import Trainer, twelve_pictures
from tests.support.widgets import defaults


@pytest.fixture
def trainer(comfy_host, pack, tmp_path, monkeypatch):
    """A trainer that may prepare no data."""

    def prepared(*args):
        raise AssertionError("data were prepared")

    monkeypatch.setattr(f"{pack.__name__}.nodes.trainer.prepare_dataset", prepared)
    return Trainer(comfy_host, twelve_pictures(tmp_path))


def test_another_seed_than_the_saved_training_had(trainer):
    write_safetensors({}, {"fingerprint": json.dumps({"seed": "7"})}, trainer.folder / f"early{SUFFIX}")
    text = trainer.error_of(ValueError, "early", seed=8)
    assert text.startswith("early was begun with other settings (")
    assert "seed was 7 and is 8" in text
    trainer.error_of(AssertionError, "early", seed=8, resume="start anew")


def test_another_teacher_or_rank_than_the_saved_student_had(comfy_host, pack, checkpoint, tmp_path, monkeypatch):
    import folder_paths

    def prepared(*args):
        raise AssertionError("data were prepared")

    monkeypatch.setattr("afa_core.host.training.distilling.Distillation.dataset", prepared)
    saved = Path(folder_paths.get_folder_paths("loras")[0], f"early_student{SUFFIX}")
    write_safetensors({}, {"fingerprint": json.dumps({"rank": "4", "teacher": "'another'"})}, saved)
    (a, clip, vae), (b, *_) = (checkpoint(name) for name in ("tiny_sd15_a", "tiny_sd15_b"))
    (fusion,) = comfy_host.call("AFATrainingFreeFusion", method="noise average")
    ensemble, _ = comfy_host.call("AFAEnsembleModel", aggregator=fusion, model_1=a, model_2=b)
    widgets = {**defaults("AFADistill"), "ensemble": ensemble, "clip": clip, "vae": vae, "save_as": "early_student"}
    with pytest.raises(ValueError, match="rank was 4 and is 16.*teacher was 'another' and is"):
        comfy_host.call("AFADistill", **{**widgets, "rank": 16, "prompt_folder": str(twelve_pictures(tmp_path))})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"resolution": 128}, "resolution was 64 and is 128"),
        ({"caption_dropout": 0.2}, "caption_dropout was 0.1 and is 0.2"),
        ({"flip": True}, "flip was False and is True"),
        ({}, "contents of prompt_folder was "),
    ],
)
def test_other_data_than_the_saved_training_had(comfy_host, pack, tmp_path, monkeypatch, changes, said):
    trainer = Trainer(comfy_host, twelve_pictures(tmp_path))
    trainer.run("other_data", steps=1, resume="start anew")
    monkeypatch.setattr(f"{pack.__name__}.nodes.trainer.prepare_dataset", lambda *_: pytest.fail("data were prepared"))
    if not changes:
        (tmp_path / "0.txt").write_text("another caption")
    text = trainer.error_of(ValueError, "other_data", **changes)
    assert text.startswith("other_data was begun with other settings (") and said in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels_per_item": 3}, "labels_per_item was 2 and is 3"),
        ({"resolution": 128}, "resolution was 64 and is 128"),
        ({"paint_steps": 3}, "paint_steps was 2 and is 3"),
        ({"prompt_share": 0.5}, "prompt_share was 0.25 and is 0.5"),
        ({}, "prompts was "),
    ],
)
def test_other_data_than_the_saved_student_had(comfy_host, pack, checkpoint, tmp_path, monkeypatch, changes, said):
    (a, clip, vae), (b, *_) = (checkpoint(name) for name in ("tiny_sd15_a", "tiny_sd15_b"))
    (fusion,) = comfy_host.call("AFATrainingFreeFusion", method="noise average")
    ensemble, _ = comfy_host.call("AFAEnsembleModel", aggregator=fusion, model_1=a, model_2=b)
    (tmp_path / "pictures").mkdir()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a dog\na cat\n")
    widgets = {
        **defaults("AFADistill"), "ensemble": ensemble, "clip": clip, "vae": vae, "save_as": "other_data", "resolution": 64,
        "prompt_folder": str(twelve_pictures(tmp_path / "pictures")), "prompts": str(prompts), "steps": 1, "batch_size": 2,
        "labels_per_item": 2, "paint_steps": 2,
    }  # fmt: skip
    comfy_host.call("AFADistill", **{**widgets, "resume": "start anew"})
    monkeypatch.setattr(
        "afa_core.host.training.distilling.Distillation.dataset", lambda *_: pytest.fail("data were prepared")
    )
    if not changes:
        prompts.write_text("a dog\na cow\n")
    with pytest.raises(ValueError, match=said):
        comfy_host.call("AFADistill", **{**widgets, **changes})


def test_too_few_pictures(trainer, tmp_path):
    for picture in sorted(tmp_path.glob("*.png"))[3:]:
        picture.unlink()
    assert trainer.error_of(ValueError, "few").startswith("There are 3 usable pictures and prompts")
    (tmp_path / "held_out.txt").write_text("picture 0\n")
    trainer.error_of(AssertionError, "few")


def test_one_picture_under_many_names(trainer, tmp_path):
    for picture in tmp_path.glob("*.png"):
        picture.write_bytes((tmp_path / "0.png").read_bytes())
    assert trainer.error_of(ValueError, "same").startswith("There are 1 usable pictures and prompts")


def test_everything_is_held_out(trainer, tmp_path):
    (tmp_path / "held_out.txt").write_text("".join(f"picture {i}\n" for i in range(12)))
    assert trainer.error_of(ValueError, "held").startswith("held_out.txt names all pictures or prompts: take some out")


def test_too_few_are_left_of_two_kinds(pack):
    """Six pictures that can be read and six prompts are enough together, and of neither kind."""
    training = import_module(f"{pack.__name__}.nodes.training")
    data = SimpleNamespace(held_out_count=0, items=[SimpleNamespace(key=str(i)) for i in range(12)])
    with pytest.raises(ValueError, match="There are 12 usable pictures and prompts, and training needs at least 10 of a kind"):
        training.check_held_out(data)


def test_prompts_of_two_folders_are_of_one_kind(pack, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prompts.txt").write_text("".join(f"{name} {i}\n" for i in range(6)))
    sources = import_module(f"{pack.__name__}.nodes.distil")._sources
    widgets = {"prompt_folder": str(tmp_path / "first"), "prompts": str(tmp_path / "second"), "prompt_share": 0.25}
    assert len(sources(widgets).prompts.items) == 12
    with pytest.raises(ValueError, match="There are 6 usable pictures and prompts"):
        sources({**widgets, "prompts": ""})


def test_sizes_of_an_aggregator_that_do_not_go_together(trainer):
    text = trainer.error_of(ValueError, "sizes", hidden_size=100)
    assert text == "hidden_size should be a multiple of 32 and of num_heads (4), found 100: change it."


@pytest.mark.parametrize(("second", "sentence"), [("PickScore", "PickScore needs a file"), ("FID", "FID needs a file")])
def test_a_second_scorer_without_its_file(comfy_host, pack, monkeypatch, second, sentence):
    scorers = import_module("afa_core.host.scoring.scorers")

    def scored():
        raise AssertionError("pictures were scored")

    monkeypatch.setitem(scorers.FILES, "CLIP-T", ())
    monkeypatch.setitem(scorers.SCORERS, "CLIP-T", scored)
    with pytest.raises(ValueError, match=sentence):
        comfy_host.call(
            "AFAScoreImages", images=torch.zeros(2, 8, 8, 3), prompt="a cat", scorer="CLIP-T", scorer_2=second
        )


def test_a_comparison_does_without_a_scorer_whose_file_is_unsound(comfy_host, monkeypatch):
    scorers = import_module("afa_core.host.scoring.scorers")

    def unsound():
        raise scorers.ScorerError("aes.pth is damaged: get it again.")

    def sound():
        return lambda pictures, prompts: torch.arange(float(len(pictures)))

    monkeypatch.setattr(scorers, "SCORERS", {"AES": unsound, "CLIP-T": sound, "HPSv2.1": scorers.SCORERS["HPSv2.1"]})
    found = scorers.scores_of(torch.zeros(2, 8, 8, 3), "a cat")
    assert found == ({"CLIP-T": [0.0, 1.0]}, ["aes.pth is damaged: get it again."])


def test_a_notice_is_on_the_node_that_runs(comfy_host, pack, monkeypatch, caplog):
    from comfy_execution.utils import CurrentNodeContext
    from server import PromptServer

    from afa_core.host.notices import notify

    class Server:
        client_id = "browser"
        sent = []

        def send_progress_text(self, text, node_id, sid):
            self.sent.append((text, node_id, sid))

    monkeypatch.setattr(PromptServer, "instance", Server(), raising=False)
    with CurrentNodeContext("prompt", "12"):
        notify([])
        notify(["model_2 is another one.", "And slow."])
    assert Server.sent == [("model_2 is another one.\n\nAnd slow.", "12", "browser")]
    assert caplog.messages == ["AFA: model_2 is another one.", "AFA: And slow."]
    notify(["outside a graph"])
    assert len(Server.sent) == 1


@pytest.mark.parametrize("node", ["AFAProbe", "AFADistill"])
def test_a_folder_that_another_node_names_leaves_the_fingerprint_alone(comfy_host, pack, node):
    """The host hands None for it."""
    linked = {"prompt_folder": None, "prompts": None, "save_as": "x"}
    stamp = comfy_host.nodes.NODE_CLASS_MAPPINGS[node].fingerprint_inputs
    assert stamp(**linked) == stamp(**linked)


def test_a_merges_base_is_named_behind_a_lora(pack):
    sockets = import_module(f"{pack.__name__}.nodes.sockets")
    graph = {
        "1": {"inputs": {"ckpt_name": "base.safetensors"}},
        "2": {"inputs": {"model": ["1", 0], "lora_name": "style.safetensors", "strength_model": 1.0}},
        "3": {"inputs": {"base": ["2", 0]}},
    }
    assert sockets.source_file(graph, "3", "base") == "base.safetensors"
