// AFACompare: the view on the node, fed by the last result and the choices that the server keeps.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { executionOf } from "../graph.mjs";
import { addWidget } from "../widget.mjs";
import { ComparisonView } from "./view.mjs";

const HEIGHT = 420;

export function addComparisonView(node) {
  const view = new ComparisonView(
    (place) => api.apiURL(`/view?${new URLSearchParams(place)}`),
    (choices) => keepChoices(node, choices),
  );
  addWidget(node, "afa_comparison", view.root, HEIGHT, 480);
  const { onExecuted, onConfigure } = node;
  node.onExecuted = function (output, ...rest) {
    onExecuted?.call(this, output, ...rest);
    if (output?.afa_comparison) restore(node, view);
  };
  node.onConfigure = function (...args) {
    onConfigure?.apply(this, args);
    queueMicrotask(() => node.graph && restore(node, view));
  };
}

function placeOf(node) {
  return { workflow: app.rootGraph.id ?? "", node: executionOf(app.rootGraph, node) };
}

/** The last result of this node in this workflow, and the choices made on it. */
async function restore(node, view) {
  const place = placeOf(node);
  if (place.node === null) return;
  const answer = await api.fetchApi(`/afa/comparison?${new URLSearchParams(place)}`, { cache: "no-store" });
  const kept = answer.ok ? await answer.json() : null;
  if (kept) view.show(kept.shown, kept.choices);
}

async function keepChoices(node, choices) {
  const body = JSON.stringify({ ...placeOf(node), choices });
  await api.fetchApi("/afa/comparison/choices", { method: "POST", headers: { "Content-Type": "application/json" }, body });
}
