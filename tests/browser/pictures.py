"""Pictures of the docs, from the browser, on the scenes' near experts: python -m tests.browser.pictures [training]

docs/images/ensemble.jpg: the template sd15_ensemble after it has run; routing.jpg: its viewer. With "training" also
training.jpg: the view of train_aggregator at its end, after learning from what two of the experts know.
"""

import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser.page import Browser, Canvas
from tests.browser.templates import open_template, press_run
from tests.pocket import folder
from tests.pocket.scenes import checkpoints
from tests.support.comfy.bootstrap import REPOSITORY, make_base
from tests.support.comfy.server import LiveServer
from tests.tools.demo import EXPERTS, PROMPT, SAMPLING, SIZE, TRAINED

IMAGES = REPOSITORY / "docs" / "images"
EXPERT_FILES = {f"Checkpoint {i}": {"ckpt_name": f"{name}.safetensors"} for i, name in enumerate(EXPERTS, start=1)}
ENSEMBLE = {
    **EXPERT_FILES,
    "LoadAFAAggregator": {"aggregator_name": "pocket.safetensors"},
    "Prompt": {"text": PROMPT},
    "Negative prompt": {"text": ""},
    "EmptyLatentImage": SIZE,
    "KSampler": {**SAMPLING, "steps": 20, "seed": 1},
}
TRAINING = {
    **EXPERT_FILES,
    "AFATrainer": {
        "prompt_folder": "known_pictures", "steps": 240, "batch_size": 8, "resolution": 64, "hidden_size": 64,
        "num_layers": 1, "num_heads": 4, "warmup_steps": 10, "learning_rate": 1e-3, "evaluate_every": 30,
        "gradient_checkpointing": False,
        "sample_prompt": "twemoji, cat face, animal mammal",
        "sample_every": 60,
    },
}  # fmt: skip
BOUNDS = """
const shown = app.graph.nodes.filter((node) => node.type !== "MarkdownNote");
const [left, top] = [0, 1].map((i) => Math.min(...shown.map((node) => node.pos[i])));
const [right, bottom] = [0, 1].map((i) => Math.max(...shown.map((node) => node.pos[i] + node.size[i])));
return [left, top - 30, right, bottom];
"""
PLACE = """
const [left, top, scale, x, y] = argument;
app.canvas.ds.scale = scale;
app.canvas.ds.offset = [x / scale - left, y / scale - top];
app.canvas.setDirty(true, true);
"""
CORNER = (80, 190)
"""Where the graph begins on the page: below and beside the front end's own bars."""


def run_template(page: Canvas, name: str, values: dict) -> None:
    page.clear()
    open_template(page, name, values)
    press_run(page, seconds=900)
    page.settle(1500)


def graph_picture(page: Canvas, scale: float, width: int) -> Image.Image:
    """The whole graph but its note, cut out of the page."""
    left, top, right, bottom = page.run(BOUNDS)
    wide, tall = (round((b - a) * scale) for a, b in ((left, right), (top, bottom)))
    page.page.set_viewport_size({"width": wide + CORNER[0] + 40, "height": tall + CORNER[1] + 160})
    page.settle(500)
    page.run(PLACE, [left, top, scale, *CORNER])
    page.settle(1500)
    shot = Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")
    box = page.run(
        "const { left, top } = document.querySelector('#graph-canvas').getBoundingClientRect(); return [left, top];"
    )
    x, y = box[0] + CORNER[0] - 12, box[1] + CORNER[1] - 12
    cut = shot.crop((round(x), round(y), round(x + wide + 24), round(y + tall + 24)))
    cut.thumbnail((width, width), Image.Resampling.LANCZOS)
    return cut


def element_picture(page: Canvas, selector: str) -> Image.Image:
    """One element, enlarged, with a little of its node around it."""
    left, top, *_ = page.run(
        "const { left, top } = document.querySelector(argument).getBoundingClientRect(); return [left, top];", selector
    )
    scale, (x, y) = page.run("return [app.canvas.ds.scale, app.canvas.ds.offset];")
    page.page.set_viewport_size({"width": 1100, "height": 1600})
    page.settle(300)
    canvas = page.run(
        "const { left, top } = document.querySelector('#graph-canvas').getBoundingClientRect(); return [left, top];"
    )
    page.run(PLACE, [(left - canvas[0]) / scale - x, (top - canvas[1]) / scale - y, 1.5, 300, 220])
    page.settle(1000)
    bounds = page.page.locator(selector).first.bounding_box()
    assert bounds
    left, top, edge = round(bounds["x"]), round(bounds["y"]), 12
    right, bottom = round(left + bounds["width"]), round(top + bounds["height"])
    shot = Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")
    return shot.crop((left - edge, top - edge, right + edge, bottom + edge))


def keep(picture: Image.Image, name: str) -> None:
    path = IMAGES / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=88)
    print(
        f"{path.relative_to(REPOSITORY)}  {picture.width} x {picture.height}  {path.stat().st_size / 1000:.0f} kB",
        flush=True,
    )


def known_pictures(place: Path) -> None:
    for domain in ("people", "animals"):
        shutil.copytree(folder.known() / domain, place / domain)


def main(with_training: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        base = make_base(Path(place))
        checkpoints.ensure(base / "models" / "checkpoints", EXPERTS)
        (base / "models" / "afa" / "pocket.safetensors").write_bytes(TRAINED.read_bytes())
        with LiveServer(base) as server, Browser() as browser:
            page = browser.open(server, **{"Comfy.ColorPalette": "dark", "Comfy.Minimap.Visible": False})
            run_template(page, "sd15_ensemble", ENSEMBLE)
            keep(graph_picture(page, 0.8, 1600), "ensemble")
            keep(element_picture(page, ".afa-viewer"), "routing")
            if with_training:
                known_pictures(base / "input" / "known_pictures")
                run_template(page, "train_aggregator", TRAINING)
                keep(element_picture(page, ".afa-training"), "training")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main("training" in sys.argv[1:])
