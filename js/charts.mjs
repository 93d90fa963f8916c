// Charts on a canvas: shares stacked to 1, and lines over steps. Geometry apart from drawing, so that it can be tested.

import { fitCanvas, themeColour } from "./dom.mjs";

const FONT = "10px system-ui, sans-serif";
const BOX = { left: 6, right: 6, top: 18, bottom: 16 };

/** The column under x of `count` columns in a chart of this width, or -1 beside them. */
export function columnAt(x, width, count) {
  const column = Math.floor(((x - BOX.left) / (width - BOX.left - BOX.right)) * count);
  return column >= 0 && column < count ? column : -1;
}

/** Stacked shares: columns of [expert], null where nothing was fused. `chosen` is the column to mark, or null. */
export function drawStack(canvas, size, { columns, colours, title, chosen = null }) {
  const context = fitCanvas(canvas, size.width, size.height);
  const [width, height] = [size.width - BOX.left - BOX.right, size.height - BOX.top - BOX.bottom];
  const text = themeColour(canvas, "--descrip-text", "#999");
  context.font = FONT;
  context.fillStyle = text;
  context.fillText(title, BOX.left, 12);
  context.fillStyle = themeColour(canvas, "--comfy-input-bg", "#222");
  context.fillRect(BOX.left, BOX.top, width, height);
  const step = width / columns.length;
  columns.forEach((shares, column) => {
    if (!shares) return;
    let top = BOX.top;
    // The gap between columns goes when there are so many that it would be half of each.
    const bar = step > 4 ? step - 1 : step;
    shares.forEach((share, expert) => {
      context.fillStyle = colours[expert];
      context.globalAlpha = chosen === null || chosen === column ? 1 : 0.45;
      context.fillRect(BOX.left + column * step, top, bar, share * height);
      top += share * height;
    });
  });
  context.globalAlpha = 1;
  context.strokeStyle = themeColour(canvas, "--input-text", "#ddd");
  context.setLineDash([2, 3]);
  context.globalAlpha = 0.5;
  line(context, [[BOX.left, BOX.top + height / 2], [BOX.left + width, BOX.top + height / 2]]);
  context.globalAlpha = 1;
  context.setLineDash([]);
}

/** Labels below a stack: the first column's and the last's. */
export function drawEnds(canvas, size, first, last) {
  const context = canvas.getContext("2d");
  context.font = FONT;
  context.fillStyle = themeColour(canvas, "--descrip-text", "#999");
  context.fillText(first, BOX.left, size.height - 4);
  context.textAlign = "right";
  context.fillText(last, size.width - BOX.right, size.height - 4);
  context.textAlign = "left";
}

/** The range that shows all values with a little room; robust against a few outliers at the start. */
export function valueRange(values) {
  const finite = values.filter(Number.isFinite).sort((a, b) => a - b);
  if (!finite.length) return [0, 1];
  const low = finite[0];
  const high = finite[Math.ceil((finite.length - 1) * 0.98)];
  const room = (high - low || Math.abs(low) || 1) * 0.08;
  return [Math.max(0, low - room), high + room];
}

/** A number as short as it can be read: 0.0834, 1.27, 12.5. */
export function shortNumber(value) {
  if (!Number.isFinite(value)) return "\u2013";
  const digits = Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 1 ? 2 : Math.abs(value) >= 0.001 || !value ? 4 : 6;
  return value.toFixed(digits);
}

/** Lines [{points: [[x, y]], colour, width, dash, alpha, dots, faint}] over x from 0 to `end`; faint ones may leave the chart. */
export function drawLines(canvas, size, { lines, end, title }) {
  const context = fitCanvas(canvas, size.width, size.height);
  const box = { ...BOX, left: 44 };
  const [width, height] = [size.width - box.left - box.right, size.height - box.top - box.bottom];
  const [low, high] = valueRange(lines.filter(({ faint }) => !faint).flatMap(({ points }) => points.map(([, y]) => y)));
  const place = ([x, y]) => [box.left + (x / (end || 1)) * width, box.top + ((high - y) / (high - low || 1)) * height];
  context.font = FONT;
  context.fillStyle = themeColour(canvas, "--comfy-input-bg", "#222");
  context.fillRect(box.left, box.top, width, height);
  context.fillStyle = themeColour(canvas, "--descrip-text", "#999");
  context.fillText(title, box.left, 12);
  context.strokeStyle = themeColour(canvas, "--border-color", "#444");
  for (const part of [0, 0.5, 1]) {
    const value = low + (high - low) * part;
    const y = place([0, value])[1];
    context.textAlign = "right";
    context.fillText(shortNumber(value), box.left - 4, Math.min(y + 3, box.top + height));
    line(context, [[box.left, y], [box.left + width, y]]);
  }
  context.fillText(String(end), box.left + width, size.height - 4);
  context.textAlign = "left";
  context.fillText("step 0", box.left, size.height - 4);
  context.save();
  context.beginPath();
  context.rect(box.left, box.top, width, height);
  context.clip();
  for (const { points, colour, width: thick = 1.5, dash = [], alpha = 1, dots = false } of lines) {
    Object.assign(context, { strokeStyle: colour, fillStyle: colour, lineWidth: thick, globalAlpha: alpha });
    context.setLineDash(dash);
    line(context, points.map(place));
    if (dots) for (const [x, y] of points.map(place)) context.fillRect(x - 2, y - 2, 4, 4);
  }
  context.restore();
}

function line(context, points) {
  context.beginPath();
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.stroke();
}
