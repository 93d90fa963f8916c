"""Distilling an ensemble through the node, on toy checkpoints: what is saved, what is refused, what goes on after a stop."""

import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from afa_core.fusion.levels import LevelFusion
from tests.support.ensembles import ensemble
from tests.support.faults import full_disk
from tests.support.node_trainer import twelve_pictures
from tests.support.training_toys import computed_steps, same_weights
from tests.support.widgets import defaults

NAMES = ("tiny_sd15_a", "tiny_sd15_b")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return twelve_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"a prompt {i}" for i in range(12)))
    return path


class Distiller:
    """AFADistill on the noise average of two toys."""

    def __init__(self, host, folder):
        self.host = host
        loaded = [host.call("CheckpointLoaderSimple", ckpt_name=f"{name}.safetensors") for name in NAMES]
        self.models = [parts[0] for parts in loaded]
        self.clip, self.vae = loaded[0][1:3]
        self.widgets = {
            **defaults("AFADistill"),
            "ensemble": self.ensemble(), "clip": self.clip, "vae": self.vae, "prompt_folder": str(folder),
            "resume": "continue", "resolution": 64, "steps": 6, "batch_size": 2, "rank": 4, "alpha": 4.0,
            "learning_rate": 1e-3, "warmup_steps": 2, "evaluate_every": 6, "save_every": 100, "labels_per_item": 2,
            "paint_steps": 2, "ema": 0.5, "gradient_checkpointing": False,
        }  # fmt: skip

    def ensemble(self, **widgets):
        (fusion,) = self.host.call("AFATrainingFreeFusion", **{"method": "noise average", "weights": "3, 1", **widgets})
        sockets = {f"model_{i}": model for i, model in enumerate(self.models, start=1)}
        return self.host.call("AFAEnsembleModel", aggregator=fusion, **sockets)[0]

    def run(self, name, **changes):
        """(MODEL, plot, report)."""
        return self.host.call("AFADistill", **{**self.widgets, "save_as": name, **changes})

    def file(self, name):
        from safetensors.torch import load_file

        return load_file(self.host.base / "models" / "loras" / f"{name}.safetensors")


@pytest.fixture
def distiller(comfy_host, pack, pictures):
    return Distiller(comfy_host, pictures)


@pytest.fixture(scope="module")
def undisturbed(comfy_host, pack, pictures):
    """The last weights of a distillation that neither was interrupted nor has a control."""
    distiller = Distiller(comfy_host, pictures)
    distiller.run("undisturbed", resume="start anew")
    return distiller.file("undisturbed-last")


def merged(distiller):
    return distiller.host.call("AFAMergeModels", model_1=distiller.models[0], model_2=distiller.models[1])[0]


def question():
    """A latent at noise, its sigma, and a text."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 8, 8, generator=random), torch.full((2,), 2.0), torch.randn(2, 77, 32, generator=random)


def prediction(model):
    """The denoised latent of a MODEL on the host's own path, whatever LoRAs are on it."""
    import comfy.model_management

    x, sigma, text = question()
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
        return model.model.apply_model(x, sigma, c_crossattn=text, transformer_options={})


@pytest.fixture
def tasks(monkeypatch):
    """The tasks that the node trains, as they are made."""
    from afa_core.host.training.distilling import Distillation

    made = []
    real = Distillation.task
    monkeypatch.setattr(Distillation, "task", lambda *args, **kwargs: made.append(real(*args, **kwargs)) or made[-1])
    return made


def student_prediction(task):
    """As `prediction`, of the student with the weights it has now."""
    from afa_core.training.tasks.distil import alone

    with torch.inference_mode(False), torch.no_grad():
        x, sigma, text = question()
        task.student.load([2, 4, 8, 8])
        noise = task.student.predict(alone, x, sigma, [{"c_crossattn": text, "y": None}])
        return task.student.denoised(noise, x, sigma)


def stock(distiller, model, name):
    widgets = {"lora_name": f"{name}.safetensors", "strength_model": 1.0}
    return distiller.host.call("LoraLoaderModelOnly", model=model, **widgets)[0]


