"""What AFA Ensemble Model says on its face: which checkpoint belongs on which socket, and which one is wrong."""

import json

import pytest

from tests.browser.graphs import put_aggregator
from tests.browser.page import either

A, B, C = (f"tiny_sd15_{letter}.safetensors" for letter in "abc")

WIRE = """
const put = (type, x, y) => { const n = LiteGraph.createNode(type); n.pos = [x, y]; app.graph.add(n); return n; };
await app.refreshComboInNodes();
const node = put("AFAEnsembleModel", 520, 120);
const loader = put(argument.loader, 80, 500);
loader.widgets[0].value = argument.aggregator;
loader.connect(loader.findOutputSlot("aggregator"), node, 0);
argument.files.forEach((file, i) => {
  const from = put("CheckpointLoaderSimple", 80, 100 + 130 * i);
  from.widgets[0].value = file;
  from.connect(0, node, node.inputs.findIndex((input) => input.name === `model_${i + 1}`));
});
"""


@pytest.fixture
def wire(canvas):
    def wire(aggregator, *files, loader="LoadAFAAggregator"):
        canvas.run(WIRE, {"aggregator": aggregator, "files": files, "loader": loader})
        canvas.until("document.querySelectorAll('.afa-row').length === 2")
        return rows(canvas)

    put_aggregator(canvas.server.base, "faces.safetensors", [A, B])
    return wire


def rows(canvas):
    return canvas.run(
        "return [...document.querySelectorAll('.afa-row')].map((row) => [row.className.replace('afa-row afa-', ''),"
        " row.querySelector('.afa-name').textContent, row.querySelector('.afa-remark').textContent]);"
    )


@pytest.mark.parametrize("loader", ["LoadAFAAggregator", "LoadAFAEnsemble"])
def test_right_checkpoints_are_ticked(wire, loader):
    assert wire("faces.safetensors", A, B, loader=loader) == [["right", "tiny_sd15_a", ""], ["right", "tiny_sd15_b", ""]]


def test_swapped_and_other_checkpoints_are_told_apart(wire):
    swapped, other = wire("faces.safetensors", B, C)
    assert swapped == ["wrong", "tiny_sd15_a", "has tiny_sd15_b"]
    assert other == ["other", "tiny_sd15_b", "has tiny_sd15_c"]


def test_the_face_follows_the_graph(wire, canvas):
    assert len(wire("faces.safetensors", A)) == 2
    assert rows(canvas)[1] == ["empty", "tiny_sd15_b", "not connected"]
    # Choosing a checkpoint far up the wire counts, too.
    canvas.run(
        """
        const loader = app.graph.nodes.find((n) => n.comfyClass === "CheckpointLoaderSimple");
        loader.widgets[0].value = argument;
        app.api.dispatchCustomEvent ? app.api.dispatchCustomEvent("graphChanged", app.graph.serialize()) : 0;
        """,
        C,
    )
    canvas.until("document.querySelector('.afa-row')?.classList.contains('afa-other')")
    canvas.run(
        "const node = app.graph.nodes.find((n) => n.comfyClass === 'AFAEnsembleModel'); node.disconnectInput(0);"
    )
    canvas.until("document.querySelectorAll('.afa-row').length === 0")


@either
def test_a_muted_checkpoint_is_not_connected(wire, canvas):
    """As in the prompt, which leaves it out."""
    wire("faces.safetensors", A, B)
    inputs = canvas.run(
        """
        app.graph.nodes.findLast((n) => n.comfyClass === "CheckpointLoaderSimple").mode = LiteGraph.NEVER;
        app.api.dispatchCustomEvent("graphChanged", app.graph.serialize());
        const { output } = await app.graphToPrompt();
        return Object.keys(Object.values(output).find((n) => n.class_type === "AFAEnsembleModel").inputs);
        """
    )
    assert "model_1" in inputs and "model_2" not in inputs
    canvas.until("document.querySelectorAll('.afa-row')[1]?.classList.contains('afa-empty')")


@either
def test_a_widget_that_a_subgraph_exposes_counts(wire, canvas):
    wire("faces.safetensors", A, B)
    prompt = canvas.run(
        """
        const loader = app.graph.nodes.find((n) => n.comfyClass === "CheckpointLoaderSimple");
        const { subgraph } = app.graph.convertToSubgraph(new Set([loader]));
        const [inner] = subgraph.nodes;
        const socket = inner.inputs.find((input) => input.widget?.name === "ckpt_name");
        subgraph.addInput("file", "COMBO").connect(socket, inner);
        const host = app.graph.nodes.find((n) => n.subgraph === subgraph);
        host.widgets.find(({ name }) => name === "file").value = argument;
        app.api.dispatchCustomEvent("graphChanged", app.graph.serialize());
        const { output } = await app.graphToPrompt();
        return Object.values(output).map((n) => n.inputs.ckpt_name).filter(Boolean).sort();
        """,
        C,
    )
    assert prompt == [B, C]
    canvas.until("document.querySelector('.afa-row')?.classList.contains('afa-other')")
    assert rows(canvas)[0] == ["other", "tiny_sd15_a", "has tiny_sd15_c"]


@either
def test_the_face_follows_wires_out_of_a_subgraph(wire, canvas):
    """Through inputs of the subgraph, of which there are more than it has outputs."""
    wire("faces.safetensors", A, C)
    canvas.run(
        """
        const node = app.graph.nodes.find((n) => n.comfyClass === "AFAEnsembleModel");
        const { subgraph, node: host } = app.graph.convertToSubgraph(new Set([node]));
        app.canvas.openSubgraph(subgraph, host);
        """
    )
    try:
        canvas.until("document.querySelectorAll('.afa-row').length === 2")
        assert rows(canvas) == [["right", "tiny_sd15_a", ""], ["other", "tiny_sd15_b", "has tiny_sd15_c"]]
    finally:
        canvas.run(
            """
            const { graph } = app.canvas;
            for (const node of [...graph.nodes]) graph.remove(node);  // which its front end may keep on the page
            app.canvas.setGraph(app.rootGraph);
            """
        )


def test_a_file_s_names_never_become_part_of_the_page(wire, canvas):
    attack = "<img src=x onerror='window.afaHacked = true'>"
    put_aggregator(canvas.server.base, "attack.safetensors", [A, B])
    path = canvas.server.base / "models" / "afa" / "attack.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["experts"] = json.dumps([{"file": attack}, {"file": 5}])
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + data[8 + size :])
    shown = wire("attack.safetensors", A, B)
    assert shown[0][1] == attack.rsplit("/", 1)[-1]
    assert canvas.run("return window.afaHacked === undefined;")


def test_the_route_answers_for_listed_names_only(server):
    put_aggregator(server.base, "faces.safetensors", [A, B])
    answer = server.get("/afa/aggregator?name=faces.safetensors")
    assert answer["num_experts"] == 2
    assert [expert["file"] for expert in answer["experts"]] == [A, B]
    for name in ("../checkpoints/" + A, "/etc/passwd", "..", "", "absent.safetensors"):
        assert list(server.get(f"/afa/aggregator?name={name}")) == ["error"]
