// The front end of AFA Ensemble: sockets that grow, the ensemble's face, the routing viewer, the training view, the comparison.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addComparisonView } from "./compare/node.mjs";
import { addFace } from "./face.mjs";
import { entriesOf } from "./graph.mjs";
import { growSockets } from "./growing.mjs";
import { addRoutingViewer, listenToRouting } from "./routing/node.mjs";
import { listenToReconnection } from "./server.mjs";
import { addTrainingView, listenToTraining } from "./training/node.mjs";

const GROWING = {
  AFAEnsembleModel: ["model"],
  AFAEnsembleCLIP: ["clip"],
  AFATrainer: ["model"],
  AFAProbe: ["model"],
  AFAMergeModels: ["model"],
  AFAAutoMerge: ["model"],
  AFACompare: ["model", "clip", "aggregator"],
};

const faces = new WeakMap(); // of each AFA Ensemble Model: what brings its face up to date
let pending = 0;

/** Once, when the changes have calmed down: loaders far up a wire count as well. */
function refreshFaces() {
  clearTimeout(pending);
  pending = setTimeout(() => {
    for (const [, refresh] of entriesOf(app.rootGraph, faces)) refresh();
  }, 50);
}

function keepFace(node) {
  faces.set(node, addFace(node));
  const { onAdded, onConnectionsChange } = node;
  node.onAdded = function (...args) {
    onAdded?.apply(this, args);
    refreshFaces();
  };
  node.onConnectionsChange = function (...args) {
    onConnectionsChange?.apply(this, args);
    refreshFaces();
  };
}

app.registerExtension({
  name: "afaensemble.nodes",

  setup() {
    listenToRouting();
    listenToTraining();
    listenToReconnection();
    api.addEventListener("graphChanged", refreshFaces);
  },

  nodeCreated(node) {
    for (const prefix of GROWING[node.comfyClass] ?? []) growSockets(node, prefix);
    if (node.comfyClass === "AFAEnsembleModel") keepFace(node);
    if (node.comfyClass === "AFARoutingMaps") addRoutingViewer(node);
    if (["AFATrainer", "AFADistill"].includes(node.comfyClass)) addTrainingView(node);
    if (node.comfyClass === "AFACompare") addComparisonView(node);
  },

  afterConfigureGraph: refreshFaces,
});
