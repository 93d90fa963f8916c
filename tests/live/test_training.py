"""The whole thing through the live server: trains 12 steps and samples, cancelled once through the API and resumed."""

import io

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from afa_core.aggregator.file import load_aggregator
from tests.support.comfy.events import Events
from tests.support.comfy.server import Failure
from tests.support.node_trainer import twelve_pictures
from tests.support.stand_ins import lora

STEPS = 12


@pytest.fixture(scope="module")
def pictures(live_server):
    folder = live_server.base / "input" / "live_training"
    folder.mkdir(exist_ok=True)
    return twelve_pictures(folder)


def workflow(server, save_as: str, **changes) -> dict:
    """Two toy checkpoints, trained for and sampled with, in API format."""
    inputs = server.get("/object_info/AFATrainer")["AFATrainer"]["input"]["required"]
    widgets = {name: spec[1]["default"] for name, spec in inputs.items() if "default" in (*spec, {})[1]}
    widgets |= {name: spec[1]["options"][0] for name, spec in inputs.items() if "options" in (*spec, {})[1]}
    widgets |= {
        "prompt_folder": "live_training", "save_as": save_as, "resolution": 64, "steps": STEPS, "batch_size": 2,
        "hidden_size": 64, "num_layers": 1, "num_heads": 4, "learning_rate": 1e-3, "evaluate_every": 10, "save_every": 4,
    }  # fmt: skip
    models = {"model_1": ["1", 0], "model_2": ["2", 0]}
    sampler = {"sampler_name": "euler", "scheduler": "normal", "cfg": 7.0, "denoise": 1.0, "seed": 1, "steps": 2}
    links = {"model": ["4", 0], "positive": ["5", 0], "negative": ["5", 0], "latent_image": ["6", 0]}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny_sd15_a.safetensors"}},
        "2": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny_sd15_b.safetensors"}},
        "3": {
            "class_type": "AFATrainer",
            "inputs": {**widgets, **models, "clip": ["1", 1], "vae": ["1", 2], **changes},
        },
        "4": {"class_type": "AFAEnsembleModel", "inputs": {"aggregator": ["3", 0], **models}},
        "5": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "picture 3"}},
        "6": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "7": {"class_type": "KSampler", "inputs": {**sampler, **links}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["7", 0], "vae": ["1", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "trained"}},
    }


def first_measured(events) -> int:
    """The step of the first loss that a training shows: 0 where it was begun anew."""
    shown = [event["data"] for event in events.seen if event["type"] == "afa.training"]
    return next(message["step"] for message in shown if message.keys() & {"loss", "held_out"})


def test_train_cancel_resume_and_sample(live_server, pictures):
    uninterrupted = live_server.images(live_server.run(workflow(live_server, "whole")))

    with Events(live_server) as events:
        prompt_id = live_server.queue(workflow(live_server, "cancelled"))
        while events.wait("afa.training")["step"] < 4:
            pass
        live_server.interrupt()
        with pytest.raises(Failure, match="(?i)interrupt"):
            live_server.wait(prompt_id)
    folder = live_server.base / "models" / "afa"
    saved = load_aggregator(folder / "cancelled.safetensors").training["steps"]
    assert 4 <= saved < STEPS and (folder / "cancelled.resume").exists()

    with Events(live_server) as events:
        resumed = live_server.images(live_server.run(workflow(live_server, "cancelled")))
    assert first_measured(events) >= saved
    whole, again = (load_aggregator(folder / f"{name}.safetensors") for name in ("whole", "cancelled"))
    assert all(torch.equal(whole.state[key], again.state[key]) for key in whole.state)
    assert again.training["steps"] == STEPS
    pictures = [Image.open(io.BytesIO(picture[0])) for picture in (resumed, uninterrupted)]
    assert pictures[0].size == (64, 64)
    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_the_stop_button_ends_well_and_keeps_the_work(live_server, pictures):
    with Events(live_server) as events:
        prompt_id = live_server.queue(workflow(live_server, "stopped", steps=5000))
        while (message := events.wait("afa.training"))["step"] < 3:
            pass
        assert live_server.post("/afa/training/stop", {"run": "another"}) == {"stopping": False}
        question = "/afa/training?workflow=&node=3&client="
        assert live_server.get(question + "another") is None
        assert live_server.get(question + live_server.client_id)["run"] == message["run"]
        assert live_server.post("/afa/training/stop", {"run": message["run"]}) == {"stopping": True}
        history = live_server.wait(prompt_id)
    assert live_server.post("/afa/training/stop", {"run": message["run"]}) == {"stopping": False}
    assert live_server.get(question + "another")["state"] == "done"
    assert live_server.images(history)
    stopped = load_aggregator(live_server.base / "models" / "afa" / "stopped.safetensors")
    steps = stopped.training["steps"]
    assert stopped.training["finished"] == "stopped" and steps < 5000

    with Events(live_server) as events:  # the same graph goes on where it was stopped
        prompt_id = live_server.queue(workflow(live_server, "stopped", steps=5000))
        while (message := events.wait("afa.training"))["step"] <= steps:
            pass
        assert live_server.post("/afa/training/stop", {"run": message["run"]}) == {"stopping": True}
        live_server.wait(prompt_id)
    assert first_measured(events) >= steps
    again = load_aggregator(live_server.base / "models" / "afa" / "stopped.safetensors").training["losses"]
    assert again[:steps] == stopped.training["losses"]


