// The viewer as a picture to keep: the maps in full size, the colours' legend, and the charts.

import { drawStack } from "../charts.mjs";
import { COLOURS, colourOf } from "../colours.mjs";
import { download } from "../dom.mjs";
import { shortExpert } from "../face_rows.mjs";
import { paint, pictureBox } from "./picture.mjs";
import { sharesByPoints, sharesBySteps } from "./wire.mjs";

const WIDE = 1024;
const LINE = 26;
const CHART = 180;
const EDGE = 16;

export function savePng(view) {
  const name = `afa-routing ${view.side}, step ${view.stepText}, block ${view.pointText}.png`;
  render(view).toBlob((blob) => download(blob, name), "image/png");
}

/** A canvas with everything on it. */
export function render(view) {
  const inner = WIDE - 2 * EDGE;
  const { width, height } = pictureBox({ width: inner, height: Infinity }, view);
  const { experts } = view.run;
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: WIDE, height: Math.ceil(height + (experts.length + 1) * LINE + CHART + 4 * EDGE) });
  const context = canvas.getContext("2d");
  context.fillStyle = "#1b1b1b";
  context.fillRect(0, 0, canvas.width, canvas.height);
  paint(context, { x: EDGE, y: EDGE, width, height }, view, view.maps(), "#333");
  context.font = "16px system-ui, sans-serif";
  let y = EDGE + height + LINE;
  experts.forEach((name, index) => {
    context.fillStyle = colourOf(index);
    context.fillRect(EDGE, y - 13, 16, 16);
    context.fillStyle = "#eee";
    context.fillText(`${shortExpert(name)}   ${view.readings[index].textContent}`, EDGE + 26, y);
    y += LINE;
  });
  context.fillText(`${view.side}, step ${view.stepText}, block ${view.pointText}, colour from ${view.colourText}`, EDGE, y);
  y += EDGE;
  const half = (inner - EDGE) / 2;
  const charts = [
    ["shares over steps", sharesBySteps(view.run, view.side, view.point)],
    ["shares over blocks", sharesByPoints(view.run, view.side, view.step)],
  ];
  charts.forEach(([title, columns], index) => {
    const chart = document.createElement("canvas");
    drawStack(chart, { width: half, height: CHART }, { columns, colours: COLOURS, title });
    context.drawImage(chart, EDGE + index * (half + EDGE), y, half, CHART);
  });
  return canvas;
}
