// Two charts below the picture: every expert's share over the steps, and over the fusion points.

import { columnAt, drawEnds, drawStack } from "../charts.mjs";
import { COLOURS } from "../colours.mjs";
import { element } from "../dom.mjs";
import { fusedPoints, sharesByPoints, sharesBySteps } from "./wire.mjs";

export class ShareCharts {
  constructor(changed) {
    this.root = element("div", "afa-charts");
    this.reading = element("div", "afa-chart-reading");
    this.onChoose = () => {};
    this.charts = [
      new Chart("shares over steps", (view) => sharesBySteps(view.run, view.side, view.point)),
      new Chart("shares over blocks", (view) => sharesByPoints(view.run, view.side, view.step)),
    ];
    const row = element("div", "afa-chart-row");
    row.append(...this.charts.map((chart) => chart.canvas));
    this.root.append(row, this.reading);
    this.charts.forEach((chart, index) => {
      chart.canvas.addEventListener("pointermove", (event) => this.read(index, chart.at(event)));
      chart.canvas.addEventListener("pointerleave", () => this.read(index, -1));
      chart.canvas.addEventListener("click", (event) => this.choose(index, chart.at(event)));
    });
    new ResizeObserver(changed).observe(row);
  }

  draw(view) {
    this.view = view;
    const points = fusedPoints(view.run);
    const [steps, blocks] = this.charts;
    steps.draw(view, view.step);
    drawEnds(steps.canvas, steps.size, "step 1", String(view.run.steps.length));
    blocks.draw(view, view.point === null ? null : points.indexOf(view.point));
    if (points.length) drawEnds(blocks.canvas, blocks.size, view.names[points[0]], view.names[points.at(-1)]);
    this.read(this.shown?.chart ?? 0, this.shown?.column ?? -1);
  }

  read(index, column) {
    this.shown = { chart: index, column };
    const shares = this.charts[index].columns[column];
    const name = index === 0 ? `step ${column + 1}` : this.view?.names[fusedPoints(this.view.run)[column]];
    const numbers = shares?.map((share) => share.toFixed(3)).join("  ");
    this.reading.textContent = numbers ? `${name}:  ${numbers}` : "hover for numbers, click to choose";
  }

  /** A click chooses a step or a block; another click on it chooses all again. */
  choose(index, column) {
    if (column < 0) return;
    const [key, value] = index === 0 ? ["step", column] : ["point", fusedPoints(this.view.run)[column]];
    this.onChoose({ [key]: this.view[key] === value ? null : value });
  }
}

class Chart {
  constructor(title, columns) {
    this.canvas = element("canvas", "afa-chart");
    this.title = title;
    this.compute = columns;
    this.columns = [];
  }

  get size() {
    return { width: this.canvas.clientWidth, height: this.canvas.clientHeight };
  }

  draw(view, chosen) {
    this.columns = this.compute(view);
    drawStack(this.canvas, this.size, { columns: this.columns, colours: COLOURS, title: this.title, chosen });
  }

  /** The column below the pointer. The canvas may be zoomed, so positions are taken as parts of it. */
  at(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const { width } = this.size;
    return columnAt(((event.clientX - bounds.left) / bounds.width) * width, width, this.columns.length);
  }
}
