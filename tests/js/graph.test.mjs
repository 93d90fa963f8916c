import assert from "node:assert/strict";
import test from "node:test";
import { comesFrom, comesFromOutside, entriesOf, executionOf, isOfWorkflow, nodeOfExecution, originOf, sourceFile, widgetValue } from "../../js/graph.mjs";

/** A graph of the few methods that following a wire needs; wires are [from, slot, to, name of the input]. */
function graphOf(nodes, wires = []) {
  const graph = { nodes, links: new Map(), getNodeById: (id) => nodes.find((node) => String(node.id) === String(id)) };
  for (const node of nodes) Object.assign(node, { graph, inputs: node.inputs ?? [], outputs: node.outputs ?? [] });
  wires.forEach(([origin_id, origin_slot, to, name], id) => {
    const { inputs } = graph.getNodeById(to);
    const target_slot = inputs.findIndex((input) => input.name === name);
    graph.links.set(id, { origin_id, origin_slot, target_id: to, target_slot });
    inputs[target_slot].link = id;
  });
  for (const node of nodes) node.getInputLink = node.subgraph ? outputLink : (index) => graph.links.get(node.inputs[index]?.link) ?? null;
  return graph;
}

/** As in the front ends, the node of a subgraph answers for its outputs where it is asked for an input. */
function outputLink(index) {
  const { origin_id, origin_slot } = this.subgraph.links.get(this.subgraph.outputNode.slots[index].linkIds[0]);
  return { origin_id: `${this.id}:${origin_id}`, origin_slot };
}

const loader = (id, file) => ({ id, type: "CheckpointLoaderSimple", widgets: [{ name: "ckpt_name", value: file }], outputs: [{ type: "MODEL" }] });
const takes = (id, type, ...names) => ({ id, type, inputs: names.map((name) => ({ name, type: "MODEL" })), outputs: [{ type: "MODEL" }] });

test("a checkpoint is found behind a LoRA, a reroute and a bypassed node", () => {
  const bypassed = { ...takes(4, "FreeU", "model"), mode: 4 };
  const reroute = { ...takes(3, "Reroute", ""), widgets: undefined };
  const graph = graphOf(
    [loader(1, "a.safetensors"), takes(2, "LoraLoader", "model"), reroute, bypassed, takes(5, "AFAEnsembleModel", "model_1")],
    [[1, 0, 2, "model"], [2, 0, 3, ""], [3, 0, 4, "model"], [4, 0, 5, "model_1"]],
  );
  const node = graph.getNodeById(5);
  assert.equal(originOf(graph, node, "model_1").node.id, 2);
  assert.equal(sourceFile(graph, node, "model_1"), "a.safetensors");
});

test("nothing is found where nothing is connected, or in a loop", () => {
  const graph = graphOf([takes(1, "Reroute", ""), takes(2, "AFAEnsembleModel", "model_1", "model_2")], [[1, 0, 1, ""], [1, 0, 2, "model_2"]]);
  const node = graph.getNodeById(2);
  assert.equal(sourceFile(graph, node, "model_1"), null);
  assert.equal(sourceFile(graph, node, "model_2"), null);
});

test("wires are followed into a subgraph and out of it", () => {
  const inner = graphOf([takes(7, "AFAEnsembleModel", "model_1"), loader(8, "inside.safetensors")], [[-10, 0, 7, "model_1"]]);
  inner.links.set(9, { origin_id: 8, origin_slot: 0 });
  inner.outputNode = { slots: [{ linkIds: [9] }] };
  const host = { ...takes(2, "a subgraph", "model"), subgraph: inner };
  const root = graphOf([loader(1, "outside.safetensors"), host, takes(3, "AFAEnsembleModel", "model_1")], [[1, 0, 2, "model"], [2, 0, 3, "model_1"]]);
  assert.equal(sourceFile(root, inner.getNodeById(7), "model_1"), "outside.safetensors");
  assert.equal(sourceFile(root, root.getNodeById(3), "model_1"), "inside.safetensors");
  assert.equal(executionOf(root, inner.getNodeById(7)), "2:7");
  assert.equal(nodeOfExecution(root, "2:7").id, 7);
  assert.equal(nodeOfExecution(root, "2:99"), null);
});

test("a widget that a subgraph exposes has the value of the subgraph's node, unless a wire brings another", () => {
  const slot = { name: "file", widget: { name: "file" } };
  const getWidgetFromSlot = ({ widget }) => widget && { value: "chosen.safetensors" };
  const exposing = (id, subgraph, ...inputs) => ({ id, subgraph, inputs, getWidgetFromSlot });
  const exposed = { ...loader(8, "stale.safetensors"), inputs: [{ name: "ckpt_name", widget: { name: "ckpt_name" } }] };
  const inner = graphOf([exposed], [[-10, 1, 8, "ckpt_name"]]);
  const value = (root) => widgetValue(root, exposed, "ckpt_name");
  const other = () => ({ name: "model" });

  assert.equal(value(graphOf([exposing(2, inner, other(), { ...slot })])), "chosen.safetensors");
  const middle = graphOf([exposing(3, inner, other(), { ...slot })], [[-10, 0, 3, "file"]]);
  assert.equal(value(graphOf([exposing(2, middle, { ...slot })])), "chosen.safetensors");
  assert.equal(value(graphOf([loader(1, ""), exposing(2, middle, { ...slot })], [[1, 0, 2, "file"]])), null);
  assert.equal(value(graphOf([exposing(2, middle, { name: "file" })])), null);
  assert.equal(value(graphOf([])), null);
});

