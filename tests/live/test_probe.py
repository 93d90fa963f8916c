"""The probe through the live server: its verdict and plot come back, and a changed folder is probed anew."""

import io
import json

import pytest
from PIL import Image

from tests.support.comfy.events import Events
from tests.support.comfy.server import Failure


@pytest.fixture
def pictures(live_server):
    folder = live_server.base / "input" / "live_probe"
    folder.mkdir(exist_ok=True)
    for i in range(3):
        Image.new("RGB", (64, 64), (60 * i, 100, 255 - 60 * i)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture {i}")
    return folder


def workflow(**changes):
    widgets = {"prompt_folder": "live_probe", "pictures": 8, "noises": 2, "resolution": 64, "seed": 0}
    models = {"model_1": ["1", 0], "model_2": ["2", 0]}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny_sd15_a.safetensors"}},
        "2": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny_sd15_b.safetensors"}},
        "3": {"class_type": "AFAProbe", "inputs": {**widgets, **models, "clip": ["1", 1], "vae": ["1", 2], **changes}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
        "5": {"class_type": "PreviewAny", "inputs": {"source": ["3", 2]}},
    }


def texts(history):
    return [history["outputs"][node]["text"][0] for node in ("4", "5")]


def test_verdict_plot_and_report_come_back(live_server, pictures):
    history = live_server.run(workflow())
    verdict, report = texts(history)
    report = json.loads(report)
    assert verdict.startswith(report["sentence"]) and report["pictures"] == 3
    assert report["experts"] == ["model_1 (tiny_sd15_a.safetensors)", "model_2 (tiny_sd15_b.safetensors)"]
    (plot,) = live_server.images(history, "3")
    assert Image.open(io.BytesIO(plot)).size == (1200, 800)

    Image.new("RGB", (64, 64), "white").save(pictures / "3.png")
    (pictures / "3.txt").write_text("picture 3")
    assert json.loads(texts(live_server.run(workflow()))[1])["pictures"] == 4


def test_progress_is_told_and_an_interruption_ends_it(live_server, pictures):
    with Events(live_server) as events:
        prompt_id = live_server.queue(workflow(noises=64, seed=1))
        while events.wait("progress")["node"] != "3":
            pass
        live_server.interrupt()
        with pytest.raises(Failure, match="(?i)interrupt"):
            live_server.wait(prompt_id)


def test_a_missing_folder_is_told_at_the_node(live_server):
    with pytest.raises(Failure, match=r"prompt folder .*nowhere does not exist") as failure:
        live_server.run(workflow(prompt_folder="nowhere"))
    assert failure.value.node_type == "AFAProbe"
