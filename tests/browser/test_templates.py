"""The workflow templates in the front ends that open them: whole, and queued as our tests run them."""

import json

import pytest

from tests.browser.page import OLDEST, either
from tests.browser.templates import open_template, press_run
from tests.live.test_templates import SHORT
from tests.support.comfy.templates import FOLDER
from tests.support.comfy.ui_to_api import ui_to_api
from tests.support.stand_ins import stand_ins

OPEN = "await app.loadGraphData(argument); await new Promise((done) => setTimeout(done, 300));"
PROMPT = "return (await app.graphToPrompt()).output;"


def alerts(canvas) -> list[str]:
    """What the front end says beside the graph, such as that a workflow is not of its format."""
    return canvas.run("return [...document.querySelectorAll('.p-toast-message')].map((e) => e.textContent);")


@pytest.mark.parametrize("canvas", [(OLDEST, "classic")], ids="-".join, indirect=True)
def test_an_odd_workflow_is_complained_of(canvas):
    """So that the test below would notice; newer front ends take it without a word."""
    version = canvas.run("return window.__COMFYUI_FRONTEND_VERSION__;")
    if version != OLDEST:
        pytest.skip(f"{version} takes it without a word")
    workflow = json.loads((FOLDER / "quick_start.json").read_text())
    canvas.run(OPEN, {**workflow, "id": "no uuid"})
    canvas.until("document.querySelector('.p-toast-message')")
    assert any("Invalid" in alert for alert in alerts(canvas))
    canvas.run("document.querySelectorAll('.p-toast-close-button').forEach((button) => button.click());")
    canvas.until("!document.querySelector('.p-toast-message')")


@either
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_template_opens_whole_and_is_queued_as_the_tests_run_it(canvas, path):
    workflow = json.loads(path.read_text())
    canvas.run(OPEN, workflow)
    assert alerts(canvas) == []
    shown = canvas.run("return app.graph.nodes.map((node) => [String(node.id), node.type]);")
    assert sorted(shown) == sorted([str(node["id"]), node["type"]] for node in workflow["nodes"])
    queued = canvas.run(PROMPT)
    object_info = canvas.server.get("/object_info")
    expected = ui_to_api(workflow, object_info)
    assert queued.keys() == expected.keys()
    for node_id, node in expected.items():
        assert queued[node_id]["class_type"] == node["class_type"]
        # A front end adds values of its own, which the server does not know: what Preview Any shows.
        known = {name for inputs in object_info[node["class_type"]]["input"].values() for name in inputs}
        inputs = {name: value for name, value in queued[node_id]["inputs"].items() if name in known}
        assert inputs == node["inputs"], node["class_type"]


@either
def test_the_quick_start_runs_by_a_click_on_run(canvas):
    """The others: python -m tests.browser.templates."""
    with stand_ins(canvas.server.base):
        open_template(canvas, "quick_start", SHORT)
        outputs = press_run(canvas)["outputs"]
    shown = canvas.run(
        "return app.graph.nodes.filter((n) => ['SaveImage', 'PreviewImage', 'AFARoutingMaps'].includes(n.type)).map((n) => String(n.id));"
    )
    assert len(shown) == 3 and outputs.keys() == set(shown)
    assert alerts(canvas) == []
