"""The pack's nodes on transformers, wired as an artist wires them: networks in files of their own, a text encoder and a VAE."""

import json
from importlib import import_module

import pytest
import torch

from afa_core.probe.report import VERDICTS
from tests.support.ensembles import ensemble
from tests.support.node_trainer import STEPS, WHOLE, Trainer, twelve_pictures
from tests.support.training_toys import computed_steps
from tests.support.transformers import load, sample

FAMILIES = ["flux", "lumina", "cosmos"]
one_family = pytest.mark.parametrize("parts", ["flux"], indirect=True)
"""Of what is alike for all: one family stands for the others."""


class Parts:
    """Two networks of a family, and a toy's text encoder of the width that they read, with a VAE for 16 channels."""

    def __init__(self, host, family: str):
        self.host = host
        self.names = [f"tiny_{family}_{letter}" for letter in "ab"]
        self.cases = [load(host, name) for name in self.names]
        self.models = [case.patcher for case in self.cases]
        self.clip = host.call("CheckpointLoaderSimple", ckpt_name="tiny_sd2_a.safetensors")[1]
        self.vae = host.call("VAELoader", vae_name="tiny_16_channels.safetensors")[0]

    def encode(self, text: str) -> list:
        return self.host.call("CLIPTextEncode", clip=self.clip, text=text)[0]

    def sample(self, model, **widgets):
        return sample(
            self.host, model, self.cases[0], positive=self.encode("a cat"), negative=self.encode("blurry"), **widgets
        )


@pytest.fixture(scope="module", params=FAMILIES)
def parts(request, comfy_host, pack) -> Parts:
    return Parts(comfy_host, request.param)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return twelve_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def trainer(comfy_host, parts, pictures) -> Trainer:
    trainer = Trainer(comfy_host, pictures)
    trainer.widgets |= {
        "model_1": parts.models[0], "model_2": parts.models[1], "clip": parts.clip, "vae": parts.vae, "resume": "start anew",
    }  # fmt: skip
    return trainer


def test_a_trained_aggregator_finds_its_networks(comfy_host, parts, trainer):
    """Training, its file, and the ensemble that the file alone brings back: without a text encoder or VAE of its own."""
    file = trainer.run(f"trained_{parts.names[0]}", **WHOLE)
    assert len(file.experts) == 2
    assert list(file.config.fused_points) == [
        i for i in range(len(parts.cases[0].points)) if i % 4 == 3 or i >= len(parts.cases[0].points) - 2
    ]
    wired = ensemble(comfy_host, file, *parts.models)
    model, clip, vae, aggregator, record = comfy_host.call(
        "LoadAFAEnsemble", aggregator_name=f"trained_{parts.names[0]}.safetensors"
    )
    assert clip is None
    assert vae is None
    assert all(torch.equal(aggregator.state[key], file.state[key]) for key in file.state)
    assert torch.equal(parts.sample(model), parts.sample(wired))
    (run,) = record.runs
    panels, summary, _ = comfy_host.call("AFARoutingMaps", routing=record, samples={"samples": parts.sample(model)})
    assert panels.ndim == 4
    assert json.loads(summary)
    assert tuple(run.fused_points) == file.config.fused_points


@one_family
def test_resumed_equals_not_interrupted(parts, trainer):
    whole = trainer.run("whole")
    trainer.run("parted", steps=2)
    with computed_steps() as steps:
        resumed = trainer.run("parted", resume="continue")
    assert steps == list(range(2, STEPS))
    assert all(torch.equal(resumed.state[key], whole.state[key]) for key in whole.state)


@one_family
def test_a_preview_while_training(parts, trainer, pack):
    trainer.run("preview", sample_prompt="picture 1", sample_every=2)
    feed = import_module(pack.__name__ + ".nodes.live").TrainingFeed.latest_of_all
    assert [shown["step"] for shown in feed.snapshot()["samples"]] == [0, 2, 4]


def test_the_probe(comfy_host, parts, pictures):
    verdict, plot, report, fusion = comfy_host.call(
        "AFAProbe", model_1=parts.models[0], model_2=parts.models[1], clip=parts.clip, vae=parts.vae,
        prompt_folder=str(pictures), pictures=4, noises=2, resolution=64, seed=0,
    )  # fmt: skip
    assert verdict
    assert plot.ndim == 4
    assert json.loads(report)["verdict"] in VERDICTS
    assert torch.isfinite(parts.sample(ensemble(comfy_host, fusion, *parts.models))).all()


class Redness:
    """A scorer in place of a network of 2 GB."""

    def __call__(self, pictures, prompts):
        assert pictures.ndim == 4
        return pictures[..., 0].mean((1, 2))


@pytest.mark.parametrize("parts", ["flux", "cosmos"], indirect=True)
def test_auto_block_merge(comfy_host, parts, monkeypatch):
    from afa_core.host.scoring import scorers

    if parts.cases[0].family == "cosmos":  # its VAE takes latents and gives pictures with an axis for frames
        decode = parts.vae.decode
        monkeypatch.setattr(parts.vae, "decode", lambda samples: decode(samples[:, :, 0])[:, None])
    monkeypatch.setitem(scorers.SCORERS, "AES", Redness)
    latent = comfy_host.call("EmptySD3LatentImage", width=64, height=64, batch_size=1)[0]
    model, report = comfy_host.call(
        "AFAAutoMerge", model_1=parts.models[0], model_2=parts.models[1], clip=parts.clip, vae=parts.vae,
        latent_image=latent, prompts="a cat", negative="", scorer="AES", budget=3, steps=1, save_as="merged_transformers",
        scheduler="simple",
    )  # fmt: skip
    assert all(
        name in report
        for name in ("merges", next(iter(parts.cases[0].architecture.merge_blocks(parts.models[0].model))))
    )
    assert torch.isfinite(parts.sample(model)).all()
