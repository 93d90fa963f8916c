// The routing viewer: which expert has weight where, laid over the picture; live while sampling and afterwards.

import { colourOf } from "../colours.mjs";
import { element, slider } from "../dom.mjs";
import { shortExpert } from "../face_rows.mjs";
import { clearest, leads, meanMaps, MAP } from "./maps.mjs";
import { paintPicture, pictureBox } from "./picture.mjs";
import { savePng } from "./save.mjs";
import { ShareCharts } from "./share_charts.mjs";
import { fusedPoints, meanRow, sharesBySteps } from "./wire.mjs";

const SIDE_NAMES = { prompt: "Prompt", negative: "Negative" };

export class RoutingViewer {
  constructor() {
    this.run = null;
    this.picture = null; // an image or bitmap that is drawn below the maps
    this.side = "prompt";
    this.step = null; // null: all
    this.point = null;
    this.chosenFull = null; // the share at which colours are full; null: as `clearest` says
    this.clearest = null;
    this.opacities = [];
    this.frame = 0;
    this.build();
  }

  build() {
    this.root = element("div", "afa-viewer");
    this.hint = element("span", "", "Queue the graph: the maps appear while it samples.");
    const hint = element("div", "afa-hint");
    hint.append(this.hint);
    this.tabs = element("div", "afa-tabs");
    this.status = element("span", "afa-status");
    this.save = element("button", "afa-button", "Save PNG");
    this.save.addEventListener("click", () => savePng(this));
    const bar = element("div", "afa-bar");
    bar.append(this.tabs, this.status, this.save);
    this.stage = element("div", "afa-stage");
    this.canvas = element("canvas");
    this.tip = element("div", "afa-tip");
    this.stage.append(this.canvas, hint, this.tip);
    this.steps = slider("step");
    this.points = slider("block");
    this.contrasts = slider("contrast", { min: 0, max: 0.98, step: 0.02 });
    this.experts = element("div", "afa-experts");
    this.charts = new ShareCharts(() => this.changed());
    const controls = element("div", "afa-controls");
    controls.append(this.steps.row, this.points.row, this.contrasts.row);
    this.root.append(bar, this.stage, controls, this.experts, this.charts.root);
    this.steps.input.addEventListener("input", () => this.choose({ step: this.chosen(this.steps) }));
    this.points.input.addEventListener("input", () => {
      const row = this.chosen(this.points);
      this.choose({ point: row === null ? null : fusedPoints(this.run)[row] });
    });
    this.contrasts.input.addEventListener("input", () => {
      this.choose({ chosenFull: 1 - Number(this.contrasts.input.value) * (1 - this.even) });
    });
    this.contrasts.row.addEventListener("dblclick", () => this.choose({ chosenFull: null }));
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", () => (this.tip.textContent = ""));
    this.charts.onChoose = (choice) => this.choose(choice);
    new ResizeObserver(() => this.changed()).observe(this.stage);
    this.changed();
  }

  /** Shows a run; `live` says that its steps are still coming. A bitmap is the viewer's, which closes it. */
  show(run, picture, live = false) {
    const fresh = !this.run || this.run.experts.join("\n") !== run.experts.join("\n");
    const steps = this.run?.steps.length;
    this.run = run;
    if (picture !== this.picture) this.picture?.close?.();
    this.picture = picture;
    this.live = live;
    this.clearest = null;
    if (!run.steps.some((step) => step[this.side])) this.side = this.side === "prompt" ? "negative" : "prompt";
    if (fresh) {
      this.opacities = run.experts.map(() => 0.8);
      this.point = null;
      this.chosenFull = null;
      this.buildExperts();
    }
    if (fresh || steps > run.steps.length) this.step = null;
    if (this.point !== null && !fusedPoints(run).includes(this.point)) this.point = null;
    this.changed();
  }

  choose(choice) {
    if ("side" in choice) this.clearest = null;
    Object.assign(this, choice);
    this.changed();
  }

  /** A slider's choice: 0 is "all". */
  chosen({ input }) {
    return Number(input.value) === 0 ? null : Number(input.value) - 1;
  }

  /** Redraws at the next frame, however often it is asked to. */
  changed() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  buildExperts() {
    this.readings = [];
    this.experts.replaceChildren(
      ...this.run.experts.map((name, index) => {
        const swatch = element("span", "afa-swatch");
        swatch.style.background = colourOf(index);
        const { row, input, value } = slider(shortExpert(name), { min: 0, max: 1, step: 0.05, value: this.opacities[index] });
        row.title = `${name}: opacity of its map`;
        row.classList.add("afa-expert");
        row.prepend(swatch);
        input.addEventListener("input", () => {
          this.opacities[index] = Number(input.value);
          this.changed();
        });
        this.readings.push(value);
        return row;
      }),
    );
  }