@pytest.mark.parametrize("student", ["the equal merge", "a checkpoint"])
def test_the_saved_lora_through_the_stock_loader_predicts_what_the_student_does(distiller, tasks, student):
    """Also where the student is a merge, which shares a network with model_1."""
    own = {"gradient_checkpointing": True} if student == "the equal merge" else {"student": distiller.models[1]}
    base = own.get("student") or merged(distiller)
    before = [prediction(model) for model in (*distiller.models, base)]
    model, plot, report = distiller.run("parity", ema=0.0, resume="start anew", **own)
    expected = student_prediction(tasks[0])
    found = prediction(stock(distiller, base, "parity-last"))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * expected.abs().max().item())
    assert (found - before[-1]).abs().max() > 1e-3 * expected.abs().max()
    assert torch.equal(prediction(model), prediction(stock(distiller, base, "parity")))
    for one, was in zip((*distiller.models, base), before, strict=True):
        assert torch.equal(prediction(one), was)
    assert "evaluates 1 network instead of 2" in report and "gap" in report and plot.ndim == 4
    assert "against the best without training (ensemble" not in report


def test_the_student_comes_nearer_to_the_ensemble(distiller, tasks):
    distiller.run("nearer", steps=15, evaluate_every=15, resume="start anew", learning_rate=3e-3)
    losses = torch.tensor(history("nearer", distiller)["losses"])
    assert losses[-3:].mean() < 0.8 * losses[:3].mean()
    assert any(tensor.any() for key, tensor in distiller.file("nearer").items() if "lora_up" in key)
    task = tasks[0]
    assert all(adapter.lora_up.weight.abs().max() > 0 for adapter in task.module.values())
    assert all(p.grad is None for p in task.student.experts[0].patcher.model.parameters())


def history(name, distiller):
    import json

    from safetensors import safe_open

    with safe_open(distiller.host.base / "models" / "loras" / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["afa_distil"])


def test_a_file_is_an_ordinary_lora(distiller):
    distiller.run("ordinary", steps=1, resume="start anew")
    lora = distiller.file("ordinary")
    name = "diffusion_model.input_blocks.1.0.in_layers.2"
    up, down = lora[f"{name}.lora_up.weight"], lora[f"{name}.lora_down.weight"]
    assert up.shape[1:] == (4, 1, 1) and down.shape[0] == 4 and down.shape[2:] == (3, 3)
    assert lora[f"{name}.alpha"] == 4.0
    assert {key.rsplit(".", 2 if key.endswith("weight") else 1)[-1] for key in lora} <= {"weight", "alpha"}
    found = history("ordinary", distiller)
    assert found["rank"] == 4 and len(found["held_out"]) == 2 and set(found["baselines"]) > {"ensemble"}


def test_prompts_are_painted_by_the_ensemble_and_labelled_once(distiller, prompts, monkeypatch):
    from afa_core.host.training import ensemble_paintings, labelling

    sizes = []
    real = ensemble_paintings.painted
    monkeypatch.setattr(ensemble_paintings, "painted", lambda model, *args: sizes.append(model) or real(model, *args))
    both = distiller.run("both", prompts=str(prompts), steps=1, resume="start anew")
    assert len(sizes) == 12 and all(model is distiller.widgets["ensemble"] for model in sizes)
    assert "24 pictures" in both[2]
    monkeypatch.setattr(labelling.CachedLabels, "_labelled", lambda *_: pytest.fail("labelled again"))
    distiller.run("both", prompts=str(prompts), steps=2)
    assert len(sizes) == 12


def test_a_caption_of_a_held_out_picture_is_held_out_as_a_prompt(distiller, prompts, tmp_path, monkeypatch):
    from afa_core.host.training import distilling

    datasets, real = [], distilling.joined
    monkeypatch.setattr(distilling, "joined", lambda *args: datasets.extend(args[:2]) or real(*args))
    captions = [file.read_text().strip() for file in sorted(Path(distiller.widgets["prompt_folder"]).rglob("*.txt"))]
    same = tmp_path / "same.txt"
    same.write_text("\n".join(captions))
    distiller.run("same", prompts=str(same), steps=1, resume="start anew")
    watched, painted = ({item.caption for item in part.items if item.held_out} for part in datasets)
    assert watched and watched <= painted


def test_two_lists_of_prompts_keep_what_each_holds_out_and_leaves_out(comfy_host, tmp_path):
    from afa_core.host.training.distilling import Sources
    from afa_core.training.data.prompt_folder import read_prompt_folder

    folders = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        files = {"prompts.txt": f"{name} 1\n{name} 2", "held_out.txt": f"{name} 2", f"{name}.txt": ""}
        for file, text in files.items():
            (folder / file).write_text(text)
        folders.append(read_prompt_folder(folder))
    sources = Sources.of(*folders, prompt_share=0.5)
    assert sources.pictures is None
    assert [item.caption for item in sources.prompts.items] == ["a 1", "a 2", "b 1", "b 2"]
    assert sources.prompts.held_out == {"a 2", "b 2"}
    assert [name for name, _ in sources.prompts.skipped] == [name for one in folders for name, _ in one.skipped]
    assert len(sources.prompts.skipped) == 2


