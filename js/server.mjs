// What the views ask of the server.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { entriesOf, executionOf } from "./graph.mjs";

/** Where the server keeps the last result of this node in this workflow; null where the node is in no graph that runs. */
export function placeOf(node) {
  const id = executionOf(app.rootGraph, node);
  return id === null ? null : { workflow: app.rootGraph.id ?? "", node: id };
}

const restored = new WeakMap(); // of each node with a view: what brings its last result back

/** After a reload, once the graph is whole and the node's id its own, and after a lost connection: calls `then` with that place. */
export function onRestore(node, then) {
  const restore = () => {
    const place = node.graph && placeOf(node);
    if (place) then(place);
  };
  restored.set(node, restore);
  const { onConfigure } = node;
  node.onConfigure = function (...args) {
    onConfigure?.apply(this, args);
    queueMicrotask(restore);
  };
}

/** What was sent while the connection was lost is gone. */
export function listenToReconnection() {
  api.addEventListener("reconnected", () => {
    for (const [, restore] of entriesOf(app.rootGraph, restored)) restore();
  });
}

/** The JSON that a route answers for a place; null where it has nothing. */
export async function kept(route, place) {
  const answer = await api.fetchApi(`${route}?${new URLSearchParams(place)}`, { cache: "no-store" });
  return answer.ok ? await answer.json() : null;
}

/** The JSON that a route answers to values; null where it does not take them, or cannot be reached. */
export async function post(route, values) {
  const headers = { "Content-Type": "application/json" };
  try {
    const answer = await api.fetchApi(route, { method: "POST", headers, body: JSON.stringify(values) });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}
