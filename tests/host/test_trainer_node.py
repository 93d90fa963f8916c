"""Training through the node, on toy checkpoints and a folder of pictures."""

import json
from importlib import import_module

import pytest
import torch

from tests.support.widgets import defaults


@pytest.fixture
def folder(tmp_path):
    """Twelve small pictures with captions, in two domains."""
    from PIL import Image

    for i in range(12):
        place = tmp_path / "pictures" / ("red" if i % 2 else "blue")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (200, 20 * i, 30) if i % 2 else (30, 20 * i, 200)).save(place / f"{i}.png")
        (place / f"{i}.txt").write_text(f"picture {i}")
    return tmp_path / "pictures"


@pytest.fixture
def train(comfy_host, pack, checkpoint, folder):
    """train(**widgets) -> (aggregator, plot, report) with two toy experts of SD1.5's shape."""
    models = [checkpoint(name) for name in ("tiny_sd15_a", "tiny_sd15_b")]

    def run(**changes):
        (_, clip, vae), _ = models
        widgets = {
            **defaults("AFATrainer"), "model_1": models[0][0], "model_2": models[1][0], "clip": clip, "vae": vae,
            "prompt_folder": str(folder), "save_as": "test_trainer", "resolution": 64, "steps": 4, "batch_size": 2,
            "hidden_size": 64, "num_layers": 1, "num_heads": 4, "learning_rate": 1e-3, "evaluate_every": 2,
            "resume": "start anew", **changes,
        }  # fmt: skip
        return comfy_host.call("AFATrainer", **{name: [value] for name, value in widgets.items()})

    run.models = models
    return run


def test_a_trained_aggregator_is_usable_at_once_and_from_its_file(comfy_host, pack, train, encode, sample):
    file, plot, report = train(sample_prompt="picture 1", sample_every=2)
    feed = import_module(pack.__name__ + ".nodes.live").TrainingFeed.latest_of_all
    assert [shown["step"] for shown in feed.snapshot()["samples"]] == [0, 2, 4]
    assert plot.ndim == 4 and plot.shape[-1] == 3
    assert "Held-out loss" in report and "12 pictures" in report
    (loaded,) = comfy_host.call("LoadAFAAggregator", aggregator_name="test_trainer.safetensors")
    assert all(torch.equal(file.state[key], loaded.state[key]) for key in file.state)
    (a, clip, _), (b, _, _) = train.models
    text = encode(clip, "a cat")
    pictures = []
    for aggregator in (file, loaded):
        ensemble, _ = comfy_host.call("AFAEnsembleModel", aggregator=aggregator, model_1=a, model_2=b)
        pictures.append(sample(ensemble, text, text))
    assert torch.equal(*pictures)


def test_the_view_is_sent_the_losses_without_training_by_name(train, pack):
    file, _, _ = train(steps=1)
    feed = import_module(pack.__name__ + ".nodes.live").TrainingFeed.latest_of_all
    baselines = file.training["baselines"]
    best = min(loss for name, loss in baselines.items() if name.startswith("model_"))
    averages = {name: baselines[name] for name in ("noise average", "block average")}
    assert feed.snapshot()["rivals"] == {"best single expert": best, **averages}


def test_the_file_says_how_it_came_about(train):
    file, _, _ = train()
    assert [expert["prediction"] for expert in file.experts] == ["eps", "eps"]
    assert all(len(expert["sha256"]) == 64 for expert in file.experts)
    assert file.training["steps"] == 4 and len(file.training["held_out"]) == 3
    shares = torch.tensor(file.routing["shares"])
    assert shares.shape == (5, 25, 2)
    covered = shares.sum(-1).mean(-1) > 0
    assert torch.allclose(shares[covered].sum(-1), torch.ones(int(covered.sum()), 25), atol=1e-3)
    json.dumps(file.training), json.dumps(file.routing)


def test_experts_are_usable_and_unchanged_after_training(train, encode, sample):
    (a, clip, _), _ = train.models
    text = encode(clip, "a cat")
    before = sample(a, text, text)
    train()
    assert torch.equal(sample(a, text, text), before)
    assert all(parameter.grad is None for parameter in a.model.parameters())


def test_checkpointing_changes_no_number(train):
    plain, _, _ = train(gradient_checkpointing=False)
    saving, _, _ = train(gradient_checkpointing=True)
    assert all(torch.equal(plain.state[key], saving.state[key]) for key in plain.state)


def test_an_ablation_is_stored_in_the_file_and_loads(comfy_host, train):
    train(ablation="without spatial location", steps=2)
    (file,) = comfy_host.call("LoadAFAAggregator", aggregator_name="test_trainer.safetensors")
    assert file.config.ablations == ("space",)
    (a, _, _), (b, _, _) = train.models
    comfy_host.call("AFAEnsembleModel", aggregator=file, model_1=a, model_2=b)


