"""A real server, started as a user starts it: our nodes are there, prompts run, errors come back as data."""

import io

import pytest
from PIL import Image

from tests.support.comfy.bootstrap import PACK_NAME, ensure_host
from tests.support.comfy.events import Events
from tests.support.comfy.server import Failure, LiveServer


def text_to_image(checkpoint="tiny_sd15_a.safetensors", seed=1, steps=2):
    """The host's first workflow in API format."""
    sampler = {"sampler_name": "euler", "scheduler": "normal", "cfg": 7.0, "denoise": 1.0}
    links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a cat"}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {"class_type": "KSampler", "inputs": {**sampler, **links, "seed": seed, "steps": steps}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "frame"}},
    }


def test_a_prompt_runs_and_its_picture_comes_back(live_server):
    history = live_server.run(text_to_image())
    (picture,) = live_server.images(history)
    assert Image.open(io.BytesIO(picture)).size == (64, 64)
    assert live_server.images(history, "7") == [picture]


def test_events_tell_what_happens(live_server):
    with Events(live_server) as events:
        prompt_id = live_server.queue(text_to_image(seed=2))
        assert events.wait("execution_start")["prompt_id"] == prompt_id
        progress = events.wait("progress")
        assert (progress["node"], progress["max"]) == ("5", 2)
        assert events.wait("execution_success")["prompt_id"] == prompt_id


def test_refused_inputs_name_the_node(live_server):
    with pytest.raises(Failure, match="not in list") as refusal:
        live_server.queue(text_to_image(checkpoint="absent.safetensors"))
    assert refusal.value.node_type == "CheckpointLoaderSimple"
    assert refusal.value.node_id == "1"


def test_an_error_while_running_names_the_node(live_server):
    (live_server.base / "models" / "checkpoints" / "broken.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(Failure) as failure:
        live_server.run(text_to_image(checkpoint="broken.safetensors"))
    assert failure.value.node_type == "CheckpointLoaderSimple"
    assert failure.value.details["traceback"]


def test_an_interrupted_prompt_ends_and_the_next_one_runs(live_server):
    with Events(live_server) as events:
        long = live_server.queue(text_to_image(steps=10000))
        events.wait("progress")
        live_server.interrupt()
    with pytest.raises(Failure, match="interrupted"):
        live_server.wait(long)
    assert live_server.images(live_server.run(text_to_image(seed=3)))


def test_the_pack_is_there(live_server):
    nodes = live_server.get("/object_info")
    ours = [name for name, node in nodes.items() if node["python_module"] == f"custom_nodes.{PACK_NAME}"]
    assert {"LoadAFAAggregator", "AFAEnsembleModel"} <= set(ours)
    log = live_server.log_path.read_text()
    assert "IMPORT FAILED" not in "".join(line for line in log.splitlines() if "/custom_nodes/" in line)


def test_the_front_end_extension_is_served(live_server):
    ours = f"/extensions/{PACK_NAME}/"
    scripts = [path for path in live_server.get("/extensions") if path.startswith(ours)]
    assert scripts
    assert all(live_server.read(path) for path in scripts)


def test_a_server_that_cannot_start_tells_why(tmp_path):
    with pytest.raises(RuntimeError, match="unrecognized arguments: --no-such-argument"):
        LiveServer(tmp_path, "--no-such-argument").start()


def test_the_host_tree_is_not_written_to(live_server):
    """Bytecode apart: the tree may be a user's own installation."""
    host = ensure_host()
    started = (live_server.base / "custom_nodes").stat().st_mtime
    live_server.run(text_to_image(seed=4))
    written = [
        path for path in host.rglob("*") if path.is_file() and path.suffix != ".pyc" and path.stat().st_mtime > started
    ]
    assert written == []
