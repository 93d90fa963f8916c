"""Expert sockets grow and shrink, in every way that a graph is edited, and workflows keep one format."""

import pytest

from tests.browser.page import either

NODES = {"AFAEnsembleModel": "model", "AFAEnsembleCLIP": "clip", "AFAMergeModels": "model", "AFATrainer": "model"}

# `node` and three loaders; `sockets()` names what the node shows, with the loader's number where it is connected.
SETUP = """
const put = (type, x, y) => { const n = LiteGraph.createNode(type); n.pos = [x, y]; app.graph.add(n); return n; };
const loaders = [0, 1, 2].map((i) => put("CheckpointLoaderSimple", 80, 120 + 150 * i));
const outlet = argument.prefix === "clip" ? 1 : 0;
const node = put(argument.type, 500, 120);
const slot = (name) => node.inputs.findIndex((input) => input.name === name);
const tick = () => new Promise((done) => setTimeout(done, 20));
const connect = async (loader, number) => { loaders[loader].connect(outlet, node, slot(`${argument.prefix}_${number}`)); await tick(); };
const disconnect = async (number) => { node.disconnectInput(slot(`${argument.prefix}_${number}`)); await tick(); };
const shown = (n = node) => n.inputs
  .map((input, i) => [input.name, n.getInputNode(i)])
  .filter(([name]) => new RegExp(`^${argument.prefix}_[0-9]+$`).test(name))
  .map(([name, from]) => name.split("_")[1] + (from ? ":" + (loaders.indexOf(from) + 1) : "")).join(" ");
await tick();
"""


def act(canvas, script, kind="AFAEnsembleModel"):
    return canvas.run(SETUP + script, {"type": kind, "prefix": NODES[kind]})


CONNECTING = """
const seen = [shown()];
await connect(0, 1); await connect(1, 2); seen.push(shown());
await connect(2, 3); seen.push(shown());
await disconnect(1); seen.push(shown());
await disconnect(2); seen.push(shown());
await disconnect(1); seen.push(shown());
return seen;"""
STAGES = ["1 2", "1:1 2:2 3", "1:1 2:2 3:3 4", "1:2 2:3 3", "1:2 2", "1 2"]


def test_sockets_follow_what_is_connected(canvas):
    assert act(canvas, CONNECTING) == STAGES


@either
@pytest.mark.parametrize("kind", [kind for kind in NODES if kind != "AFAEnsembleModel"])
def test_sockets_of_other_nodes_follow_too(canvas, kind):
    assert act(canvas, CONNECTING, kind) == STAGES


def test_a_replaced_wire_moves_nothing(canvas):
    assert act(canvas, "await connect(0, 1); await connect(1, 2); await connect(2, 1); return shown();") == "1:3 2:2 3"


def test_a_deleted_loader_leaves_no_gap(canvas):
    script = "for (const i of [0, 1, 2]) await connect(i, i + 1); app.graph.remove(loaders[1]); await tick(); return shown();"
    assert act(canvas, script) == "1:1 2:3 3"


@either
def test_all_eight_can_be_connected(canvas):
    script = "for (let i = 1; i <= 8; i++) await connect(0, i); return shown();"
    assert act(canvas, script) == " ".join(f"{i}:1" for i in range(1, 9))


def test_a_workflow_comes_back_as_it_was_saved(canvas):
    shown, names, prompt, ids = act(
        canvas,
        """
        for (const i of [0, 1, 2]) await connect(i, i + 1);
        const saved = app.graph.serialize();
        await app.loadGraphData(structuredClone(saved));
        await tick();
        const again = app.graph.nodes.find((n) => n.comfyClass === argument.type);
        const ids = loaders.map((loader) => loader.id);
        const wires = again.inputs.map((input, i) => [input.name, ids.indexOf(again.getInputNode(i)?.id)]);
        const { output } = await app.graphToPrompt();
        const inputs = output[again.id].inputs;
        return [wires, saved.nodes.at(-1).inputs.map((i) => i.name), ["model_1", "model_2", "model_3"].map((n) => inputs[n][0]), ids.map(String)];
        """,
    )
    assert [wire for wire in shown if wire[0].startswith("model")] == [
        ["model_1", 0], ["model_2", 1], ["model_3", 2], ["model_4", -1],
    ]  # fmt: skip
    assert {"aggregator", "model_1", "model_2", "model_3", "model_4"} <= set(names)
    assert prompt == ids


