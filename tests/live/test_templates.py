"""Every workflow template as it is opened runs to its last output, on small files under the names that it asks for."""

import io

import pytest
from PIL import Image

from tests.support.comfy.templates import FOLDER, find, template, with_values
from tests.support.stand_ins import can_run, stand_ins

SHORT = {
    "EmptyLatentImage": {"width": 64, "height": 64},
    "EmptySD3LatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 2},
    "AFACompare": {"width": 64, "height": 64, "steps": 2, "seeds": "1"},
    "AFAProbe": {"pictures": 4, "noises": 2, "resolution": 64},
    "AFAAutoMerge": {"budget": 2, "steps": 1},
    "AFATrainer": {
        "steps": 2, "batch_size": 2, "resolution": 64, "hidden_size": 64, "num_layers": 1, "num_heads": 4,
        "evaluate_every": 2,
    },
    "AFADistill": {
        "steps": 2, "batch_size": 2, "resolution": 64, "rank": 2, "labels_per_item": 1, "paint_steps": 2, "evaluate_every": 2,
    },
}  # fmt: skip
"""Smaller pictures and fewer steps: nothing else of a template is changed."""


@pytest.fixture(scope="module")
def files(live_server):
    with stand_ins(live_server.base):
        yield


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_a_template_runs_to_the_end(live_server, files, name):
    info = live_server.get("/object_info")
    prompt = with_values(template(name, info), SHORT)
    if not can_run(live_server.base, prompt):
        pytest.skip("this ComfyUI does not know its models")
    history = live_server.run(prompt)
    outputs = {node for node, entry in prompt.items() if info[entry["class_type"]]["output_node"]}
    assert outputs <= history["outputs"].keys() | {
        node for kind in ("AFATrainer", "AFADistill", "AFAAutoMerge") for node in find(prompt, kind)
    }
    for node in find(prompt, "SaveImage"):
        (picture,) = live_server.images(history, node)
        picture = Image.open(io.BytesIO(picture)).convert("RGB")
        widths = {"control_and_high_res": 96, "compare_methods": picture.width}  # the latter saves a grid
        assert picture.width == widths.get(name, 64)
        assert len(picture.getcolors(picture.width * picture.height)) > 100
    for node in find(prompt, "PreviewAny"):
        assert len(history["outputs"][node]["text"][0]) > 60  # the scores of one picture are the shortest