def test_a_painting_that_is_not_finite_is_not_kept(distiller, prompts, monkeypatch):
    import comfy.sample

    from afa_core.host.training.cache import Cache

    kept, put = [], Cache.put
    monkeypatch.setattr(Cache, "put", lambda cache, name, tensors: kept.extend(tensors) or put(cache, name, tensors))
    monkeypatch.setattr(comfy.sample, "sample", lambda *args, **kwargs: torch.full((1, 4, 8, 8), torch.nan))
    prompts.write_text("\n".join(f"a broken prompt {i}" for i in range(12)))
    with pytest.raises(ValueError, match="The ensemble paints NaN or infinite values"):
        distiller.run("broken", prompts=str(prompts), prompt_folder="", resume="start anew")
    assert "cond" in kept and "latent" not in kept


@pytest.mark.parametrize(("aspect", "size"), [(2.0, (6, 11)), (0.25, (16, 4))])
def test_paintings_have_the_aspect_that_is_asked_for(distiller, prompts, monkeypatch, aspect, size):
    from afa_core.host.training import ensemble_paintings

    sizes = []
    real = ensemble_paintings.painted
    monkeypatch.setattr(ensemble_paintings, "painted", lambda *args: sizes.append(args[3]) or real(*args))
    alone = {"prompt_folder": "", "prompts": str(prompts), "paint_steps": 1}
    report = distiller.run("shape", resume="start anew", steps=1, **alone, paint_aspect=aspect)[2]
    assert sizes == [size] * 12 and "12 pictures" in report


def test_an_interrupted_training_goes_on_to_the_same_weights(distiller, undisturbed, monkeypatch):
    import comfy.model_management as memory

    from afa_core.training import loop

    real, steps = loop.training_step, []

    def step(training):
        steps.append(training.state.step)
        if len(steps) == 4:
            memory.interrupt_current_processing()
        return real(training)

    monkeypatch.setattr(loop, "training_step", step)
    with pytest.raises(memory.InterruptProcessingException):
        distiller.run("cut", resume="start anew", save_every=1)
    monkeypatch.undo()
    assert 0 < (cut := history("cut", distiller)["steps"]) < 6
    with computed_steps() as again:
        distiller.run("cut", save_every=1)
    assert again == list(range(cut, 6))
    assert same_weights(distiller.file("cut-last"), undisturbed)


def test_stop_keeps_a_usable_lora(distiller, monkeypatch):
    from afa_core.training import loop

    (live,) = (module for name, module in sys.modules.items() if name.endswith("afa-ensemble.nodes.live"))
    real = loop.training_step

    def step(training):
        if training.state.step == 2:
            live.TrainingFeed.latest_of_all.stop()
        return real(training)

    monkeypatch.setattr(loop, "training_step", step)
    model, _, report = distiller.run("stopped", resume="start anew", steps=50, control=True)
    assert "3 steps" in report and "stopped, saved" not in report and "Control" not in report
    found = prediction(stock(distiller, merged(distiller), "stopped"))
    assert torch.equal(prediction(model), found) and torch.isfinite(found).all()
    assert history("stopped", distiller)["finished"] == "stopped"


def test_the_view_is_sent_the_losses_of_student_and_ensemble_by_name(distiller):
    distiller.run("watched", resume="start anew", steps=1)
    (live,) = (module for name, module in sys.modules.items() if name.endswith("afa-ensemble.nodes.live"))
    baselines = history("watched", distiller)["baselines"]
    shown = {name: baselines[name] for name in ("student before training", "ensemble")}
    best = min(loss for name, loss in baselines.items() if name.startswith("model_"))
    assert live.TrainingFeed.latest_of_all.snapshot()["rivals"] == {**shown, "best single expert": best}


def test_online_the_ensemble_labels_fresh_noise_and_stays_as_it_is(distiller, tasks, monkeypatch):
    from afa_core.host.training import labelling

    made = []
    real = labelling.CachedLabels._labelled
    monkeypatch.setattr(labelling.CachedLabels, "_labelled", lambda self, t, item, n: made.append(item) or real(self, t, item, n))
    before = [prediction(model) for model in distiller.models]
    distiller.run("online", resume="start anew", online=True, steps=20, seed=11, ema=0.0, learning_rate=3e-3)
    found = history("online", distiller)
    assert 0 < len(made) < 6 and found["online"]
    losses = torch.tensor(found["losses"])
    assert losses[-5:].mean() < 0.9 * losses[:5].mean()
    expected = student_prediction(tasks[0])
    found = prediction(stock(distiller, merged(distiller), "online-last"))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * expected.abs().max().item())
    for model, was in zip(distiller.models, before, strict=True):
        assert torch.equal(prediction(model), was)


