"""The routing viewer: live while sampling, right afterwards, and there again after a reload."""

import base64
import io
import urllib.parse

import pytest
from PIL import Image, ImageColor

from afa_core.plots import COLOURS
from tests.browser.graphs import put_aggregator, routing_graph
from tests.browser.page import either
from tests.core.test_routing_wire import maps_of

EXPERTS = ["tiny_sd15_a.safetensors", "tiny_sd15_b.safetensors"]
STEPS = 3

LAY_OUT = """
const of = (type) => app.graph.nodes.filter((node) => node.comfyClass === type);
app.graph.nodes.forEach((node, i) => { node.pos = [40 + 340 * (i % 2), 2000 + 400 * i]; });
of("AFARoutingMaps").forEach((node, i) => { node.pos = [80 + 460 * i, 120]; });
app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0]; app.canvas.setDirty(true, true);
window.afaLive = new Set();
window.afaRuns = 0;
app.api.addEventListener("execution_success", () => { window.afaRuns += 1; }, { once: true });
new MutationObserver(() => {
  for (const status of document.querySelectorAll(".afa-status")) if (status.textContent) window.afaLive.add(status.textContent);
}).observe(document.body, { subtree: true, childList: true, characterData: true });
"""
FINISHED = "document.querySelectorAll('.afa-viewer:not(.afa-empty) .afa-expert').length >= argument && ![...document.querySelectorAll('.afa-status')].some((s) => s.textContent)"


def sampled(canvas, seed=1, viewers=1):
    """Runs the graph on the page and waits for the viewers to show its result."""
    put_aggregator(canvas.server.base, "two.safetensors", EXPERTS)
    graph = routing_graph("two.safetensors", EXPERTS, STEPS, seed)
    for i in range(1, viewers):
        graph[f"r{i}"] = {**graph["r"], "inputs": {**graph["r"]["inputs"]}}
    canvas.run("await app.refreshComboInNodes();")
    canvas.load_api(graph)
    canvas.run(LAY_OUT)
    canvas.settle()
    if canvas.nodes_2:  # a run on loaded models is over in a moment, and a viewer not yet there hears nothing of it
        canvas.until("document.querySelectorAll('.afa-viewer').length >= argument", viewers)
    canvas.run("await app.queuePrompt(0, 1);")
    canvas.until("window.afaRuns", seconds=120)
    canvas.until(FINISHED, viewers * len(EXPERTS), seconds=120)
    canvas.settle(300)


def picture(canvas) -> Image.Image:
    data = canvas.run("return document.querySelector('.afa-stage canvas').toDataURL();")
    return Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))).convert("RGB")


def slide(canvas, label, value):
    """Moves the slider of this label, as its user does: the input event included."""
    canvas.run(
        """
        const rows = [...document.querySelectorAll(".afa-viewer .afa-slider")];
        const input = rows.find((row) => row.textContent.startsWith(argument[0])).querySelector("input");
        input.value = argument[1];
        input.dispatchEvent(new Event("input", { bubbles: true }));
        """,
        [label, value],
    )
    canvas.settle()


def kept(canvas):
    """What the server keeps for the viewer on the page."""
    node = canvas.run("return String(app.graph.nodes.find((n) => n.comfyClass === 'AFARoutingMaps').id);")
    workflow = canvas.run("return app.graph.id ?? '';")
    return canvas.server.get("/afa/routing?" + urllib.parse.urlencode({"workflow": workflow, "node": node}))


