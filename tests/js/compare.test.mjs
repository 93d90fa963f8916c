import assert from "node:assert/strict";
import test from "node:test";
import { inOrder, nextPair, progress, reportText, resultOf, spokenResult, together, withResults } from "../../js/compare/choices.mjs";

const comparison = {
  methods: ["a", "b", "c"].map((key) => ({ key, name: key.toUpperCase() })),
  seeds: [1, 2],
  prompt: "a cat",
  table: { columns: ["method", "seconds"], rows: [["A", "1"], ["B", "2"], ["C", "3"]] },
};

test("every pair is shown once, and the methods are shown evenly", () => {
  const choices = [];
  const sides = new Set();
  for (let pair; (pair = nextPair(comparison, choices)); choices.push({ ...pair, winner: null })) {
    sides.add(pair.methods.join());
    const shown = comparison.methods.map(({ key }) => resultOf(key, choices).shown);
    assert.ok(Math.max(...shown) - Math.min(...shown) <= 2);
    assert.ok(choices.length < 7);
  }
  assert.deepEqual(progress(comparison, choices), { done: 6, total: 6 });
  assert.equal(new Set(choices.map((choice) => [choice.seed, ...[...choice.methods].sort()].join())).size, 6);
  assert.deepEqual(progress({ ...comparison, prompt: "a dog" }, choices), { done: 0, total: 6 });
});

test("sides are by chance", () => {
  const sequence = (...values) => () => values.shift();
  assert.deepEqual(nextPair(comparison, [], sequence(0, 0.4)).methods, ["a", "b"]);
  assert.deepEqual(nextPair(comparison, [], sequence(0, 0.6)).methods, ["b", "a"]);
});

test("results with Wilson's interval", () => {
  const choice = (winner) => ({ prompt: "a cat", seed: 1, methods: ["a", "b"], winner });
  const choices = [...Array(8).fill(choice("a")), choice("b"), choice("b")];
  const { rate, low, high } = resultOf("a", choices);
  assert.deepEqual([rate, low, high].map((value) => value.toFixed(3)), ["0.800", "0.490", "0.943"]);
  assert.equal(spokenResult(resultOf("b", choices)), "20 % (6 to 51) of 10");
  assert.equal(resultOf("a", [choice(null)]).rate, 0.5);
  assert.equal(spokenResult(resultOf("c", choices)), "-");
});

test("choices that are kept and those made here count once each", () => {
  const choice = (seed) => ({ prompt: "a cat", seed, methods: ["a", "b"], winner: "a" });
  assert.deepEqual(together([choice(1), choice(2)], [choice(2), choice(3)]), [choice(1), choice(2), choice(3)]);
});

test("choices are saved one after another", async () => {
  const sent = [];
  const save = inOrder((choices) => new Promise((answer) => sent.push({ choices, answer })));
  const [first, second] = [save(1), save(2)];
  await null;
  assert.deepEqual(sent.map(({ choices }) => choices), [1]);
  sent[0].answer();
  await first;
  assert.deepEqual(sent.map(({ choices }) => choices), [1, 2]);
  sent[1].answer();
  await second;
});

test("the report has the table and the choices", () => {
  const choices = [{ prompt: "a cat", seed: 1, methods: ["a", "b"], winner: "a" }];
  assert.deepEqual(withResults(comparison, []).columns, ["method", "seconds"]);
  const lines = reportText(comparison, choices).split("\n");
  assert.equal(lines[0], "Prompt: a cat");
  assert.equal(lines[3], "| method | seconds | chosen blind |");
  assert.equal(lines[5], "| A | 1 | 100 % (21 to 100) of 1 |");
});