def test_the_probes_fusion_is_distilled_with_its_shares_by_noise_level(distiller):
    from afa_core.host.training.distilling import Distillation
    from afa_core.training.objective import Predictions

    rows = ((1.0, 0.0), (0.0, 1.0))
    models = [ensemble(distiller.host, LevelFusion((0.1, 0.9), each), *distiller.models) for each in (rows, rows[::-1])]
    report = distiller.run("by level", ensemble=models[0], steps=1, resume="start anew")[2]
    assert "evaluates 1 network instead of 2" in report
    teacher, turned = (Distillation(model, None).teacher for model in models)
    assert teacher.digest != turned.digest
    x, _, text = question()
    singles = Predictions()
    with torch.inference_mode(False), torch.no_grad():
        teacher.load([2, 4, 8, 8])
        sigma, texts = teacher.experts.sigma(torch.tensor([0.05, 0.95])), [{"c_crossattn": text, "y": None}] * 2
        found = teacher.experts.predict(teacher.fusion, x, sigma, texts)
        teacher.experts.predict(singles, x, sigma, texts)
    assert torch.equal(found[0], singles.predictions[0][0]) and torch.equal(found[1], singles.predictions[1][1])


def test_a_control_learns_the_data_alone_and_is_reported_beside(distiller, undisturbed, tasks):
    report = distiller.run("beside", resume="start anew", control=True)[2]
    assert "Control, the same LoRA trained on the data without the ensemble's labels: held-out loss " in report
    assert [task.lessons.data_only for task in tasks] == [False, True]
    assert not same_weights(distiller.file("beside-last"), distiller.file("beside-control-last"))
    assert same_weights(distiller.file("beside-last"), undisturbed)


def test_the_control_of_an_online_distillation_leaves_the_ensemble_alone(distiller, tasks, monkeypatch):
    """The ensemble is loaded and asked for the student alone: before its task is made, and while it trains."""
    from afa_core.host.training.teacher import Teacher

    loaded, asked = [], []
    load, predict = Teacher.load, Teacher.predict
    monkeypatch.setattr(Teacher, "load", lambda *args: loaded.append(len(tasks)) or load(*args))
    monkeypatch.setattr(Teacher, "predict", lambda *args: asked.append(len(tasks)) or predict(*args))
    distiller.run("alone", resume="start anew", online=True, control=True, steps=2)
    assert len(tasks) == 2
    assert set(loaded) == {0} and set(asked) <= {0, 1} and asked.count(1) == 2


def test_the_student_is_saved_as_the_host_saves_it(distiller):
    model, _, report = distiller.run("kept", resume="start anew", steps=2, learning_rate=1e-2, save_student=True)
    (sentence,) = (line for line in report.splitlines() if line.startswith("To load it"))
    assert sentence.startswith("To load it: Load Diffusion Model with kept_student.safetensors, then Load LoRA")
    assert (distiller.host.base / "models" / "diffusion_models" / "kept_student.safetensors").exists()
    (student,) = distiller.host.call("UNETLoader", unet_name="kept_student.safetensors", weight_dtype="default")
    expected = prediction(model)
    found = prediction(stock(distiller, student, "kept"))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * expected.abs().max().item())


@pytest.fixture
def made(monkeypatch, tmp_path):
    """The items that are labelled, one after the other, into a cache that was empty."""
    from afa_core.host.training import cache, labelling

    items = []

    def labelled(self, teacher, item, batch_size, real=labelling.CachedLabels._labelled):
        items.append(item)
        return real(self, teacher, item, batch_size)

    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(labelling.CachedLabels, "_labelled", labelled)
    return items


