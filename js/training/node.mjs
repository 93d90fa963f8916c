// AFATrainer and AFADistill: the training view on the node.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { isOfWorkflow, nodeOfExecution } from "../graph.mjs";
import { kept, onRestore, placeOf, post } from "../server.mjs";
import { addWidget } from "../widget.mjs";
import { advance, restored } from "./progress.mjs";
import { TrainingView } from "./view.mjs";

const HEIGHT = 330;
const WIDGET_HEIGHT = 20; // LiteGraph's
const WIDGET_GAP = 4;
const views = new WeakMap(); // of each node: {view, progress}

export function addTrainingView(node) {
  const state = { progress: null };
  const view = (state.view = new TrainingView(() => post("/afa/training/stop", { run: state.progress.run })));
  views.set(node, state);
  foldAdvanced(node);
  showSmallNumbers(node);
  addWidget(node, "afa_training", view.root, HEIGHT, 400);
  node.setSize([400, node.computeSize()[1]]);
  onRestore(node, (place) => restore(state, place));
}

/**
 * The view should not stand below thirty widgets. Nodes 2.0 of newer front ends folds what the server calls advanced; the
 * classic canvas supports the mark, if it is set here, and the menu entry "Show Advanced", but keeps empty space for
 * folded widgets.
 */
function foldAdvanced(node) {
  for (const widget of node.widgets) {
    if (!widget.options?.advanced && widget.name !== "control_after_generate") continue;
    widget.advanced = true;
    widget.computeSize = (width) => (node.showAdvanced ? [width, WIDGET_HEIGHT] : [0, -WIDGET_GAP]);
  }
}

/** Nodes 2.0 of older front ends shows three decimals at most if nothing else is said: a learning rate as 0. */
function showSmallNumbers(node) {
  for (const { options } of node.widgets) if (options?.precision > 3) options.maxFractionDigits = options.precision;
}

/** The training that a node of a workflow runs, or ran last. */
async function restore(state, place) {
  const snapshot = await kept("/afa/training", { ...place, client: await clientId() });
  if (!snapshot) return;
  state.progress = restored(snapshot);
  state.view.show(state.progress);
}

/** The id by which the host identifies this page; it comes with the host's first message. */
async function clientId() {
  if (!api.clientId) await new Promise((done) => api.addEventListener("status", done, { once: true }));
  return api.clientId ?? "";
}

function onMessage({ detail }) {
  if (!isOfWorkflow(detail, app.rootGraph.id)) return;
  const node = nodeOfExecution(app.rootGraph, detail.node);
  const state = node && views.get(node);
  if (!state) return;
  state.progress = advance(state.progress, detail);
  state.view.show(state.progress);
  if (detail.state === "done") restore(state, placeOf(node)); // messages leave out steps of a fast training
}

export function listenToTraining() {
  api.addEventListener("afa.training", onMessage);
}
