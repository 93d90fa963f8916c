import assert from "node:assert/strict";
import test from "node:test";
import { COLOURS, inkOn } from "../../js/colours.mjs";
import { faceRemark, faceRows, faceTitle, shortExpert, shortName } from "../../js/face_rows.mjs";

const summary = { num_experts: 2, experts: [{ file: "anime/dream.safetensors" }, { file: "photo.ckpt" }] };
const on = (file) => ({ connected: true, file });

test("names without folders and endings", () => {
  assert.equal(shortName("a\\b/dream.v2.safetensors"), "dream.v2");
  assert.equal(shortExpert("model_2 (a/dream.safetensors)"), "2  dream");
  assert.equal(shortExpert("model_2"), "model 2");
  assert.equal(shortExpert("something else"), "something else");
});

test("each socket is judged by the file at the end of its wire", () => {
  const states = (...sockets) => faceRows(summary, sockets).map(({ state }) => state);
  assert.deepEqual(states(on("dream.safetensors"), on("photo.safetensors")), ["right", "right"]);
  assert.deepEqual(states(on("photo.safetensors"), on("dream.safetensors")), ["wrong", "wrong"]);
  assert.deepEqual(states(on("renamed.safetensors"), on(null)), ["other", "unknown"]);
  assert.deepEqual(states(on("dream.safetensors")), ["right", "empty"]);
});

test("an aggregator that names no file judges none", () => {
  const unnamed = { num_experts: 2, experts: [{ file: "model_1" }, { file: "model_2" }] };
  const rows = faceRows(unnamed, [on("a/dream.safetensors")]);
  assert.deepEqual(rows.map(({ expected, state }) => [expected, state]), [["dream", "unknown"], ["model_2", "empty"]]);
  assert.equal(faceRemark(rows[0]), "");
});

test("the remark names what was found", () => {
  const [row] = faceRows(summary, [on("photo.safetensors"), on("dream.safetensors")]);
  assert.equal(row.expected, "dream");
  assert.match(faceRemark(row), /has photo/);
});

test("the title warns of too many models, and of files that name nothing", () => {
  assert.equal(faceTitle(summary, 2), "");
  assert.match(faceTitle(summary, 3), /2 experts, and 3/);
  assert.match(faceTitle({ num_experts: 3, experts: [] }, 1), /does not name/);
  assert.equal(faceTitle({ error: "x is not an aggregator" }, 2), "x is not an aggregator");
});

test("text on an expert's colour can be read", () => {
  assert.deepEqual(COLOURS.map(inkOn), ["#fff", "#000", "#000", "#000", "#000", "#000", "#000", "#fff"]);
});
