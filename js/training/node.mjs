// AFATrainer: the training view on the node.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { executionOf, nodeOfExecution } from "../graph.mjs";
import { addWidget } from "../widget.mjs";
import { advance, restored } from "./progress.mjs";
import { TrainingView } from "./view.mjs";

const HEIGHT = 330;
const views = new WeakMap(); // of each node: {view, progress}

export function addTrainingView(node) {
  const view = new TrainingView(() => stop(node));
  const state = { view, progress: null };
  views.set(node, state);
  addWidget(node, "afa_training", view.root, HEIGHT, 400);
  const { onConfigure } = node;
  node.onConfigure = function (...args) {
    onConfigure?.apply(this, args);
    queueMicrotask(() => node.graph && restore(node, state));
  };
}

/** After a reload: the training that this node runs, or ran last. */
async function restore(node, state) {
  const id = executionOf(app.rootGraph, node);
  if (id === null) return;
  const answer = await api.fetchApi(`/afa/training?node=${encodeURIComponent(id)}`, { cache: "no-store" });
  const snapshot = answer.ok ? await answer.json() : null;
  if (!snapshot || state.progress) return;
  state.progress = restored(snapshot);
  state.view.show(state.progress);
}

async function stop(node) {
  const body = JSON.stringify({ node: executionOf(app.rootGraph, node) });
  await api.fetchApi("/afa/training/stop", { method: "POST", headers: { "Content-Type": "application/json" }, body });
}

function onMessage({ detail }) {
  const node = nodeOfExecution(app.rootGraph, detail.node);
  const state = node && views.get(node);
  if (!state) return;
  state.progress = advance(state.progress, detail);
  state.view.show(state.progress);
}

export function listenToTraining() {
  api.addEventListener("afa.training", onMessage);
}