test("a widget that another node feeds has a value that is not known, unless it is the front end's own node for one", () => {
  const fed = (type) => {
    const file = { ...loader(2, "stale.safetensors"), inputs: [{ name: "ckpt_name", widget: { name: "ckpt_name" } }] };
    return graphOf([{ id: 1, type, outputs: [{ type: "COMBO" }] }, file, takes(3, "AFAEnsembleModel", "model_1")], [[1, 0, 2, "ckpt_name"], [2, 0, 3, "model_1"]]);
  };
  for (const [type, file] of [["a picker of files", null], ["PrimitiveNode", "stale.safetensors"]]) {
    const graph = fed(type);
    assert.equal(widgetValue(graph, graph.getNodeById(2), "ckpt_name"), file);
    assert.equal(sourceFile(graph, graph.getNodeById(3), "model_1"), file);
  }
});

test("a bypassed subgraph is passed by, and a muted node gives nothing", () => {
  const inner = graphOf([loader(8, "inside.safetensors")]);
  inner.links.set(9, { origin_id: 8, origin_slot: 0 });
  inner.outputNode = { slots: [{ linkIds: [9] }] };
  const behind = (host) => {
    const root = graphOf([loader(1, "outside.safetensors"), { ...takes(2, "a node", "model"), ...host }, takes(3, "AFAEnsembleModel", "model_1")], [[1, 0, 2, "model"], [2, 0, 3, "model_1"]]);
    return sourceFile(root, root.getNodeById(3), "model_1");
  };
  assert.equal(behind({ subgraph: inner }), "inside.safetensors");
  assert.equal(behind({ subgraph: inner, mode: 4 }), "outside.safetensors");
  assert.equal(behind({ mode: 2 }), null);
});

test("what differs between the instances of a subgraph is not known, and what comes from any of them is found", () => {
  const exposed = { ...loader(8, "stale.safetensors"), inputs: [{ name: "ckpt_name", widget: { name: "ckpt_name" } }] };
  const inner = graphOf([takes(7, "AFAEnsembleModel", "model_1"), exposed], [[-10, 0, 7, "model_1"], [-10, 1, 8, "ckpt_name"]]);
  const root = (...files) => {
    const hosts = files.map(([, file], i) => ({
      id: 20 + i, subgraph: inner, inputs: [{ name: "model" }, { name: "file", widget: {} }], getWidgetFromSlot: () => ({ value: file }),
    }));
    return graphOf([...hosts, loader(1, "a"), loader(2, "b")], files.map(([from], i) => [from, 0, 20 + i, "model"]));
  };
  const seen = (graph) => [sourceFile(graph, inner.getNodeById(7), "model_1"), widgetValue(graph, exposed, "ckpt_name")];
  assert.deepEqual(seen(root([1, "x"], [1, "x"])), ["a", "x"]);
  const differing = root([1, "x"], [2, "y"]);
  assert.deepEqual(seen(differing), [null, null]);
  for (const id of [1, 2]) assert.ok(comesFrom(differing, inner.getNodeById(7), "model_1", differing.getNodeById(id)));
});

test("samples come from a sampler also through a node that hands them on", () => {
  const graph = graphOf(
    [takes(1, "KSampler"), takes(2, "LatentUpscale", "samples"), takes(3, "AFARoutingMaps", "samples"), takes(4, "KSampler")],
    [[1, 0, 2, "samples"], [2, 0, 3, "samples"]],
  );
  const [sampler, , viewer, other] = graph.nodes;
  assert.ok(comesFrom(graph, viewer, "samples", sampler));
  assert.ok(!comesFrom(graph, viewer, "samples", other));
  assert.ok(!comesFrom(graph, viewer, "samples", null));
});

test("what is kept of nodes is found for those in the workflow alone, and again when their subgraph is back", () => {
  const [outside, inside] = [loader(1, ""), loader(7, "")];
  const host = { ...takes(2, "a subgraph"), subgraph: graphOf([inside]) };
  const values = new WeakMap([[outside, "outside"], [inside, "inside"]]);
  const found = (...nodes) => entriesOf(graphOf(nodes), values).map(([, value]) => value);
  assert.deepEqual(found(outside, host), ["outside", "inside"]);
  assert.deepEqual(found(outside), ["outside"]);
  assert.deepEqual(found(outside, host), ["outside", "inside"]);
});

test("the edge of a subgraph has a number for an id in older front ends, a text in newer ones", () => {
  assert.equal(comesFromOutside({ origin_id: -10 }), true);
  assert.equal(comesFromOutside({ origin_id: "-10" }), true);
  assert.equal(comesFromOutside({ origin_id: 10 }), false);
});

test("a node of the same number in another workflow shows nothing", () => {
  assert.ok(isOfWorkflow({ workflow: "a", node: "3" }, "a"));
  assert.ok(!isOfWorkflow({ workflow: "a", node: "3" }, "b"));
  assert.ok(isOfWorkflow({ workflow: "", node: "3" }, "b"));
});
