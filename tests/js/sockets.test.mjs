import assert from "node:assert/strict";
import test from "node:test";
import { closingMoves, numberOf, shown } from "../../js/sockets.mjs";

test("only numbered sockets of the kind count", () => {
  assert.equal(numberOf("model_3", "model"), 3);
  assert.equal(numberOf("model_10", "model"), 10);
  for (const other of ["model", "model_", "model_0", "model_x", "clip_3", "my_model_3", "model_3b"]) {
    assert.equal(numberOf(other, "model"), 0, other);
  }
});

test("one more socket than is connected, at least two, at most all", () => {
  assert.equal(shown([false, false, false], 8), 2);
  assert.equal(shown([true, false], 8), 2);
  assert.equal(shown([true, true], 8), 3);
  assert.equal(shown([true, false, false, true], 8), 5);
  assert.equal(shown(Array(8).fill(true), 8), 8);
});

test("gaps close and the order stays", () => {
  assert.deepEqual(closingMoves([true, true]), []);
  assert.deepEqual(closingMoves([false, true, true]), [[1, 0], [2, 1]]);
  assert.deepEqual(closingMoves([true, false, false, true, false, true]), [[3, 1], [5, 2]]);
  assert.deepEqual(closingMoves([false, false]), []);
});
