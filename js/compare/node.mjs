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
    (choices) => keepChoices(state.place, choices),
  );
  const state = { view, place: null }; // where the server keeps what the view shows
  addWidget(node, "afa_comparison", view.root, HEIGHT, 480);
  const { onExecuted, onConfigure } = node;
  node.onExecuted = function (output, ...rest) {
    onExecuted?.call(this, output, ...rest);
    const [place] = output?.afa_comparison ?? [];
    if (place) load(state, place);
  };
  node.onConfigure = function (...args) {
    onConfigure?.apply(this, args);
    queueMicrotask(() => node.graph && restore(node, state));
  };
}

/** After a reload: the last result of this node in this workflow. */
function restore(node, state) {
  const id = executionOf(app.rootGraph, node);
  if (id !== null) load(state, { workflow: app.rootGraph.id ?? "", node: id });
}

/** A result, and the choices made on it. */
async function load(state, place) {
  state.place = place;
  const answer = await api.fetchApi(`/afa/comparison?${new URLSearchParams(place)}`, { cache: "no-store" });
  const kept = answer.ok ? await answer.json() : null;
  if (kept && state.place === place) state.view.show(kept.shown, kept.choices);
}

async function keepChoices(place, choices) {
  const body = JSON.stringify({ ...place, choices });
  await api.fetchApi("/afa/comparison/choices", { method: "POST", headers: { "Content-Type": "application/json" }, body });
}