def test_every_ablation_is_the_one_that_its_choice_names(comfy_host, pack, checkpoint):
    from afa_core.host.experts.experts import Expert

    config = import_module(pack.__name__ + ".nodes.trainer")._config
    models = [Expert(checkpoint(name)[0], name) for name in ("tiny_sd15_a", "tiny_sd15_b")]
    choices = {
        "none": (), "without the timestep": ("time",), "without the text": ("text",), "without spatial location": ("space",),
        "only the last fusion point": ("blocks",),
    }  # fmt: skip
    widgets = defaults("AFATrainer")
    assert {choice: config(models, {**widgets, "ablation": choice}).ablations for choice in choices} == choices


def test_an_aggregator_with_an_identity_bias_is_trained_and_loads(comfy_host, train, encode, sample):
    file, _, _ = train(identity_bias=True)
    (loaded,) = comfy_host.call("LoadAFAAggregator", aggregator_name="test_trainer.safetensors")
    assert loaded.config == file.config and loaded.config.identity_bias
    assert any(loaded.state[f"aggregators.{i}.identity_bias"] != 0 for i in loaded.config.biased_points)
    (a, clip, _), (b, _, _) = train.models
    text = encode(clip, "a cat")
    ensemble, _ = comfy_host.call("AFAEnsembleModel", aggregator=loaded, model_1=a, model_2=b)
    assert sample(ensemble, text, text).isfinite().all()


def test_errors_are_sentences(train, tmp_path, folder):
    with pytest.raises(ValueError, match="save_as should be a plain file name"):
        train(save_as="../outside")
    with pytest.raises(ValueError, match="found only latents: connect both"):
        train(latents=[{"samples": torch.zeros(1, 4, 8, 8)}])
    for picture in sorted(folder.rglob("*.png"))[3:]:
        picture.unlink()
    with pytest.raises(ValueError, match="3 usable pictures and prompts, and training needs at least 10"):
        train()
    with pytest.raises(ValueError, match="hidden_size should be a multiple of 32"):
        train(hidden_size=100)


def test_interruption_through_the_host_keeps_an_aggregator(comfy_host, train, monkeypatch):
    import comfy.model_management as memory

    from afa_core.aggregator.file import load_aggregator
    from afa_core.training import loop

    path = comfy_host.base / "models" / "afa" / "test_interrupted.safetensors"
    real, steps = loop.training_step, iter(range(1000))

    def interrupt_later(training):
        if next(steps) == 3:
            memory.interrupt_current_processing()
        return real(training)

    monkeypatch.setattr(loop, "training_step", interrupt_later)
    with pytest.raises(memory.InterruptProcessingException):
        train(save_as="test_interrupted", steps=1000)
    monkeypatch.undo()
    found = load_aggregator(path).training
    assert found["finished"] == "" and found["steps"] == 3


def test_gradients_agree_with_finite_differences(pack, checkpoint, encode):
    """Through the host's own networks, in float64: the directional derivative of the loss."""
    from afa_core.aggregator.config import AggregatorConfig
    from afa_core.fusion.sabw_fusion import SABWFusion
    from afa_core.host.experts.experts import Expert
    from afa_core.host.training.frozen_experts import HostExperts, outside_inference
    from afa_core.training.data.dataset import Batch
    from afa_core.training.draw import training_draw
    from afa_core.training.objective import sample_loss
    from afa_core.training.tasks.aggregator import new_aggregator

    names = ("tiny_sd15_a", "tiny_sd15_b")
    with torch.inference_mode():
        experts = [Expert(checkpoint(name)[0], name) for name in names]
    with outside_inference():
        frozen = HostExperts(experts)
        frozen.load([2, 4, 8, 8])
        for expert in experts:
            expert.patcher.model.diffusion_model.double().dtype = torch.float64
        torch.manual_seed(0)
        config = AggregatorConfig("toy", tuple(p.channels for p in frozen.points), 2, 32, 256, 64, 1, 4)
        aggregator = new_aggregator(config, 0, torch.device("cpu")).double()
        for name, parameter in aggregator.named_parameters():
            if name.endswith("conv_out.weight"):
                torch.nn.init.normal_(parameter, std=0.02)
        text = torch.randn(2, 77, 32, dtype=torch.float64)
        batch = Batch([0, 1], torch.randn(2, 4, 8, 8).double(), [{"c_crossattn": text, "y": None}] * 2, torch.zeros(2))
        draw = training_draw(batch.latents.shape, 0, 0)

        def loss():
            return sample_loss(frozen, SABWFusion(aggregator), batch, draw).mean()

        loss().backward()
        parameters = list(aggregator.parameters())
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)
        direction = [torch.randn_like(p) * p.abs().mean() for p in parameters]
        slope = sum((p.grad * d).sum() for p, d in zip(parameters, direction, strict=True))
        step = 1e-6
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, d in zip(parameters, direction, strict=True):
                    p.add_(d, alpha=sign * step if sign > 0 else -2 * step)
            values.append(loss().item())
        measured = (values[0] - values[1]) / (2 * step)
    assert measured == pytest.approx(slope.item(), rel=1e-4)
