"""A picture of the docs, from the browser, on the scenes' near experts: python -m tests.browser.pictures

docs/images/routing.jpg: the routing viewer of the template sd15_ensemble after it has run.
"""

import io
import os
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser.page import Browser, Canvas
from tests.browser.templates import open_template, press_run
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
PLACE = """
const [left, top, scale, x, y] = argument;
app.canvas.ds.scale = scale;
app.canvas.ds.offset = [x / scale - left, y / scale - top];
app.canvas.setDirty(true, true);
"""


def run_template(page: Canvas, name: str, values: dict) -> None:
    page.clear()
    open_template(page, name, values)
    press_run(page, seconds=900)
    page.settle(1500)


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


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        base = make_base(Path(place))
        checkpoints.ensure(base / "models" / "checkpoints", EXPERTS)
        (base / "models" / "afa" / "pocket.safetensors").write_bytes(TRAINED.read_bytes())
        with LiveServer(base) as server, Browser() as browser:
            page = browser.open(server, **{"Comfy.ColorPalette": "dark", "Comfy.Minimap.Visible": False})
            run_template(page, "sd15_ensemble", ENSEMBLE)
            keep(element_picture(page, ".afa-viewer"), "routing")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
