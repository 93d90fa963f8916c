"""The training view, by the messages that a training sends (nodes/live.py)."""

import json

from tests.browser.page import either
from tests.live.test_training import workflow
from tests.support.node_trainer import twelve_pictures

CURVE = """
const node = LiteGraph.createNode("AFATrainer"); node.pos = [120, 120]; app.graph.add(node);
await new Promise((done) => setTimeout(done, 50));
const say = (message) => app.api.dispatchEvent(new CustomEvent("afa.training", { detail:
  { node: String(node.id), run: "one", state: "training", experts: ["model_1 (a.safetensors)", "model_2 (b.safetensors)"], steps: 200, ...message } }));
const canvas = document.createElement("canvas"); canvas.width = canvas.height = 64;
const pen = canvas.getContext("2d"); pen.fillStyle = "teal"; pen.fillRect(0, 0, 64, 64);
const sample = canvas.toDataURL("image/jpeg");
say({ step: 0, message: "encoding 12 of 40 pictures" });
for (let step = 1; step <= 120; step++) say({ step, loss: 0.08 + 0.2 / step + 0.02 * Math.sin(step * 7), seconds_per_step: 1.5 });
for (const step of [40, 80, 120]) say({ step, held_out: 0.09 + 0.3 / step, rivals: {"best single expert": 0.1, "block average": 0.096}, shares: [0.36, 0.64], sample });
await new Promise((done) => setTimeout(done, 200));
"""


def test_the_view_shows_how_a_training_goes(canvas):
    canvas.run(CURVE)
    (line,) = canvas.texts(".afa-training-line")
    assert line.split("  \u00b7  ") == ["step 120 of 200", "1.5 s a step", "2 min left"]
    legend = canvas.texts(".afa-entry")
    assert legend[1:] == ["held out 0.0925", "best single expert 0.1000", "block average 0.0960"]
    assert legend[0].startswith("training 0.0")
    assert canvas.texts(".afa-share") == ["36 %   1  a", "64 %   2  b"]
    assert canvas.texts(".afa-sample figcaption") == ["step 40", "step 80", "step 120"]
    assert canvas.texts(".afa-message") == ["encoding 12 of 40 pictures"]
    colours = canvas.run(
        """
        const chart = document.querySelector(".afa-loss");
        const { data } = chart.getContext("2d").getImageData(0, 0, chart.width, chart.height);
        const seen = new Set();
        for (let i = 0; i < data.length; i += 4) seen.add([data[i], data[i + 1], data[i + 2]].join());
        return ["86,180,233", "230,159,0", "204,121,167", "0,158,115"].map((colour) => seen.has(colour));
        """
    )
    assert colours == [True] * 4


def test_rare_widgets_are_folded_away_and_small_numbers_are_shown(canvas):
    canvas.run("app.graph.add(LiteGraph.createNode('AFATrainer'));")
    canvas.settle(300)
    tall, wanted = canvas.run("const [node] = app.graph.nodes; return [node.size[1], node.computeSize()[1]];")
    assert wanted < 700
    if not canvas.nodes_2:
        assert tall == wanted
        return
    canvas.run("app.graph.nodes[0].showAdvanced = true;")
    rate = canvas.run("return app.graph.nodes[0].widgets.find((widget) => widget.name === 'learning_rate').value;")
    assert rate < 0.001
    canvas.until(
        "[...document.querySelectorAll('.lg-node input')].some((input) => Number(input.value) === argument)", rate
    )


