// Expert sockets that grow: two are shown, and the next one when the last is connected.

import { app } from "../../scripts/app.js";
import { closingMoves, numberOf, shown } from "./sockets.mjs";

const INPUT = 1; // LiteGraph's number for the input side
const SUBGRAPH_INPUT = -10; // and for the node at which a subgraph's own inputs begin
const SLOT_HEIGHT = 20;

/** Makes a node's `prefix`_1, _2, ... grow and shrink with what is connected. */
export function growSockets(node, prefix) {
  const descriptions = new Map(); // of every socket the node may show, by name
  let scheduled = false;
  let gap = false;
  let loaded = false;

  function sockets() {
    return node.inputs
      .map((input, index) => ({ input, index, number: numberOf(input.name, prefix) }))
      .filter((socket) => socket.number)
      .sort((a, b) => a.number - b.number);
  }

  function schedule() {
    if (scheduled) return;
    scheduled = true;
    // What follows from a connection is undone together with it.
    const transaction = !app.configuringGraph && node.graph;
    if (transaction) app.canvas.emitBeforeChange();
    queueMicrotask(() => {
      scheduled = false;
      try {
        if (node.graph) tidy();
      } finally {
        if (transaction) app.canvas.emitAfterChange();
      }
    });
  }

  function tidy() {
    for (const { input } of sockets()) {
      const { type, shape, localized_name } = input;
      if (!descriptions.has(input.name)) descriptions.set(input.name, { type, shape, localized_name });
    }
    if (gap) closeGaps();
    gap = false;
    const wanted = shown(connections(), descriptions.size);
    const before = node.inputs.length;
    for (const { index, number } of sockets().reverse()) if (number > wanted) node.removeInput(index);
    const present = new Set(sockets().map((socket) => socket.number));
    for (let number = 1; number <= wanted; number++) if (!present.has(number)) add(`${prefix}_${number}`);
    const change = node.inputs.length - before;
    if (change) fit(change);
  }

  function connections() {
    return sockets().map(({ index }) => node.isInputConnected(index));
  }

  function closeGaps() {
    for (const [from, to] of closingMoves(connections())) {
      const [source, target] = [sockets()[from].index, sockets()[to].index];
      const link = node.getInputLink(source);
      if (link.origin_id === SUBGRAPH_INPUT) {
        node.graph.inputNode.slots[link.origin_slot].connect(node.inputs[target], node);
      } else {
        node.graph.getNodeById(link.origin_id).connect(link.origin_slot, node, target, link.parentId);
      }
      node.disconnectInput(source, true);
    }
    gap = false;
  }

  function add(name) {
    const { type, ...description } = descriptions.get(name);
    node.addInput(name, type, description);
  }

  /** The node's height follows its sockets, except where a saved workflow has set it. */
  function fit(change) {
    if (!loaded) {
      const [width, height] = node.size;
      const least = node.computeSize();
      node.setSize([Math.max(width, least[0]), Math.max(least[1], height + change * SLOT_HEIGHT)]);
    }
    loaded = false;
    const [last] = sockets().slice(-1);
    // Nodes 2.0 of older front ends keeps a copy of the sockets, which this renews.
    node.graph.trigger("node:slot-links:changed", {
      nodeId: node.id,
      slotType: INPUT,
      slotIndex: last.index,
      connected: node.isInputConnected(last.index),
      linkId: node.getInputLink(last.index)?.id ?? -1,
    });
    node.setDirtyCanvas(true, true);
  }

  const { onAdded, onConfigure, onConnectionsChange } = node;
  node.onAdded = function (...args) {
    onAdded?.apply(this, args);
    schedule();
  };
  node.onConfigure = function (...args) {
    onConfigure?.apply(this, args);
    loaded = true;
    schedule();
  };
  node.onConnectionsChange = function (side, index, connected, ...rest) {
    onConnectionsChange?.call(this, side, index, connected, ...rest);
    if (side !== INPUT) return;
    if (!connected && !app.configuringGraph) gap = true;
    schedule();
  };
}
