// The face of AFA Ensemble Model: a row a socket, once an aggregator that names its experts is connected.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { element, withStyle } from "./dom.mjs";
import { faceRemark, faceRows, faceTitle } from "./face_rows.mjs";
import { originOf, originsOf, sourceFile, widgetValue } from "./graph.mjs";
import { colourOf } from "./colours.mjs";
import { numberOf } from "./sockets.mjs";

const LOADERS = ["LoadAFAAggregator", "LoadAFAEnsemble"];
const MARKS = { right: "\u2713", empty: "\u25cb", unknown: "\u2013", other: "?", wrong: "\u2717" };
const ROW = 20;
const EDGE = 6;
const WIDE = 300;

/** Gives a node its face, and a `refresh` that brings it up to date. */
export function addFace(node) {
  const face = element("div", "afa-face");
  const list = element("div", "afa-face-list");
  face.append(list);
  withStyle(face);
  face.hidden = true;
  let height = 0;
  let asked = null; // the newest request: an older answer that comes late is dropped
  let drawn = "";

  // There from the start, if empty: a widget that comes later is not seen by Nodes 2.0 of older front ends.
  const widget = node.addDOMWidget("afa_face", "afa_face", face, {
    serialize: false,
    hideOnZoom: false,
    margin: 0,
    getMinHeight: () => height,
    getMaxHeight: () => height,
  });
  widget.serialize = false;

  async function refresh() {
    if (!node.graph) return;
    const name = aggregatorName();
    if (!name) {
      asked = null;
      return show(null);
    }
    const request = (asked = {});
    const answer = await api.fetchApi(`/afa/aggregator?name=${encodeURIComponent(name)}`, { cache: "no-cache" });
    const summary = answer.ok ? await answer.json() : null;
    if (asked === request && node.graph) show(summary);
  }

  function aggregatorName() {
    const origin = originOf(app.rootGraph, node, "aggregator");
    return LOADERS.includes(origin?.node.type) ? widgetValue(app.rootGraph, origin.node, "aggregator_name") : null;
  }

  function sockets() {
    return node.inputs
      .filter((input) => numberOf(input.name, "model"))
      .sort((a, b) => numberOf(a.name, "model") - numberOf(b.name, "model"))
      .map(({ name }) => ({
        connected: originsOf(app.rootGraph, node, name).length > 0,
        file: sourceFile(app.rootGraph, node, name),
      }));
  }

  function show(summary) {
    const found = summary ? sockets() : [];
    const title = summary ? faceTitle(summary, found.filter((socket) => socket.connected).length) : "";
    const rows = summary && !summary.error ? faceRows(summary, found) : [];
    const state = JSON.stringify([title, rows]);
    if (state === drawn) return;
    drawn = state;
    list.replaceChildren(...(title ? [element("div", "afa-face-title", title)] : []), ...rows.map(rowElement));
    resize(rows.length * ROW + (title ? 2 * ROW : 0));
  }

  function resize(content) {
    const change = (content ? content + 2 * EDGE : 0) - height;
    height += change;
    face.style.height = `${height}px`;
    face.hidden = !content;
    const least = node.computeSize();
    const [width, tall] = node.size;
    if (change < 0 || tall < least[1] || (content && width < WIDE)) node.setSize([Math.max(width, least[0], content ? WIDE : 0), Math.max(least[1], tall + change)]);
    node.setDirtyCanvas(true, true);
  }

  return refresh;
}

function rowElement(row, index) {
  const mark = element("span", "afa-mark", MARKS[row.state]);
  const swatch = element("span", "afa-swatch");
  swatch.style.background = colourOf(index);
  const name = element("span", "afa-name", row.expected);
  const line = element("div", `afa-row afa-${row.state}`);
  line.title = row.found ? `${row.socket} expects ${row.expected}, found ${row.found}` : `${row.socket}: ${row.expected}`;
  line.append(swatch, element("span", "afa-socket", String(index + 1)), name, element("span", "afa-remark", faceRemark(row)), mark);
  return line;
}
