// The training view: how the loss goes, the experts' mean weights, how long it takes, and a button that stops and keeps the work.

import { drawLines, shortNumber } from "../charts.mjs";
import { COLOURS, colourOf, inkOn } from "../colours.mjs";
import { element } from "../dom.mjs";
import { shortExpert } from "../face_rows.mjs";
import { latest, secondsLeft, series, smoothed, spoken } from "./progress.mjs";

const LINES = [
  { name: "loss", label: "training", colour: COLOURS[4], dash: [] },
  { name: "held_out", label: "held out", colour: COLOURS[1], dash: [], dots: true },
];
const RIVALS = [
  { colour: COLOURS[3], dash: [6, 3] },
  { colour: COLOURS[2], dash: [2, 3] },
  { colour: COLOURS[0], dash: [8, 3, 2, 3] },
];

export class TrainingView {
  constructor(onStop) {
    this.progress = null;
    this.root = element("div", "afa-training");
    this.line = element("div", "afa-training-line", "Queue the graph: the training shows itself here.");
    this.stop = element("button", "afa-button afa-stop", "Stop and keep");
    this.stop.title = "Ends the training after this step and saves what it has learnt.";
    this.stop.addEventListener("click", () => {
      this.stop.disabled = true;
      onStop();
    });
    const bar = element("div", "afa-bar");
    bar.append(this.line, this.stop);
    this.track = element("div", "afa-track");
    this.fill = element("div", "afa-fill");
    this.track.append(this.fill);
    this.chart = element("canvas", "afa-loss");
    this.legend = element("div", "afa-legend");
    this.shares = element("div", "afa-shares");
    this.samples = element("div", "afa-samples");
    this.message = element("div", "afa-message");
    this.root.append(bar, this.track, this.chart, this.legend, this.shares, this.samples, this.message);
    new ResizeObserver(() => this.progress && this.drawChart()).observe(this.chart);
    this.root.classList.add("afa-empty");
    this.stop.disabled = true;
  }

  show(progress) {
    this.progress = progress;
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  draw() {
    const { state, step, steps, secondsPerStep, message = "" } = this.progress;
    this.root.classList.remove("afa-empty");
    const left = secondsLeft(this.progress);
    this.line.textContent = [
      `step ${step} of ${steps}`,
      secondsPerStep && `${shortSeconds(secondsPerStep)} a step`,
      left !== null && `${spoken(left)} left`,
    ]
      .filter(Boolean)
      .join("  \u00b7  ");
    this.stop.disabled = state !== "training";
    this.stop.textContent = state === "stopping" ? "Stopping\u2026" : "Stop and keep";
    this.stop.hidden = state === "done";
    this.fill.style.width = `${steps ? (100 * step) / steps : 0}%`;
    this.message.textContent = message;
    this.drawChart();
    this.drawLegend();
    this.drawShares();
    this.drawSamples();
  }

  drawChart() {
    const size = { width: this.chart.clientWidth, height: this.chart.clientHeight };
    const raw = series(this.progress, "loss");
    const lines = LINES.map(({ name, ...style }) => ({ ...style, points: series(this.progress, name) }));
    lines[0] = { ...lines[0], points: smoothed(raw), width: 2 };
    const rivals = this.rivals().map(({ value, ...style }) => ({ ...style, points: [[0, value], [this.progress.step, value]] }));
    drawLines(this.chart, size, {
      lines: [{ ...lines[0], points: raw, width: 1, alpha: 0.25, faint: true }, ...lines, ...rivals],
      end: this.progress.steps,
      title: "loss",
    });
  }

  /** What needs no training: level lines, by the names that they were sent with. */
  rivals() {
    const rows = Object.entries(this.progress.rivals).filter(([, value]) => Number.isFinite(value));
    return rows.map(([label, value], index) => ({ label, value, ...RIVALS[index] }));
  }

  drawLegend() {
    const training = smoothed(series(this.progress, "loss")).at(-1)?.[1] ?? NaN;
    const measured = LINES.map((line) => ({ ...line, value: line.name === "loss" ? training : latest(this.progress, line.name) }));
    this.legend.replaceChildren(
      ...[...measured, ...this.rivals()].map(({ label, colour, value }) => {
        const entry = element("span", "afa-entry");
        const swatch = element("span", "afa-swatch");
        swatch.style.background = colour;
        entry.append(swatch, element("span", "", `${label} `), element("b", "", shortNumber(value)));
        return entry;
      }),
    );
  }

  drawShares() {
    const { shares, experts } = this.progress;
    this.shares.replaceChildren(
      ...(shares ?? []).map((share, index) => {
        const name = shortExpert(experts[index]);
        const part = element("span", "afa-share", `${(share * 100).toFixed(0)} %   ${name}`);
        Object.assign(part.style, { background: colourOf(index), color: inkOn(colourOf(index)), width: `${share * 100}%` });
        part.title = `${name}: ${(share * 100).toFixed(1)} %`;
        return part;
      }),
    );
  }

  drawSamples() {
    const shown = this.progress.samples.filter(({ sample }) => sample.startsWith("data:image/"));
    this.samples.replaceChildren(
      ...shown.map(({ step, sample }) => {
        const figure = element("figure", "afa-sample");
        const picture = element("img");
        picture.src = sample;
        figure.append(picture, element("figcaption", "", `step ${step}`));
        return figure;
      }),
    );
  }
}

function shortSeconds(seconds) {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}
