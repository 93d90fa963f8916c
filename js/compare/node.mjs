// AFACompare: the view on the node, fed by the last result and the choices that the server keeps.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { isOfWorkflow } from "../graph.mjs";
import { kept, onRestore, post } from "../server.mjs";
import { addWidget } from "../widget.mjs";
import { ComparisonView } from "./view.mjs";

const HEIGHT = 420;

export function addComparisonView(node) {
  const view = new ComparisonView(
    (place) => api.apiURL(`/view?${new URLSearchParams(place)}`),
    (choices) => post("/afa/comparison/choices", { ...state.place, subject: view.shown.subject, choices }),
  );
  const state = { view, place: null }; // where the server keeps what the view shows
  addWidget(node, "afa_comparison", view.root, HEIGHT, 480);
  onRestore(node, (place) => load(state, place));
  const { onExecuted } = node;
  node.onExecuted = function (output, ...rest) {
    onExecuted?.call(this, output, ...rest);
    const [place] = output?.afa_comparison ?? [];
    if (place && isOfWorkflow(place, app.rootGraph.id)) load(state, place);
  };
}

/** A result, and the choices made on it. */
async function load(state, place) {
  state.place = place;
  const result = await kept("/afa/comparison", place);
  if (result && state.place === place) state.view.show(result.shown, result.choices);
}
