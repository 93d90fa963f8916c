"""Every workflow template is whole, and the quick start runs on toys."""

import io
import json

import pytest
from PIL import Image

from tests.support.comfy.bootstrap import PACK_NAME
from tests.support.comfy.server import Failure
from tests.support.comfy.templates import (
    FOLDER,
    alone,
    find,
    template,
    with_aggregator,
    with_checkpoints,
    with_values,
)
from tests.support.comfy.ui_to_api import ui_to_api

TOYS = ["tiny_sd15_a.safetensors", "tiny_sd15_b.safetensors", "tiny_sd15_c.safetensors"]
SMALL = {"EmptyLatentImage": {"width": 64, "height": 64}, "KSampler": {"steps": 2}}


@pytest.fixture(scope="module")
def quick_start(live_server):
    return template("quick_start", live_server.get("/object_info"))


def test_the_host_lists_it_as_a_template(live_server):
    assert "quick_start" in live_server.get("/workflow_templates")[PACK_NAME]
    served = live_server.get(f"/api/workflow_templates/{PACK_NAME}/quick_start.json")
    assert served == json.loads((FOLDER / "quick_start.json").read_text())


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_template_is_whole(path):
    """Every link is known at both of its ends, ids are unique, and a picture and a note go with it."""
    workflow = json.loads(path.read_text())
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    assert workflow["last_node_id"] >= max(nodes)
    assert workflow["last_link_id"] >= max(link[0] for link in workflow["links"])
    for link, source, output, target, socket, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][output]["links"] and nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][socket]["link"] == link
        assert nodes[target]["inputs"][socket]["type"] in (kind, "*")
    wired = [socket["link"] for node in nodes.values() for socket in node["inputs"] if socket["link"] is not None]
    assert sorted(wired) == sorted(link[0] for link in workflow["links"])
    assert any(node["type"] == "MarkdownNote" and node["widgets_values"][0] for node in nodes.values())
    thumbnail = Image.open(path.with_suffix(".jpg"))
    assert min(thumbnail.size) >= 256 and path.with_suffix(".jpg").stat().st_size < 200_000


def test_the_quick_start_runs(live_server, quick_start):
    history = live_server.run(with_values(with_checkpoints(quick_start, TOYS), SMALL))
    (saver,), (maps,), (preview,) = (
        find(quick_start, kind) for kind in ("SaveImage", "AFARoutingMaps", "PreviewImage")
    )
    (picture,) = live_server.images(history, saver)
    assert Image.open(io.BytesIO(picture)).size == (64, 64)
    assert live_server.images(history, preview)
    assert history["outputs"][maps]["afa_routing"]


def test_the_quick_start_asks_for_the_users_checkpoints(live_server, quick_start):
    """As it is opened it names files that nobody has: the answer comes at the loader, at once."""
    with pytest.raises(Failure, match=r"your_checkpoint_\d.safetensors.* not in") as refusal:
        live_server.queue(quick_start)
    assert refusal.value.node_type == "CheckpointLoaderSimple"


def test_one_expert_alone_is_the_hosts_own_picture(live_server, quick_start):
    """What the demo calls an expert's own picture holds no node of ours."""
    prompt = with_values(with_checkpoints(quick_start, TOYS), SMALL)
    loader = find(prompt, "CheckpointLoaderSimple")[1]
    single = alone(prompt, loader)
    assert not [node for node in single.values() if "AFA" in node["class_type"]]
    assert single[find(single, "KSampler")[0]]["inputs"]["model"] == [loader, 0]
    assert all(single[encoder]["inputs"]["clip"] == [loader, 1] for encoder in find(single, "CLIPTextEncode"))
    assert live_server.images(live_server.run(single))


def test_the_aggregator_takes_the_fusions_place(quick_start):
    changed = with_aggregator(quick_start, "mine.safetensors")
    (loader,) = find(changed, "LoadAFAAggregator")
    assert changed[find(changed, "AFAEnsembleModel")[0]]["inputs"]["aggregator"] == [loader, 0]
    assert not find(changed, "AFATrainingFreeFusion")


# ---- the converter ----

INFO = {
    "Source": {"input": {"required": {"kind": [["a", "b"], {}]}}},
    "Sink": {
        "input": {
            "required": {"seed": ["INT", {"control_after_generate": True}], "picture": ["IMAGE", {}]},
            "optional": {"text": ["STRING", {"forceInput": True}], "size": ["FLOAT", {"default": 2.0}]},
        }
    },
}


def small_workflow():
    source = {
        "id": 1,
        "type": "Source",
        "mode": 0,
        "widgets_values": ["b"],
        "outputs": [{"type": "IMAGE", "links": [7]}],
    }
    inputs = [{"name": "picture", "type": "IMAGE", "link": 7}]
    sink = {"id": 2, "type": "Sink", "mode": 0, "widgets_values": [5, "fixed", 3.0], "inputs": inputs}
    note = {"id": 3, "type": "Note", "widgets_values": ["hello"]}
    return {"nodes": [source, sink, note], "links": [[7, 1, 0, 2, 0, "IMAGE"]]}


def test_a_workflow_becomes_a_prompt():
    prompt = ui_to_api(small_workflow(), INFO)
    assert prompt["1"]["inputs"] == {"kind": "b"}
    assert prompt["2"]["inputs"] == {"seed": 5, "size": 3.0, "picture": ["1", 0]}
    younger = small_workflow()
    younger["nodes"][1]["widgets_values"].pop()
    assert ui_to_api(younger, INFO)["2"]["inputs"]["size"] == 2.0


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda w: w["nodes"][0].update(type="Gone"), r"node 1 \(Gone\) is of a kind that the server does not have"),
        (lambda w: w["nodes"][0].update(mode=4), "is muted or bypassed"),
        (lambda w: w["nodes"][1]["inputs"][0].update(name="image"), "has no input image"),
        (lambda w: w["links"][0].__setitem__(5, "MODEL"), "takes no MODEL at picture"),
        (lambda w: w["links"][0].__setitem__(3, 1), "link 7 does not lead to node 2"),
        (lambda w: w["nodes"][0].update(widgets_values=["b", "c"]), "values that belong to no widget: \\['c'\\]"),
    ],
)
def test_what_is_wrong_with_a_workflow_is_said(damage, complaint):
    workflow = small_workflow()
    damage(workflow)
    with pytest.raises(ValueError, match=complaint):
        ui_to_api(workflow, INFO)
