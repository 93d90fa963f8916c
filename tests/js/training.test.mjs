import assert from "node:assert/strict";
import test from "node:test";
import { advance, latest, restored, secondsLeft, series, smoothed, spoken } from "../../js/training/progress.mjs";

const base = { run: "one", state: "training", steps: 100, experts: ["a", "b"] };

test("messages add up to curves, and what was not measured leaves no point", () => {
  let progress = advance(null, { ...base, step: 0, message: "encoding" });
  progress = advance(progress, { ...base, step: 1, loss: 0.5, seconds_per_step: 2 });
  progress = advance(progress, { ...base, step: 2, loss: null, held_out: 0.4, rivals: { best: 0.5 }, shares: [0.3, 0.7] });
  assert.deepEqual(series(progress, "loss"), [[1, 0.5]]);
  assert.deepEqual(series(progress, "held_out"), [[2, 0.4]]);
  assert.equal(latest(progress, "held_out"), 0.4);
  assert.ok(Number.isNaN(latest(advance(null, { ...base, step: 1, loss: 0.5 }), "held_out")));
  assert.deepEqual(progress.rivals, { best: 0.5 });
  assert.deepEqual(progress.shares, [0.3, 0.7]);
  assert.equal(progress.message, "encoding");
  assert.equal(secondsLeft(progress), 196);
});

test("a new run begins anew", () => {
  const old = advance(null, { ...base, step: 9, loss: 1 });
  assert.deepEqual(series(advance(old, { ...base, run: "two", step: 0 }), "loss"), []);
});

test("only the last few samples are kept", () => {
  let progress = null;
  for (let step = 0; step < 9; step++) progress = advance(progress, { ...base, step, sample: `data:image/${step}` });
  assert.deepEqual(progress.samples.map(({ step }) => step), [5, 6, 7, 8]);
});

test("a snapshot restores the curves", () => {
  const rivals = { "best single expert": 0.5, "block average": 0.6 };
  const history = [[1, 0.5, null, null], [2, 0.4, 0.45, [0.5, 0.5]]];
  const samples = [{ step: 1, sample: "data:image/1" }];
  const progress = restored({ ...base, step: 2, state: "done", history, rivals, shares: [0.5, 0.5], loss: 0.4, samples });
  assert.deepEqual(progress.samples, samples);
  assert.deepEqual(series(progress, "loss"), [[1, 0.5], [2, 0.4]]);
  assert.deepEqual(series(progress, "held_out"), [[2, 0.45]]);
  assert.deepEqual(progress.rivals, rivals);
  assert.equal(secondsLeft(progress), null);
});

test("smoothing starts at the first value and follows the rest", () => {
  assert.deepEqual(smoothed([]), []);
  const line = smoothed([[0, 2], [1, 2], [2, 2]]);
  line.forEach(([, y]) => assert.ok(Math.abs(y - 2) < 1e-9));
  const noisy = smoothed(Array.from({ length: 200 }, (_, i) => [i, i % 2]));
  assert.ok(Math.abs(noisy.at(-1)[1] - 0.5) < 0.05);
});

test("times as a person says them", () => {
  assert.deepEqual([45, 89.4, 90, 3600, 12000].map(spoken), ["45 s", "89 s", "2 min", "60 min", "3 h 20 min"]);
});
