// AFACompare: the view on the node, fed by the last result and the choices that the server keeps.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { isOfWorkflow } from "../graph.mjs";
import { kept, onRestore, post } from "../server.mjs";
import { addWidget } from "../widget.mjs";
import { inOrder } from "./choices.mjs";
import { ComparisonView } from "./view.mjs";

const HEIGHT = 420;
const UNSAVED = "Your choices could not be saved. The next choice tries again; Save report keeps the table.";

export function addComparisonView(node) {
  const save = inOrder(async (values) => {
    const answer = await post("/afa/comparison/choices", values);
    view.warn(answer?.kept ? "" : UNSAVED);
  });
  const view = new ComparisonView(
    (place) => api.apiURL(`/view?${new URLSearchParams(place)}`),
    (choices) => save({ ...state.place, subject: view.shown.subject, choices }),
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