def test_stop_asks_the_server_once_and_says_so(canvas):
    canvas.run(CURVE)
    with canvas.page.expect_response("**/afa/training/stop") as answer:
        canvas.run("document.querySelector('.afa-stop').click();")
    assert json.loads(answer.value.request.post_data) == {"run": "one"}
    assert answer.value.json() == {"stopping": False}  # nothing is being trained
    assert canvas.run("return document.querySelector('.afa-stop').disabled;")
    say = "app.api.dispatchEvent(new CustomEvent('afa.training', { detail: { node: String(app.graph.nodes[0].id), run: 'one', steps: 200, experts: [], step: 121, ...argument } }));"
    canvas.run(say, {"state": "stopping"})
    canvas.settle()
    assert canvas.texts(".afa-stop") == ["Stopping\u2026"]
    canvas.run(say, {"state": "done", "message": "stopped at step 121, saved as x.safetensors"})
    canvas.settle()
    assert canvas.texts(".afa-message") == ["stopped at step 121, saved as x.safetensors"]
    assert not canvas.page.locator(".afa-stop").is_visible()


@either
def test_the_whole_curve_is_there_after_a_reload_or_a_lost_connection_though_messages_come_first(canvas):
    canvas.run(CURVE)
    for number, event in enumerate(["node.configure(node.serialize())", "app.api.dispatchEvent(new CustomEvent('reconnected'))"], start=1):
        canvas.run(
            f"""
            const [node] = app.graph.nodes;
            const {{ fetchApi }} = app.api;
            const snapshot = {{ run: "one", state: "training", step: 130, steps: 200, experts: [], history: [[130, 0.1, argument]], samples: [] }};
            app.api.fetchApi = async function (route, ...rest) {{
              return route.startsWith("/afa/training?") ? new Response(JSON.stringify(snapshot)) : fetchApi.call(this, route, ...rest);
            }};
            try {{
              {event};
              await new Promise((done) => setTimeout(done, 300));
            }} finally {{
              app.api.fetchApi = fetchApi;
            }}
            """,
            number / 100,
        )
        assert canvas.texts(".afa-entry")[1] == f"held out {number / 100:.4f}"


@either
def test_strangers_texts_stay_texts(canvas):
    """What a file or a folder says must never become part of the page."""
    canvas.run(CURVE)
    attack = "<img src=x onerror='window.afaHacked = true'>"
    canvas.run(
        "app.api.dispatchEvent(new CustomEvent('afa.training', { detail: { node: String(app.graph.nodes[0].id), run: 'two', state: 'training',"
        " steps: 5, step: 1, experts: [argument, argument], shares: [0.5, 0.5], message: argument, sample: 'javascript:0' } }));",
        attack,
    )
    canvas.settle(200)
    assert canvas.texts(".afa-message") == [attack]
    assert canvas.run(
        "return window.afaHacked === undefined && document.querySelectorAll('.afa-training img').length === 0;"
    )


@either
def test_a_real_training_is_watched_stopped_and_there_after_a_reload(canvas):
    folder = canvas.server.base / "input" / "watched_training"
    folder.mkdir(exist_ok=True)
    twelve_pictures(folder)
    changes = {
        "prompt_folder": "watched_training",
        "resume": "start anew",
        "sample_prompt": "picture 3",
        "sample_every": 10,
    }
    graph = workflow(canvas.server, "watched", steps=5000, **changes)
    canvas.load_api({number: graph[number] for number in "123"})
    canvas.run(
        "app.graph.nodes.find((n) => n.comfyClass === 'AFATrainer').pos = [120, 120]; await app.queuePrompt(0, 1);"
    )
    canvas.until("document.querySelectorAll('.afa-sample').length", seconds=120)
    assert "of 5000" in canvas.texts(".afa-training-line")[0]
    assert len(canvas.texts(".afa-share")) == 2
    canvas.run("document.querySelector('.afa-stop').click();")
    canvas.until("document.querySelector('.afa-message').textContent.includes('saved as watched.safetensors')")
    assert (canvas.server.base / "models" / "afa" / "watched.safetensors").is_file()
    canvas.settle(300)
    legend = canvas.texts(".afa-entry")
    canvas.settle(1500)  # the front end keeps its draft of the workflow a moment after the last change
    canvas.load()
    canvas.until("document.querySelector('.afa-message')?.textContent.includes('saved as')")
    canvas.settle(200)
    assert canvas.texts(".afa-entry") == legend