def test_a_mistake_is_told_at_the_trainer(live_server, pictures):
    with pytest.raises(Failure, match="nowhere") as failure:
        live_server.run(workflow(live_server, "refused", prompt_folder="nowhere"))
    assert failure.value.node_type == "AFATrainer"


def test_a_changed_folder_is_noticed_and_refused(live_server, pictures):
    """The host would answer from its cache: nothing in the graph has changed."""
    live_server.run(workflow(live_server, "changed", steps=1))
    Image.new("RGB", (64, 64), "white").save(pictures / "12.png")
    (pictures / "12.txt").write_text("picture 12")
    try:
        with pytest.raises(Failure, match="(?s)changed.*start anew") as failure:
            live_server.run(workflow(live_server, "changed", steps=1))
        assert failure.value.node_type == "AFATrainer"
    finally:
        (pictures / "12.png").unlink()
        (pictures / "12.txt").unlink()


def test_an_ensemble_of_one_checkpoint_under_two_loras_is_rebuilt_from_its_file(live_server, pictures):
    """The graph names the LoRAs: one for the text encoder too, one for the network alone."""
    checkpoint = live_server.base / "models" / "checkpoints" / "tiny_sd15_a.safetensors"
    graph = workflow(live_server, "two_loras", steps=2)
    for number, name in (("10", "first"), ("11", "second")):
        save_file(lora(checkpoint, int(number)), live_server.base / "models" / "loras" / f"live_{name}.safetensors")
        inputs = {"model": ["1", 0], "lora_name": f"live_{name}.safetensors", "strength_model": 0.7}
        graph[number] = {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
    graph["10"]["class_type"] = "LoraLoader"
    graph["10"]["inputs"] |= {"clip": ["1", 1], "strength_clip": 0.5}
    for node in ("3", "4"):
        graph[node]["inputs"] |= {"model_1": ["10", 0], "model_2": ["11", 0]}
    wired = live_server.images(live_server.run(graph))

    loader = {"class_type": "LoadAFAEnsemble", "inputs": {"aggregator_name": "two_loras.safetensors"}}
    again = {**{number: graph[number] for number in "156789"}, "4": loader}
    rebuilt = live_server.images(live_server.run(again))
    assert Image.open(io.BytesIO(rebuilt[0])).tobytes() == Image.open(io.BytesIO(wired[0])).tobytes()
    (live_server.base / "models" / "loras" / "live_second.safetensors").unlink()
    with pytest.raises(Failure, match="there is no live_second.safetensors among your LoRAs"):
        live_server.run({**again, "7": {**again["7"], "inputs": {**again["7"]["inputs"], "seed": 2}}, "4": {**loader, "inputs": {**loader["inputs"], "skip_below": 0.01}}})  # fmt: skip