def test_a_workflow_saved_without_our_script_opens(canvas):
    """It has all eight sockets; here the last one connected is the fifth, behind a gap that only its author may close."""
    wires = act(
        canvas,
        """
        await connect(0, 1); await connect(1, 2);
        const saved = app.graph.serialize();
        const stored = saved.nodes.find((n) => n.type === argument.type);
        for (let i = 4; i <= 8; i++) stored.inputs.push({ name: `model_${i}`, type: "MODEL", link: null, shape: 7 });
        const id = saved.last_link_id + 1;
        const five = stored.inputs.findIndex((input) => input.name === "model_5");
        stored.inputs[five].link = id;
        const from = saved.nodes.filter((n) => n.type === loaders[2].type)[2];
        (from.outputs[0].links ??= []).push(id);
        saved.links.push([id, from.id, 0, stored.id, five, "MODEL"]);
        saved.last_link_id = id;
        await app.loadGraphData(saved);
        await tick();
        const again = app.graph.nodes.find((n) => n.comfyClass === argument.type);
        return again.inputs.map((input, i) => [input.name, again.getInputNode(i)?.id ?? null]);
        """,
    )
    wires = {name: origin for name, origin in wires if name.startswith("model")}
    assert list(sorted(wires)) == [f"model_{i}" for i in range(1, 7)]
    assert wires["model_5"] is not None
    assert wires["model_3"] is None


def test_a_step_back_takes_back_the_socket_too(canvas, request):
    stages = act(
        canvas,
        """
        const find = () => app.graph.nodes.find((n) => n.comfyClass === argument.type);
        const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker;
        const store = () => (tracker.captureCanvasState ?? tracker.checkState).call(tracker);
        const count = (n) => n.inputs.filter((i) => i.name.startsWith("model")).length;
        await connect(0, 1); await connect(1, 2); store();
        const steps = tracker.undoQueue.length;
        await connect(2, 3); store();
        const added = tracker.undoQueue.length - steps;
        const seen = [count(find())];
        // Nodes 2.0 of 1.32.9 may store the node's new size as a step of its own.
        for (let i = 0; i < added; i++) await tracker.undo();
        await tick(); seen.push(count(find()));
        for (let i = 0; i < added; i++) await tracker.redo();
        await tick(); seen.push(count(find()));
        return [added, ...seen];
        """,
    )
    added, *counts = stages
    assert counts == [4, 3, 4]
    assert added == 1 or (added == 2 and "1.32.9-nodes 2.0" in request.node.name)


@either
def test_a_copy_has_its_own_sockets(canvas):
    counts = act(
        canvas,
        """
        for (const i of [0, 1, 2]) await connect(i, i + 1);
        app.canvas.selectItems([node]);
        app.canvas.copyToClipboard();
        app.canvas.pasteFromClipboard();
        await tick();
        const copies = app.graph.nodes.filter((n) => n.comfyClass === argument.type);
        return copies.map((n) => n.inputs.filter((i) => i.name.startsWith("model")).length);
        """,
    )
    assert sorted(counts) == [2, 4]


def test_sockets_live_on_inside_a_subgraph(canvas):
    shown, prompt = act(
        canvas,
        """
        for (const i of [0, 1, 2]) await connect(i, i + 1);
        const { subgraph } = app.graph.convertToSubgraph(new Set([node]));
        await tick();
        const inner = subgraph.nodes.find((n) => n.comfyClass === argument.type);
        const names = () => inner.inputs.map((i) => i.name).filter((n) => n.startsWith("model")).sort().join();
        const seen = [names()];
        const host = app.graph.nodes.find((n) => n.subgraph === subgraph);
        inner.disconnectInput(inner.inputs.findIndex((i) => i.name === "model_1")); await tick();
        seen.push(names());
        const { output } = await app.graphToPrompt();
        const inputs = Object.values(output).find((n) => n.class_type === argument.type).inputs;
        return [seen, Object.keys(inputs).filter((n) => n.startsWith("model")).sort()];
        """,
    )
    assert shown == ["model_1,model_2,model_3,model_4", "model_1,model_2,model_3"]
    assert prompt == ["model_1", "model_2"]


def test_a_wire_to_a_widget_stays_on_it_when_sockets_grow(canvas):
    names = act(
        canvas,
        """
        const number = put("PrimitiveFloat", 80, 600);
        number.connect(0, node, slot("end_percent"));
        for (const i of [0, 1, 2]) await connect(i, i + 1);
        const before = node.inputs.map((input) => input.name);
        const { output } = await app.graphToPrompt();
        const inputs = output[node.id].inputs;
        await disconnect(1);
        const wired = node.inputs.filter((_, i) => node.getInputNode(i) === number).map((input) => input.name);
        const sockets = before.slice(0, before.indexOf("end_percent") + 1);
        return [sockets.join(), inputs.end_percent[0] === String(number.id), wired];
        """,
    )
    assert names == [
        "aggregator,model_1,model_2,model_3,model_4,start_percent,end_percent", True, ["end_percent"],
    ]  # fmt: skip


def test_the_node_is_as_tall_as_its_sockets(canvas):
    if canvas.nodes_2:
        pytest.skip("Nodes 2.0 measures a node's height by its content")
    heights = act(
        canvas, "const h = [node.size[1]]; await connect(0, 1); await connect(1, 2); h.push(node.size[1]); return h;"
    )
    assert 15 <= heights[1] - heights[0] <= 25
