// The front end of AFA Ensemble: sockets that grow, the ensemble's face, the routing viewer, the training view, the comparison.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addComparisonView } from "./compare/node.mjs";
import { addFace } from "./face.mjs";
import { growSockets } from "./growing.mjs";
import { addRoutingViewer, listenToRouting } from "./routing/node.mjs";
import { placeOf } from "./server.mjs";
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

const faces = new Map(); // of each AFA Ensemble Model in the workflow: what brings its face up to date
let pending = 0;

/** Once, when the changes have calmed down: loaders far up a wire count as well. */
function refreshFaces() {
  clearTimeout(pending);
  pending = setTimeout(() => {
    // Older front ends do not say that nodes in subgraphs are gone.
    for (const [node, refresh] of faces) if (placeOf(node)) refresh();
  }, 50);
}

function keepFace(node) {
  const refresh = addFace(node);
  const { onAdded, onRemoved, onConnectionsChange } = node;
  node.onAdded = function (...args) {
    onAdded?.apply(this, args);
    faces.set(node, refresh);
    refreshFaces();
  };
  node.onRemoved = function (...args) {
    onRemoved?.apply(this, args);
    faces.delete(node);
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
