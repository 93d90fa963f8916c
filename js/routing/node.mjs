// AFARoutingMaps: the viewer on the node, fed by the steps as they come and by what the server has kept.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { element } from "../dom.mjs";
import { comesFrom, entriesOf, isOfWorkflow, nodeOfExecution } from "../graph.mjs";
import { kept, onRestore } from "../server.mjs";
import { addWidget } from "../widget.mjs";
import { addStep, decodeRun } from "./wire.mjs";
import { RoutingViewer } from "./viewer.mjs";

const HEIGHT = 600;
const viewers = new WeakMap(); // of each node: {view, run}

export function addRoutingViewer(node) {
  const view = new RoutingViewer();
  const state = { view, run: null };
  viewers.set(node, state);
  addWidget(node, "afa_routing", view.root, HEIGHT, 400);
  onRestore(node, (place) => load(state, place));
  const { onExecuted } = node;
  node.onExecuted = function (output, ...rest) {
    onExecuted?.call(this, output, ...rest);
    const [place] = output?.afa_routing ?? [];
    if (place && isOfWorkflow(place, app.rootGraph.id)) load(state, place);
  };
}

async function load(state, place) {
  const request = (state.request = {});
  const data = await kept("/afa/routing", place);
  if (!data) return;
  const run = decodeRun(data);
  const picture = await pictureOf(run.picture);
  if (state.request !== request) return;
  state.run = run;
  state.view.show(run, picture);
}

async function pictureOf(address) {
  if (!address?.startsWith("data:image/")) return null;
  const picture = element("img");
  picture.src = address;
  await picture.decode();
  return picture;
}

/** A step of a run, while it samples: for every viewer whose routing comes from that ensemble. */
function onStep({ detail }) {
  if (!isOfWorkflow(detail, app.rootGraph.id)) return;
  const source = nodeOfExecution(app.rootGraph, detail.source);
  if (!source) return;
  for (const [node, state] of entriesOf(app.rootGraph, viewers)) {
    if (!comesFrom(app.rootGraph, node, "routing", source)) continue;
    state.request = {}; // an older result that is still loading comes too late
    const run = addStep(state.run, detail);
    state.view.show(run, run === state.run ? state.view.picture : null, true);
    state.run = run;
  }
}

/** The sampler's own previews, where the artist has turned them on: for every viewer whose samples come from it. */
function onPreview({ detail }) {
  if (!detail?.blob) return;
  const sampler = nodeOfExecution(app.rootGraph, detail.displayNodeId);
  for (const [node, state] of entriesOf(app.rootGraph, viewers)) {
    if (state.view.live && comesFrom(app.rootGraph, node, "samples", sampler)) showPreview(state, detail.blob);
  }
}

/** Each viewer has a bitmap of its own, which it closes itself. */
async function showPreview(state, blob) {
  const { view, run } = state;
  const picture = await createImageBitmap(blob);
  if (view.live && state.run === run) view.show(run, picture, true);
  else picture.close();
}

/** The run is over, whether or not the node came to show its result. */
function onEnd() {
  for (const [, { view, run }] of entriesOf(app.rootGraph, viewers)) if (view.live) view.show(run, view.picture, false);
}

export function listenToRouting() {
  api.addEventListener("afa.routing", onStep);
  api.addEventListener("b_preview_with_metadata", onPreview);
  for (const end of ["execution_success", "execution_error", "execution_interrupted"]) api.addEventListener(end, onEnd);
}