def test_the_viewer_shows_a_run(canvas):
    sampled(canvas)
    live = canvas.run("return [...window.afaLive];")
    assert live and all("step" in status for status in live)

    data = kept(canvas)
    assert data["experts"] == [f"model_{i} ({name})" for i, name in enumerate(EXPERTS, start=1)]
    shares = [row for step in data["steps"] for row in step["prompt"]["shares"]]
    means = [sum(row[expert] for row in shares) / len(shares) for expert in range(2)]
    readings = canvas.texts(".afa-viewer .afa-expert .afa-reading")
    assert readings == [f"{100 * mean:.1f} %" for mean in means]
    assert canvas.texts(".afa-viewer .afa-expert .afa-label") == ["1  tiny_sd15_a", "2  tiny_sd15_b"]

    # Blue and orange over grey: no pixel of a map is grey, and the picture is not one flat colour.
    middle = picture(canvas)
    everything = middle.crop(
        [middle.width // 2 - 50, middle.height // 2 - 50, middle.width // 2 + 50, middle.height // 2 + 50]
    )
    assert len(set(everything.getdata())) > 20

    whole = middle.tobytes()
    slide(canvas, "step", 1)
    assert canvas.texts(".afa-reading")[0].startswith("1 of 3")
    one = picture(canvas).tobytes()
    assert one != whole
    slide(canvas, "block", 25)
    assert canvas.texts(".afa-reading")[1] == "prediction"
    point = data["steps"][0]["prompt"]["shares"][24]
    assert canvas.texts(".afa-viewer .afa-expert .afa-reading") == [f"{100 * share:.1f} %" for share in point]
    assert picture(canvas).tobytes() != one

    for expert in ("1  tiny_sd15_a", "2  tiny_sd15_b"):
        slide(canvas, expert, 0)
    bare = picture(canvas)
    slide(canvas, "1  tiny_sd15_a", 1)
    assert picture(canvas).tobytes() != bare.tobytes()

    canvas.run("document.querySelectorAll('.afa-tab')[1].click();")
    canvas.settle()
    point = data["steps"][0]["negative"]["shares"][24]
    assert canvas.texts(".afa-viewer .afa-expert .afa-reading") == [f"{100 * share:.1f} %" for share in point]


@either
def test_a_place_has_the_colour_of_the_expert_that_leads_there(canvas):
    sampled(canvas, seed=7)
    for label, value in {"step": 1, "block": 25, "contrast": 0.98, "1  tiny_sd15_a": 1, "2  tiny_sd15_b": 1}.items():
        slide(canvas, label, value)
    side = kept(canvas)["steps"][0]["prompt"]
    (first,) = maps_of(side, experts=2)[24]
    height, width = first.shape
    assert first.max() > 0.55 or first.min() < 0.45
    middle = picture(canvas)
    length = min(middle.size)
    for place in (int(first.argmax()), int(first.argmin())):
        row, column = divmod(place, width)
        x = (middle.width - length) / 2 + (column + 0.5) / width * length
        y = (middle.height - length) / 2 + (row + 0.5) / height * length
        leader = 0 if first[row, column] > 0.5 else 1
        expected = ImageColor.getrgb(COLOURS[leader])
        assert max(abs(a - b) for a, b in zip(middle.getpixel((x, y)), expected, strict=True)) < 20, float(
            first[row, column]
        )


@either
def test_numbers_on_hover_and_a_click_on_a_chart_chooses(canvas):
    sampled(canvas, seed=2)
    chart = canvas.page.locator(".afa-chart").first
    chart.hover()
    assert canvas.texts(".afa-chart-reading")[0].startswith("step 2:  0.")
    chart.click()
    canvas.settle()
    assert canvas.texts(".afa-reading")[0].startswith("2 of 3")
    canvas.page.locator(".afa-stage canvas").hover()
    tips = canvas.texts(".afa-tip-line")
    assert len(tips) == 2
    assert sum(float(tip.split()[0]) for tip in tips) == pytest.approx(100, abs=0.3)


@either
def test_saving_gives_a_picture_with_everything_on_it(canvas):
    sampled(canvas, seed=3)
    with canvas.page.expect_download() as download:
        canvas.run("document.querySelector('.afa-viewer .afa-button').click();")
    saved = Image.open(download.value.path())
    assert saved.width == 1024
    assert saved.height > 1024
    assert "afa-routing" in download.value.suggested_filename


@either
def test_a_reload_brings_back_the_last_result(canvas):
    sampled(canvas, seed=4)
    before = canvas.texts(".afa-viewer .afa-expert .afa-reading")
    canvas.settle(1500)  # the front end keeps its draft of the workflow a moment after the last change
    canvas.load()
    canvas.until(FINISHED, len(EXPERTS))
    assert canvas.texts(".afa-viewer .afa-expert .afa-reading") == before


def test_two_viewers_a_collapsed_one_and_half_the_zoom(canvas):
    sampled(canvas, seed=5, viewers=2)
    assert len(canvas.texts(".afa-viewer .afa-expert")) == 4
    visible = "[...document.querySelectorAll('.afa-viewer')].filter((v) => v.checkVisibility() && v.getBoundingClientRect().width > 50).length"
    assert canvas.run(f"return {visible};") == 2
    canvas.run("app.canvas.ds.scale = 0.5; app.canvas.setDirty(true, true);")
    canvas.settle(400)
    assert canvas.run(f"return {visible};") == 2
    widths = canvas.run(
        "return [...document.querySelectorAll('.afa-viewer')].map((v) => v.getBoundingClientRect().width);"
    )
    assert all(100 < width < 260 for width in widths)
    canvas.run(
        "app.graph.nodes.filter((n) => n.comfyClass === 'AFARoutingMaps')[0].collapse(true); app.canvas.setDirty(true, true);"
    )
    canvas.until(f"{visible} === 1")


BY_HAND = """
const add = (type, x, y) => { const node = LiteGraph.createNode(type); node.pos = [x, y]; app.graph.add(node); return node; };
const ensemble = add("AFAEnsembleModel", 100, 120), viewer = add("AFARoutingMaps", 600, 120);
const [sampler, other] = [500, 900].map((y) => add("KSampler", 100, y));
const connect = (from, output, input) => from.connect(from.findOutputSlot(output), viewer, viewer.findInputSlot(input));
const side = { points: [0], shares: [[0.5, 0.5]], sizes: [[1, 2]], maps: btoa(String.fromCharCode(255, 0)) };
const routed = (run, step) => ({ run, step, experts: ["a", "b"], points: ["input 0"], sigma: 1, prompt: side });
const send = (event, detail) => app.api.dispatchEvent(new CustomEvent(event, { detail }));
window.by_hand = {
  viewer,
  connect() { connect(ensemble, "routing", "routing"); connect(sampler, "LATENT", "samples"); },
  step(run, number = 0) { send("afa.routing", { source: String(ensemble.id), ...routed(run, number) }); },
  async preview(own) {
    const drawn = new OffscreenCanvas(8, 8);
    drawn.getContext("2d").fillRect(0, 0, 8, 8);
    const id = String((own ? sampler : other).id);
    send("b_preview_with_metadata", { blob: await drawn.convertToBlob(), nodeId: id, displayNodeId: id });
  },
  kept: { ...routed("kept"), steps: [routed("kept"), routed("kept")], picture: "data:image/png;base64,none" },
};
"""
EMPTY = "document.querySelectorAll('.afa-viewer.afa-empty').length === argument"


@pytest.fixture
def by_hand(canvas):
    """An ensemble, a viewer, and two samplers, whose messages `window.by_hand` makes."""
    canvas.run(BY_HAND)
    canvas.until(EMPTY, 1)
    return canvas


@either
def test_a_viewer_shows_the_run_of_its_own_wire_alone(by_hand):
    by_hand.run("window.by_hand.step('one');")
    by_hand.settle(300)
    assert by_hand.run(f"return {EMPTY};", 1)
    by_hand.run("window.by_hand.connect(); window.by_hand.step('one');")
    by_hand.until(EMPTY, 0)


@either
def test_a_viewer_shows_previews_of_its_own_sampler_alone_and_in_their_run(by_hand):
    by_hand.run(
        """
        const { createImageBitmap } = window;
        window.afaBitmaps = [];
        window.createImageBitmap = async (...args) => {
          const made = await createImageBitmap(...args);
          window.afaBitmaps.push(made);
          return made;
        };
        window.by_hand.connect(); window.by_hand.step("one");
        """
    )
    by_hand.until(EMPTY, 0)
    by_hand.settle(300)
    bare = picture(by_hand).tobytes()
    by_hand.run("await window.by_hand.preview(false);")
    by_hand.settle(300)
    assert picture(by_hand).tobytes() == bare
    by_hand.run("await window.by_hand.preview(true);")
    by_hand.settle(300)
    assert picture(by_hand).tobytes() != bare
    by_hand.run("await window.by_hand.preview(true);")
    by_hand.until("window.afaBitmaps.length === 2")
    by_hand.settle(300)
    assert by_hand.run("return window.afaBitmaps.map(({ width }) => width);") == [0, 8]  # closed, and shown
    by_hand.run("window.by_hand.step('two', 1);")
    by_hand.settle(300)
    assert picture(by_hand).tobytes() == bare
    assert by_hand.texts(".afa-status") == ["\u25cf step 2"]


@either
def test_a_result_that_loads_late_does_not_cover_the_next_run(by_hand):
    by_hand.run(
        """
        const { connect, kept, step, viewer } = window.by_hand;
        const pictures = HTMLImageElement.prototype;
        const [{ fetchApi }, { decode }] = [app.api, pictures];
        const decoding = Promise.withResolvers(), asked = Promise.withResolvers();
        app.api.fetchApi = async function (route, ...rest) {
          return route.startsWith("/afa/routing?") ? new Response(JSON.stringify(kept)) : fetchApi.call(this, route, ...rest);
        };
        pictures.decode = () => { asked.resolve(); return decoding.promise; };
        try {
          connect();
          viewer.onExecuted({ afa_routing: [{ workflow: "", node: String(viewer.id) }] });
          await asked.promise;
          step("next");
          decoding.resolve();
        } finally {
          app.api.fetchApi = fetchApi;
          pictures.decode = decode;
        }
        """
    )
    by_hand.until(EMPTY, 0)
    by_hand.settle(300)
    assert by_hand.texts(".afa-status") == ["\u25cf step 1"]


@either
def test_what_was_missed_while_the_connection_was_lost_is_shown(by_hand):
    by_hand.run(
        """
        const { connect, kept, step } = window.by_hand;
        const { fetchApi } = app.api;
        app.api.fetchApi = async function (route, ...rest) {
          return route.startsWith("/afa/routing?") ? new Response(JSON.stringify({ ...kept, picture: null })) : fetchApi.call(this, route, ...rest);
        };
        try {
          connect();
          step("one");
          app.api.dispatchEvent(new CustomEvent("reconnected"));
          await new Promise((done) => setTimeout(done, 300));
        } finally {
          app.api.fetchApi = fetchApi;
        }
        """
    )
    assert by_hand.texts(".afa-status") == [""]
    assert by_hand.texts(".afa-reading")[0] == "all 2"