  get names() {
    return this.run.points;
  }

  /** The maps of what is chosen. */
  maps() {
    return meanMaps(this.run, this.side, this.step, this.point);
  }

  /** The share of an expert that is followed no more than the others. */
  get even() {
    return 1 / this.run.experts.length;
  }

  /**
   * The share at which colours are full. It follows the whole run, whatever step and block are chosen, so that those can
   * be compared.
   */
  get full() {
    return this.chosenFull ?? this.clearest ?? 1;
  }

  draw() {
    const empty = !this.run;
    this.root.classList.toggle("afa-empty", empty);
    this.save.disabled = empty;
    if (empty) return;
    const maps = this.maps();
    const all = this.step === null && this.point === null;
    if (maps) this.clearest ??= clearest(all ? maps : meanMaps(this.run, this.side, null, null));
    this.drawTabs();
    this.drawSliders();
    this.hint.textContent = this.hintText(maps);
    const size = { width: this.stage.clientWidth, height: this.stage.clientHeight };
    paintPicture(this.canvas, size, this, maps);
    const rows = sharesBySteps(this.run, this.side, this.point);
    const share = this.step === null ? meanRow(rows.filter(Boolean)) : rows[this.step];
    this.readings.forEach((reading, i) => (reading.textContent = share ? `${(share[i] * 100).toFixed(1)} %` : "\u2013"));
    this.charts.draw(this);
  }

  hintText(maps) {
    if (!maps) return "Nothing was fused here.";
    const leader = maps[0].some((_, i) => leads(maps, i, this.full).some((lead) => lead > 0.01));
    return leader ? "" : "No expert leads here: all have the same weight.";
  }

  drawTabs() {
    const sides = Object.keys(SIDE_NAMES).filter((side) => this.run.steps.some((step) => step[side]));
    this.tabs.replaceChildren(
      ...sides.map((side) => {
        const tab = element("button", side === this.side ? "afa-tab afa-chosen" : "afa-tab", SIDE_NAMES[side]);
        tab.addEventListener("click", () => this.choose({ side }));
        return tab;
      }),
    );
    this.status.textContent = this.live ? `\u25cf step ${this.run.steps.length}` : "";
  }

  drawSliders() {
    const points = fusedPoints(this.run);
    this.steps.input.max = this.run.steps.length;
    this.steps.input.value = this.step === null ? 0 : this.step + 1;
    this.steps.value.textContent = this.stepText;
    this.points.input.max = points.length;
    this.points.input.value = this.point === null ? 0 : points.indexOf(this.point) + 1;
    this.points.value.textContent = this.pointText;
    this.contrasts.input.value = (1 - this.full) / (1 - this.even);
    this.contrasts.value.textContent = this.colourText;
    this.contrasts.row.title =
      `No colour at an even share, ${percent(this.even)}; full colour at ${percent(this.full)} and above. ` +
      "Double-click: full where this run is clearest.";
  }

  get colourText() {
    return `${Math.round(this.even * 100)} to ${percent(this.full)}`;
  }

  get stepText() {
    if (this.step === null) return `all ${this.run.steps.length}`;
    const { sigma } = this.run.steps[this.step];
    const number = `${this.step + 1} of ${this.run.steps.length}`;
    return sigma === undefined ? number : `${number}, \u03c3 ${sigma.toPrecision(3)}`;
  }

  get pointText() {
    return this.point === null ? `all ${fusedPoints(this.run).length}` : this.names[this.point];
  }

  hover(event) {
    if (!this.run) return;
    const maps = this.maps();
    const bounds = this.canvas.getBoundingClientRect();
    // The canvas may be zoomed: positions as parts of it hold at any zoom.
    const size = { width: this.stage.clientWidth, height: this.stage.clientHeight };
    const box = pictureBox(size, this);
    const x = (((event.clientX - bounds.left) / bounds.width) * size.width - box.x) / box.width;
    const y = (((event.clientY - bounds.top) / bounds.height) * size.height - box.y) / box.height;
    const inside = maps && x >= 0 && x < 1 && y >= 0 && y < 1;
    const at = Math.floor(y * MAP) * MAP + Math.floor(x * MAP);
    this.tip.replaceChildren(
      ...(inside ? maps.map((map, i) => this.tipLine(i, map[at])) : []),
    );
  }

  tipLine(expert, share) {
    const line = element("div", "afa-tip-line");
    const swatch = element("span", "afa-swatch");
    swatch.style.background = colourOf(expert);
    line.append(swatch, element("span", "", `${(share * 100).toFixed(1)} %`));
    return line;
  }
}

function percent(share) {
  return `${Math.round(share * 100)} %`;
}
