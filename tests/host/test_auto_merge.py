"""AFA Auto Block Merge on a real ComfyUI."""

import json
from statistics import fmean

import pytest
import torch


class Brightness:
    """A scorer with an answer of its own, in place of a network of 2 GB: likes red."""

    calls = 0

    def __call__(self, pictures, prompts, references=None):
        type(self).calls += 1
        assert pictures.ndim == 4 and pictures.shape[-1] == 3 and len(pictures) == len(prompts)
        return pictures[..., 0].mean((1, 2)) - pictures[..., 2].mean((1, 2)) + 2


@pytest.fixture
def auto_merge(pack, comfy_host, checkpoint, monkeypatch, tmp_path):
    from afa_core.host.scoring import scorers

    monkeypatch.setitem(scorers.SCORERS, "AES", Brightness)
    monkeypatch.setattr(Brightness, "calls", 0)
    monkeypatch.setattr("folder_paths.output_directory", str(tmp_path))
    loaded = [checkpoint(f"tiny_sd15_{letter}") for letter in "ab"]

    def run(**widgets):
        latent = comfy_host.call("EmptyLatentImage", width=64, height=64, batch_size=1)[0]
        settings = {
            "model_1": loaded[0][0], "model_2": loaded[1][0], "clip": loaded[0][1], "vae": loaded[0][2],
            "latent_image": latent, "prompts": "a red cat\na dog", "scorer": "AES", "steps": 2, "budget": 12,
            "sampler_name": "euler", "scheduler": "normal", "save_as": "test",
        }  # fmt: skip
        return comfy_host.call("AFAAutoMerge", **{**settings, **widgets})

    return run


def test_the_search_improves_its_scorer_and_the_model_is_the_best_merge(
    comfy_host, auto_merge, checkpoint, encode, sample, tmp_path
):
    model, report = auto_merge(budget=12)
    (file,) = (tmp_path / "afa_merges").iterdir()
    saved = json.loads(file.read_text())
    assert len(saved["tried"]) == 12
    uniform = fmean(saved["tried"][0]["scores"])
    assert saved["best"]["score"] > uniform
    assert f"AES {saved['best']['score']:.4f} after 12 merges; equal shares {uniform:.4f}" in report
    assert file.name in report

    (a, clip, _), b = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")[0]
    by_hand = comfy_host.call("AFAMergeModels", model_1=a, model_2=b, block_weights=report.rsplit("\n\n", 1)[1])[0]
    text = encode(clip, "a red cat")
    torch.testing.assert_close(sample(model, text, text), sample(by_hand, text, text), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["CMA-ES", "binary mid (autoMBW)"])
def test_a_search_goes_on_where_it_was(auto_merge, tmp_path, method):
    auto_merge(method=method, budget=4)
    assert Brightness.calls == 4
    auto_merge(method=method, budget=6)
    assert Brightness.calls == 6
    auto_merge(method=method, budget=6)
    assert Brightness.calls == 6
    auto_merge(method=method, budget=2, prompts="something else")
    assert Brightness.calls == 8
    assert len(list((tmp_path / "afa_merges").iterdir())) == 2


def test_a_merge_that_paints_nan_is_the_worst_and_the_equal_one_is_refused(auto_merge, monkeypatch):
    score, broken = Brightness.__call__, {2}
    monkeypatch.setattr(
        Brightness, "__call__",
        lambda self, *args: score(self, *args) * (float("nan") if type(self).calls in broken else 1),
    )  # fmt: skip
    _, report = auto_merge(budget=5)
    assert "nan" not in report and "after 5 merges" in report
    broken = {Brightness.calls + 1}
    with pytest.raises(ValueError, match="The equal merge of these models paints NaN"):
        auto_merge(budget=5, prompts="something else")


def test_cancelling_keeps_what_was_tried(auto_merge, monkeypatch, tmp_path):
    import comfy.model_management as memory

    score = Brightness.__call__

    def cancel_at_three(self, *args):
        if type(self).calls == 3:
            memory.interrupt_current_processing()
            memory.throw_exception_if_processing_interrupted()
        return score(self, *args)

    monkeypatch.setattr(Brightness, "__call__", cancel_at_three)
    with pytest.raises(memory.InterruptProcessingException):
        auto_merge()
    (file,) = (tmp_path / "afa_merges").iterdir()
    assert len(json.loads(file.read_text())["tried"]) == 3


def test_the_seed_stays_between_runs(comfy_host, pack):
    """The front end gives inputs named seed a control that draws another one after every run, unless asked not to."""
    inputs = comfy_host.nodes.NODE_CLASS_MAPPINGS["AFAAutoMerge"].INPUT_TYPES()["required"]
    assert inputs["seed"][1]["control_after_generate"] is False


def test_what_cannot_be_searched_is_reported(auto_merge, checkpoint):
    with pytest.raises(ValueError, match="one architecture"):
        auto_merge(model_2=checkpoint("tiny_sdxl_a")[0])
    with pytest.raises(ValueError, match="prompts is empty"):
        auto_merge(prompts=" \n")
    with pytest.raises(ValueError, match="plain file name"):
        auto_merge(save_as="../x")
