// Following wires: through reroutes, bypassed nodes and the borders of subgraphs, to where something comes from.

const SUBGRAPH_INPUT = "-10"; // LiteGraph's id for the edge of a subgraph: a number once, a text in newer front ends
const [MUTED, BYPASSED] = [2, 4];
const LOADER_WIDGETS = ["ckpt_name", "unet_name", "model_name"];
const LONGEST = 100; // wires: a graph may hold a loop for a moment while it is edited

/** Whether a wire begins at an input of the subgraph that it lies in. */
export function comesFromOutside(link) {
  return String(link.origin_id) === SUBGRAPH_INPUT;
}

/**
 * {node, slot} that feeds a node's input, or null; null as well where it is another for each instance of the subgraph that
 * the node lies in. `root` is the graph of the whole workflow.
 */
export function originOf(root, node, name) {
  const [first = null, ...others] = originsOf(root, node, name);
  return others.every(({ node, slot }) => node === first.node && slot === first.slot) ? first : null;
}

/** Whether an input gets what this node makes, in any instance of its subgraph, perhaps through nodes with such an input. */
export function comesFrom(root, node, name, wanted, left = LONGEST) {
  if (left === 0) return false;
  return originsOf(root, node, name).some((origin) => origin.node === wanted || comesFrom(root, origin.node, name, wanted, left - 1));
}

/** What feeds a node's input in each instance of the subgraph that it lies in; nothing where that is muted. */
export function originsOf(root, node, name) {
  const index = node.inputs?.findIndex((input) => input.name === name) ?? -1;
  return index < 0 || !node.graph ? [] : follow(root, node.graph, node.getInputLink(index), LONGEST);
}

function follow(root, graph, link, left) {
  if (!link || left === 0) return [];
  if (comesFromOutside(link)) return hostsOf(root, graph).flatMap((host) => follow(root, host.graph, linkInto(host, link.origin_slot), left - 1));
  const node = graph.getNodeById(link.origin_id);
  if (!node || node.mode === MUTED) return [];
  if (node.mode === BYPASSED) {
    const { type } = node.outputs[link.origin_slot];
    return follow(root, graph, linkInto(node, node.inputs.findIndex((input) => input.type === type)), left - 1);
  }
  if (node.subgraph) {
    const inner = node.subgraph.outputNode?.slots[link.origin_slot]?.linkIds?.[0];
    return follow(root, node.subgraph, linkOf(node.subgraph, inner), left - 1);
  }
  if (node.type === "Reroute") return follow(root, graph, node.getInputLink(0), left - 1);
  return [{ node, slot: link.origin_slot }];
}

/** The nodes that stand for a subgraph, one an instance. */
function hostsOf(root, graph) {
  return allNodes(root).filter((node) => node.subgraph === graph);
}

/** The wire into an input, or undefined; also of a subgraph's node, whose own getInputLink answers for an output. */
function linkInto(host, slot) {
  return [...host.graph.links.values()].find((link) => link.target_id === host.id && link.target_slot === slot);
}

function linkOf(graph, id) {
  if (id === undefined) return null;
  return graph.getLink?.(id) ?? graph.links.get(id) ?? null;
}

/** The value of a widget as the prompt takes it; undefined where there is no such widget, null where it is not known. */
export function widgetValue(root, node, name) {
  const slot = node.inputs?.findIndex((input) => input.widget?.name === name) ?? -1;
  const link = slot < 0 ? null : node.getInputLink(slot);
  if (link && comesFromOutside(link)) return valueFromOutside(root, node.graph, link.origin_slot);
  // The front end's own node for a value keeps the widget up to date; what another one gives is known when it has run.
  if (link && node.graph.getNodeById(link.origin_id)?.type !== "PrimitiveNode") return null;
  return node.widgets?.find((widget) => widget.name === name)?.value;
}

/** The value that the nodes of a subgraph give to an input of it; null where a wire brings it, or they differ. */
function valueFromOutside(root, graph, slot) {
  const values = hostsOf(root, graph).map((host) => {
    const link = linkInto(host, slot);
    if (!link) return host.getWidgetFromSlot(host.inputs[slot])?.value ?? null;
    return comesFromOutside(link) ? valueFromOutside(root, host.graph, link.origin_slot) : null;
  });
  return new Set(values).size === 1 ? values[0] : null;
}

/** The checkpoint file at the far end of a socket's wire, through LoRAs and patches on the way; null if unknown. */
export function sourceFile(root, node, name) {
  const kind = name.split("_")[0];
  let origin = originOf(root, node, name);
  for (let left = LONGEST; origin && left; left--) {
    for (const widget of LOADER_WIDGETS) {
      const value = widgetValue(root, origin.node, widget);
      if (typeof value === "string") return value;
    }
    const from = origin.node;
    const next = [kind, `${kind}_1`, `${kind}1`].find((input) => from.inputs?.some((slot) => slot.name === input));
    origin = next ? originOf(root, from, next) : null;
  }
  return null;
}

/** Every node of a workflow once, those inside subgraphs included. */
export function allNodes(graph) {
  return [...new Set(graph.nodes.flatMap((node) => (node.subgraph ? [node, ...allNodes(node.subgraph)] : [node])))];
}

/**
 * [node, value] of the nodes of a workflow that have one in this WeakMap. A list of nodes would keep removed ones: older
 * front ends do not say that those of a subgraph are gone, or back.
 */
export function entriesOf(root, values) {
  return allNodes(root).filter((node) => values.has(node)).map((node) => [node, values.get(node)]);
}

/** Whether a message is of the workflow with this id; one of a graph without a workflow is of every page's. */
export function isOfWorkflow({ workflow }, id) {
  return !workflow || workflow === id;
}

/** The node with the server's name for it: ids of the subgraphs it lies in and its own, as "12:5". */
export function nodeOfExecution(root, id) {
  let graph = root;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part));
    graph = node?.subgraph;
  }
  return node ?? null;
}

/** The server's name for a node, or null while it is in no workflow. */
export function executionOf(root, wanted, graph = root, prefix = "") {
  for (const node of graph.nodes) {
    const id = `${prefix}${node.id}`;
    if (node === wanted) return id;
    const inner = node.subgraph && executionOf(root, wanted, node.subgraph, `${id}:`);
    if (inner) return inner;
  }
  return null;
}