def test_a_disk_that_is_full_while_labels_are_written_loses_nothing(distiller, made, monkeypatch, tmp_path):
    from afa_core.atomic_file import SavingError
    from afa_core.host.training import labelling

    def make(self, teacher, batch_size, progress, whole=labelling.CachedLabels.make):
        def full(done, total, what):
            progress(done, total, what)
            if done == 4:
                disk.enter_context(full_disk(room=100))

        with ExitStack() as disk:
            whole(self, teacher, batch_size, full)

    with monkeypatch.context() as once:
        once.setattr(labelling.CachedLabels, "make", make)
        with pytest.raises(SavingError, match="could not be saved in .*: make room there"):
            distiller.run("full", resume="start anew", steps=1, seed=5)
    assert not list((tmp_path / "cache").rglob("*.part"))
    distiller.run("full", steps=1, seed=5)
    assert sorted(made) == sorted([*range(12), made[4]])


def test_an_interrupted_labelling_goes_on_where_it_was(distiller, made, monkeypatch):
    from afa_core.host.training import labelling

    def fifth_fails(self, teacher, item, batch_size, real=labelling.CachedLabels._labelled):
        labels = real(self, teacher, item, batch_size)
        if len(made) == 5:
            raise OSError(28, "No space left on device")
        return labels

    monkeypatch.setattr(labelling.CachedLabels, "_labelled", fifth_fails)
    with pytest.raises(OSError, match="No space left"):
        distiller.run("filling", resume="start anew", steps=1)
    distiller.run("filling", steps=1)
    assert sorted(made) == sorted([*range(12), made[4]])


def test_what_cannot_be_distilled_is_refused_by_name(distiller, checkpoint, tmp_path):
    from afa_core.host.experts.experts import ExpertError

    def refused(sentence, error=ValueError, **changes):
        with pytest.raises(error, match=sentence):
            distiller.run("refused", **changes)

    refused("ensemble input takes the MODEL of AFA Ensemble Model", ExpertError, ensemble=distiller.models[0])
    refused("The student is an ensemble itself", ExpertError, student=distiller.widgets["ensemble"])
    refused(
        "The student is a U-Net with text width 64 .* and model_1 a U-Net with",
        ExpertError,
        student=checkpoint("tiny_sdxl_a")[0],
    )
    part = ensemble(distiller.host, "noise average", *distiller.models, end_percent=0.5)
    refused(r"runs from 0\.0 to 0\.5 of sampling, and a student learns all of it", ExpertError, ensemble=part)
    magic = distiller.ensemble(method="magic fusion", weights="")
    refused("magic fusion blends guided predictions", ExpertError, ensemble=magic)
    refused("Neither prompt_folder nor prompts is given", prompt_folder="")
    (tmp_path / "empty.txt").write_text("\n")
    refused("Nothing in the prompt folder", prompts=str(tmp_path / "empty.txt"))
    patched = distiller.widgets["ensemble"].clone()
    key = "diffusion_model.input_blocks.0.0.weight"
    patched.add_patches({key: (torch.zeros_like(patched.model.diffusion_model.input_blocks[0][0].weight),)})
    refused("A node behind AFA Ensemble Model changes the ensemble's weights", ExpertError, ensemble=patched)
    freeu = distiller.host.call("FreeU_V2", model=distiller.widgets["ensemble"], b1=1.3, b2=1.4, s1=0.9, s2=0.2)[0]
    refused("patches the ensemble's blocks or predictions, which a student does not learn", ExpertError, ensemble=freeu)


def test_a_lora_adapts_what_is_asked_for_and_nothing_is_an_error(distiller):
    from afa_core.host.experts.experts import ExpertError
    from afa_core.host.training.adapters import TARGETS, adapted_weights

    student = distiller.models[0]
    attention, linear, everything = (adapted_weights(student, targets) for targets in TARGETS)
    assert attention.keys() < linear.keys() < everything.keys()
    assert all("attn" in key and weight.ndim == 2 for key, weight in attention.items())
    assert all(weight.ndim == 2 for weight in linear.values()) and any("attn" not in key for key in linear)
    assert {weight.ndim for weight in everything.values()} == {2, 4}
    convolutions = SimpleNamespace(model=SimpleNamespace(diffusion_model=torch.nn.Conv2d(4, 4, 3)))
    with pytest.raises(ExpertError, match="A LoRA on attention finds nothing to train in the student, a Conv2d: choose other"):
        adapted_weights(convolutions, TARGETS[0])


def test_a_teacher_that_produces_nan_is_named(distiller):
    from afa_core.fusion.not_finite import NotFinite
    from tests.support.faults import nan_from

    block = distiller.models[1].model.diffusion_model.output_blocks[4][0]
    with nan_from(block), pytest.raises(NotFinite, match=r"model_2 produced NaN .* while the ensemble labelled"):
        distiller.run("nan", resolution=56, resume="start anew")
