// What the face of AFA Ensemble Model says: which checkpoint an aggregator expects on which socket.

/** A file's own name, without folders and ending. */
export function shortName(file) {
  return file
    .split(/[\\/]/)
    .pop()
    .replace(/\.(safetensors|ckpt|pt|sft)$/i, "");
}

/** An expert's name as Python gives it, "model_2 (folder/file.safetensors)", for where there is little room: "2  file". */
export function shortExpert(name) {
  const [, number, file] = /^model_(\d+)(?: \((.+)\))?$/.exec(name) ?? [];
  if (!number) return name;
  return file ? `${number}  ${shortName(file)}` : `model ${number}`;
}

/**
 * Rows {socket, expected, found, state} for what /afa/aggregator answered and the files on the sockets (null: unknown).
 * state: "right", "empty" (nothing connected), "unknown" (no loader found, or the aggregator's file does not name it), "other" (another file name: perhaps
 * the same checkpoint renamed) and "wrong" (the file of another socket: surely a mistake).
 */
export function faceRows(summary, sockets) {
  const names = summary.experts.map((expert) => shortName(expert.file));
  return names.map((expected, index) => {
    const { connected = false, file = null } = sockets[index] ?? {};
    const found = file && shortName(file);
    const socket = `model_${index + 1}`;
    // Trained with a model that came from no loader: the file then has the socket's name in its place.
    if (expected === socket) return { socket, expected: found ?? expected, found: null, state: connected ? "unknown" : "empty" };
    return { socket, expected, found, state: stateOf(expected, found, connected, names) };
  });
}

function stateOf(expected, found, connected, names) {
  if (!connected) return "empty";
  if (!found) return "unknown";
  if (found === expected) return "right";
  return names.includes(found) ? "wrong" : "other";
}

/** The line above the rows. */
export function faceTitle(summary, connected) {
  if (summary.error) return summary.error;
  const count = summary.num_experts;
  if (connected > count) return `Made for ${count} experts, and ${connected} are connected.`;
  return summary.experts.length ? "" : `Made for ${count} experts; the file does not name them.`;
}

/** What a row says, apart from the expected name. */
export function faceRemark({ state, found }) {
  return {
    right: "",
    empty: "not connected",
    unknown: "",
    other: `has ${found}`,
    wrong: `has ${found}`,
  }[state];
}
