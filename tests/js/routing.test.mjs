import assert from "node:assert/strict";
import test from "node:test";
import { columnAt, shortNumber, valueRange } from "../../js/charts.mjs";
import { clearest, MAP, meanMaps, overlay } from "../../js/routing/maps.mjs";
import { addStep, decodeRun, fusedPoints, sharesByPoints, sharesBySteps } from "../../js/routing/wire.mjs";

const bytes = (...values) => Buffer.from(values).toString("base64");
const close = (a, b) => assert.ok(Math.abs(a - b) < 0.005, `${a} is not ${b}`);

// Two experts; point 0 has a 1 x 2 map and point 2 none.
const step = (sigma, left, right) => ({
  sigma,
  prompt: { points: [0, 2], shares: [[(left + right) / 510, 1 - (left + right) / 510], [0.25, 0.75]], sizes: [[1, 2], [0, 0]], maps: bytes(left, right) },
});
const data = { run: "one", experts: ["a", "b"], points: ["input 0", "input 1", "middle"], steps: [step(9, 255, 0), step(3, 0, 255)] };

test("maps are decoded, and the last expert has what the others leave", () => {
  const { maps } = decodeRun(data).steps[0].prompt;
  assert.deepEqual([...maps.get(0).shares[0]], [1, 0]);
  assert.deepEqual([...maps.get(0).shares[1]], [0, 1]);
  assert.equal(maps.has(2), false);
});

test("shares over steps and over points", () => {
  const run = decodeRun(data);
  assert.deepEqual(fusedPoints(run), [0, 2]);
  assert.deepEqual(sharesBySteps(run, "prompt", 2), [[0.25, 0.75], [0.25, 0.75]]);
  assert.deepEqual(sharesByPoints(run, "prompt"), [[0.5, 0.5], [0.25, 0.75]]);
  assert.deepEqual(sharesBySteps(run, "negative"), [null, null]);
});

test("steps come one by one; one of another run begins anew, and a late page fills up", () => {
  const message = (number, run = "one") => ({ step: number, ...data, run, ...step(9 - number, 255, 0) });
  let run = addStep(null, message(0));
  run = addStep(run, message(1));
  assert.equal(run.steps.length, 2);
  const other = addStep(run, message(1, "two"));
  assert.notEqual(other, run);
  assert.deepEqual(sharesBySteps(other, "prompt").map((row) => row !== null), [false, true]);
  assert.equal(addStep(decodeRun(data), message(0, "two")).steps.length, 1);
  const late = addStep(null, message(3));
  assert.equal(late.steps.length, 4);
  assert.deepEqual(sharesBySteps(late, "prompt").slice(0, 3), [null, null, null]);
});

test("a mean map is over the steps and points that were chosen", () => {
  const run = decodeRun(data);
  const [first] = meanMaps(run, "prompt", 0, 0);
  close(first[0], 1);
  close(first[MAP - 1], 0);
  const [all] = meanMaps(run, "prompt", null, 0);
  all.forEach((share) => close(share, 0.5));
  const [flat] = meanMaps(run, "prompt", null, 2);
  flat.forEach((share) => close(share, 0.25));
  assert.equal(meanMaps(run, "negative", null, null), null);
  assert.equal(meanMaps(run, "prompt", null, 1), null);
});

const flat = (...shares) => shares.map((share) => new Float32Array(MAP * MAP).fill(share));
const COLOURS = ["#ff0000", "#0000ff", "#00ff00"];

test("the overlay has the leading expert's colour, as strong as it leads", () => {
  const at = (shares, opacities, full) => [...overlay(flat(...shares), COLOURS.slice(0, shares.length), opacities, full).slice(0, 4)];
  assert.deepEqual(at([0.75, 0.25], [1, 1], 1), [255, 0, 0, 128]);
  assert.deepEqual(at([0.75, 0.25], [1, 1], 0.75), [255, 0, 0, 255]);
  assert.deepEqual(at([0.75, 0.25], [0.5, 1], 0.75), [255, 0, 0, 128]);
  assert.equal(at([0.75, 0.25], [0, 1], 1)[3], 0);
  assert.equal(at([0.5, 0.5], [1, 1], 0.51)[3], 0);
  assert.deepEqual(at([0.5, 0.5, 0], [1, 1, 1], 0.5), [128, 0, 128, 255]);
});

test("colours are full where the run is clearest, and never for next to nothing", () => {
  const maps = flat(0.5, 0.3, 0.2);
  maps[2].fill(0.6, 0, 40); // 4 % of the places
  close(clearest(maps), 0.6);
  maps[2].fill(0.9, 0, 5); // less than 2 %
  close(clearest(maps), 0.6);
  close(clearest(flat(0.5, 0.5)), 0.525);
});

test("a chart finds the column below the pointer", () => {
  assert.equal(columnAt(6, 212, 10), 0);
  assert.equal(columnAt(205, 212, 10), 9);
  assert.equal(columnAt(2, 212, 10), -1);
  assert.equal(columnAt(209, 212, 10), -1);
});

test("numbers and ranges are readable", () => {
  assert.deepEqual([12.34, 1.234, 0.01234, 0.0000123, NaN].map(shortNumber), ["12.3", "1.23", "0.0123", "0.000012", "\u2013"]);
  const [low, high] = valueRange([1, 2, 3, NaN]);
  assert.ok(low < 1 && high > 3);
  assert.deepEqual(valueRange([]), [0, 1]);
});
