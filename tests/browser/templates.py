"""The workflow templates, each opened in the browser and run by a click on Run: python -m tests.browser.templates [FOLDER]

Both front ends, in one renderer each, on the small files of tests/support/stand_ins.py. Prints a line a run and keeps a picture of
each page in FOLDER, or in output/templates. Ends with a failure if any page complained or a template did not run to its end.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.browser.page import NEWEST, OLDEST, Browser, Canvas, front_end_arguments
from tests.live.test_templates import SHORT
from tests.support.comfy.bootstrap import REPOSITORY, make_base
from tests.support.comfy.checkpoints import ensure_checkpoints
from tests.support.comfy.server import LiveServer
from tests.support.comfy.templates import FOLDER
from tests.support.stand_ins import can_run, stand_ins

OUTPUT = REPOSITORY / "output" / "templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
OPEN = """
const [workflow, values] = argument;
await app.loadGraphData(workflow);
for (const node of app.graph.nodes)
  for (const [name, value] of Object.entries({ ...values[node.type], ...values[node.title] })) {
    const widget = node.widgets.find((each) => each.name === name);
    widget.value = value;
    widget.callback?.(value);
  }
"""
FIT = """
const nodes = app.graph.nodes;
const [left, top] = [0, 1].map((i) => Math.min(...nodes.map((node) => node.pos[i])));
const [right, bottom] = [0, 1].map((i) => Math.max(...nodes.map((node) => node.pos[i] + node.size[i])));
const { width, height } = document.querySelector("#graph-canvas").getBoundingClientRect();
const scale = Math.min((width - 120) / (right - left), (height - 260) / (bottom - top), 1);
app.canvas.ds.scale = scale;
app.canvas.ds.offset = [60 / scale - left, 160 / scale - top];
app.canvas.setDirty(true, true);
"""
SHOWN = """
const shown = (selector) => document.querySelectorAll(selector).length;
const of = (type) => app.graph.nodes.filter((node) => node.type === type).length;
return shown(".afa-viewer:not(.afa-empty)") === of("AFARoutingMaps") && shown(".afa-training:not(.afa-empty)") === of("AFATrainer") + of("AFADistill") && shown(".afa-compare:not(.afa-empty)") === of("AFACompare");
"""


def open_template(page: Canvas, name: str, values: dict) -> None:
    """A template on the page, with other values in the nodes of these titles or kinds."""
    page.run(OPEN, [json.loads((FOLDER / f"{name}.json").read_text()), values])
    page.run(FIT)
    page.settle(500)


def press_run(page: Canvas, seconds: float = 300) -> dict:
    """Clicks on Run, and waits for the end: the history of what ran. Refused inputs and errors raise Failure."""
    with page.page.expect_response(lambda answer: answer.url.endswith("/prompt")) as answer:
        page.page.locator('[data-testid="queue-button"]').first.click()
    queued = answer.value.json()
    assert queued["node_errors"] == {}
    history = page.server.wait(queued["prompt_id"], seconds)
    page.until(f"(() => {{ {SHOWN} }})()")
    return history


def run_all(folder: Path, version: str, nodes_2: bool) -> list[str]:
    """Runs every template on one front end: what was wrong with any."""
    wrong = []
    with tempfile.TemporaryDirectory() as place:
        base = make_base(Path(place))
        with stand_ins(base), LiveServer(base, *front_end_arguments(version)) as server, Browser() as browser:
            page = browser.open(server, **{"Comfy.VueNodes.Enabled": nodes_2, "Comfy.Minimap.Visible": False})
            for name in NAMES:
                page.clear()
                begin = time.monotonic()
                open_template(page, name, SHORT)
                if not can_run(base, page.run("return (await app.graphToPrompt()).output;")):
                    print(f"{version}  {name:22} opened; this ComfyUI does not know its models", flush=True)
                    continue
                outputs = press_run(page)["outputs"]
                page.settle(500)
                page.shot(folder / f"{name}-{version}.png")
                took = time.monotonic() - begin
                print(
                    f"{version}  {name:22} {took:5.1f} s  {len(outputs)} outputs  {page.complaints or ''}", flush=True
                )
                wrong += page.complaints
    return wrong


def main(folder: Path) -> int:
    ensure_checkpoints()
    folder.mkdir(parents=True, exist_ok=True)
    return len(run_all(folder, OLDEST, False) + run_all(folder, NEWEST, True))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT))
