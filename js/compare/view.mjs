// The view on Compare AFA Methods: the grid, the table, and a blind choice between two pictures of one seed.

import { download, element } from "../dom.mjs";
import { nextPair, progress, reportText, together, withResults } from "./choices.mjs";

const PAGES = { grid: "Grid", table: "Table", choice: "Which is better?" };
const KEYS = { ArrowLeft: 0, ArrowRight: 1, ArrowDown: null };

export class ComparisonView {
  /** addressOf: the address of a picture that the server named; onChoices: called with all choices after each. */
  constructor(addressOf, onChoices) {
    this.addressOf = addressOf;
    this.onChoices = onChoices;
    this.shown = null;
    this.choices = [];
    this.build();
  }

  build() {
    this.root = element("div", "afa-compare afa-empty");
    this.root.tabIndex = 0;
    this.root.addEventListener("keydown", (event) => this.press(event));
    const tabs = element("div", "afa-tabs");
    this.tabs = Object.entries(PAGES).map(([page, label]) => {
      const tab = element("button", "afa-tab", label);
      tab.addEventListener("click", () => this.turnTo(page));
      return tab;
    });
    tabs.append(...this.tabs);
    this.status = element("span", "afa-count");
    this.save = element("button", "afa-button", "Save report");
    this.save.addEventListener("click", () => this.saveReport());
    const bar = element("div", "afa-bar");
    bar.append(tabs, this.status, this.save);
    this.stage = element("div", "afa-compare-stage");
    this.warning = element("div", "afa-message");
    this.root.append(bar, this.stage, this.warning);
    this.turnTo("grid");
  }

  /** Shows a result of the node, with the choices kept for it, and those made here that could not be saved. */
  show(shown, choices) {
    const same = JSON.stringify(this.shown?.subject) === JSON.stringify(shown.subject);
    this.choices = same ? together(choices, this.choices) : choices;
    this.shown = shown;
    this.pair = null;
    this.warn("");
    this.root.classList.remove("afa-empty");
    this.turnTo(this.page);
  }

  /** Says a line below everything; an empty one takes it away. */
  warn(text) {
    this.warning.textContent = text;
  }

  turnTo(page) {
    this.page = page;
    this.tabs.forEach((tab, i) => tab.classList.toggle("afa-chosen", Object.keys(PAGES)[i] === page));
    this.status.textContent = "";
    if (!this.shown) {
      this.stage.replaceChildren(element("div", "afa-hint", "Queue the graph: the grid appears when all pictures are painted."));
      return;
    }
    ({ grid: () => this.drawGrid(), table: () => this.drawTable(), choice: () => this.drawChoice() })[page]();
  }

  drawGrid() {
    this.stage.replaceChildren(this.picture(this.shown.grid));
  }

  drawTable() {
    const { columns, rows } = withResults(this.shown, this.choices);
    const table = element("table", "afa-table");
    table.append(tableRow("th", columns), ...rows.map((cells) => tableRow("td", cells)));
    this.stage.replaceChildren(table);
  }

  drawChoice() {
    const { methods, seeds, pictures } = this.shown;
    this.pair ??= nextPair(this.shown, this.choices);
    const { done, total } = progress(this.shown, this.choices);
    this.status.textContent = `${done} of ${total}`;
    if (!this.pair) {
      this.stage.replaceChildren(element("div", "afa-hint", "Every pair was shown: the results are in the table."));
      return;
    }
    const column = seeds.indexOf(this.pair.seed);
    const candidates = this.pair.methods.map((key, side) => {
      const choose = element("button", "afa-candidate");
      choose.title = side ? "The right one is better" : "The left one is better";
      choose.append(this.picture(pictures[methods.findIndex((method) => method.key === key)][column]));
      choose.addEventListener("click", () => this.choose(side));
      return choose;
    });
    const even = element("button", "afa-button", "\u2193 no difference");
    even.addEventListener("click", () => this.choose(null));
    const keys = element("div", "afa-keys");
    keys.append(element("span", "", "\u2190 left"), even, element("span", "", "right \u2192"));
    const both = element("div", "afa-pair");
    both.append(...candidates);
    this.stage.replaceChildren(both, keys);
    this.root.focus({ preventScroll: true });
  }

  /** side: 0, 1, or null where there is no difference. */
  choose(side) {
    this.choices = [...this.choices, { ...this.pair, winner: side === null ? null : this.pair.methods[side] }];
    this.pair = null;
    this.onChoices(this.choices);
    this.drawChoice();
  }

  press(event) {
    if (this.page !== "choice" || !this.pair || !(event.key in KEYS)) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) this.choose(KEYS[event.key]);
  }

  picture(place) {
    const image = element("img");
    image.draggable = false;
    image.src = this.addressOf(place);
    return image;
  }

  saveReport() {
    download(new Blob([reportText(this.shown, this.choices)], { type: "text/markdown" }), "afa-comparison.md");
  }
}

function tableRow(tag, cells) {
  const row = element("tr");
  row.append(...cells.map((text) => element(tag, "", text)));
  return row;
}
