// Expert sockets that grow: two are shown, and the next one when the last is connected.

import { app } from "../../scripts/app.js";
import { comesFromOutside } from "./graph.mjs";
import { closingMoves, numberOf, shown } from "./sockets.mjs";

const INPUT = 1; // LiteGraph's number for the input side
const SLOT_HEIGHT = 20;

/** Makes a node's `prefix`_1, _2, ... grow and shrink with what is connected. */
export function growSockets(node, prefix) {
  const descriptions = new Map(); // of every socket the node may show, by name
  let scheduled = false;
  let gap = false;
  let saved = null; // the size in the workflow that the node has just come from

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
    const wanted = shown(connections(), descriptions.size, prefix);
    const [count, height] = [node.inputs.length, node.size[1]];
    for (const { index, number } of sockets().reverse()) if (number > wanted) node.removeInput(index);
    const present = new Set(sockets().map((socket) => socket.number));
    for (let number = 1; number <= wanted; number++) if (!present.has(number)) add(`${prefix}_${number}`);
    const change = node.inputs.length - count;
    if (change) fit(change, height);
    saved = null;
  }

  function connections() {
    return sockets().map(({ index }) => node.isInputConnected(index));
  }

  function closeGaps() {
    for (const [from, to] of closingMoves(connections())) {
      const [source, target] = [sockets()[from].index, sockets()[to].index];
      const link = node.getInputLink(source);
      attach(link, target);
      node.disconnectInput(source, true);
    }
  }

  /** Leads to input `index` what comes through this link. */
  function attach({ origin_id, origin_slot, parentId }, index) {
    if (comesFromOutside({ origin_id })) node.graph.inputNode.slots[origin_slot].connect(node.inputs[index], node);
    else node.graph.getNodeById(origin_id).connect(origin_slot, node, index, parentId);
  }

  /**
   * Adds a socket behind the last one, in the order of the node's definition: newer front ends clone a node by the
   * places of its inputs. What stands behind moves on by one, with the wires that lead to widgets.
   */
  function add(name) {
    const place = Math.max(...sockets().map(({ index }) => index)) + 1;
    const moved = [];
    for (let index = place; index < node.inputs.length; index++) {
      const link = node.getInputLink(index);
      if (link) moved.push({ origin_id: link.origin_id, origin_slot: link.origin_slot, index });
      if (link) node.disconnectInput(index);
    }
    const { type, ...description } = descriptions.get(name);
    node.addInput(name, type, description);
    node.inputs.splice(place, 0, node.inputs.pop());
    for (const { index, ...link } of moved) attach(link, index + 1);
  }

  /**
   * The height follows the sockets: the host enlarges a node for more of them, and does not shrink it for fewer. A loaded
   * node, for which the host has made room for all its sockets, gets the size back that its workflow says.
   */
  function fit(change, height) {
    if (change < 0) {
      const least = node.computeSize();
      const [wide, tall] = saved ?? [node.size[0], height + change * SLOT_HEIGHT];
      node.setSize([Math.max(wide, least[0]), Math.max(tall, least[1])]);
    }
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
  node.onConfigure = function (info, ...rest) {
    onConfigure?.call(this, info, ...rest);
    saved = info.size ? [info.size[0], info.size[1]] : null;
    schedule();
  };
  node.onConnectionsChange = function (side, index, connected, ...rest) {
    onConnectionsChange?.call(this, side, index, connected, ...rest);
    if (side !== INPUT) return;
    if (!connected && !app.configuringGraph) gap = true;
    schedule();
  };
}
