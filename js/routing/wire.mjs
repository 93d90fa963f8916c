// Routing as afa_core/routing/wire.py packs it: maps as bytes, the last expert's being what the others leave.

/**
 * A step: {sigma?, prompt?: Side, negative?: Side}, Side = {points: [index], shares: [point][expert],
 * maps: Map(index of the point -> {h, w, shares: [expert] of Float32Array})}.
 */
export function decodeStep(step, experts) {
  const decoded = { sigma: step.sigma };
  for (const side of ["prompt", "negative"]) if (step[side]) decoded[side] = decodeSide(step[side], experts);
  return decoded;
}

function decodeSide({ points, shares, sizes, maps }, experts) {
  const bytes = Uint8Array.from(atob(maps), (character) => character.charCodeAt(0));
  const decoded = new Map();
  let start = 0;
  points.forEach((point, row) => {
    const [h, w] = sizes[row];
    if (!h || !w) return;
    const planes = [];
    const rest = new Float32Array(h * w).fill(1);
    for (let expert = 0; expert < experts - 1; expert++) {
      const plane = Float32Array.from(bytes.subarray(start, start + h * w), (byte) => byte / 255);
      plane.forEach((share, i) => (rest[i] = Math.max(0, rest[i] - share)));
      planes.push(plane);
      start += h * w;
    }
    decoded.set(point, { h, w, shares: [...planes, rest] });
  });
  return { points, shares, maps: decoded };
}

/** A run: {id, experts, points, steps, picture}, from what the server keeps. */
export function decodeRun(data) {
  const { run: id, experts, points, picture = null } = data;
  return { id, experts, points, picture, steps: data.steps.map((step) => decodeStep(step, experts.length)) };
}

/** The run with one more step as it comes while sampling; a step of another run begins that one. */
export function addStep(run, message) {
  const { run: id, experts, points } = message;
  const next = run?.id === id ? run : { id, experts, points, picture: null, steps: [] };
  next.steps[message.step] = decodeStep(message, experts.length);
  // A page opened halfway has missed the first steps.
  for (let i = 0; i < message.step; i++) next.steps[i] ??= {};
  return next;
}

/** Mean of rows of numbers, or null where there are none. */
export function meanRow(rows) {
  if (!rows.length) return null;
  return rows[0].map((_, column) => rows.reduce((sum, row) => sum + row[column], 0) / rows.length);
}

/** Each step's mean share over its fusion points, or over one: [step] of [expert], null where nothing was fused. */
export function sharesBySteps(run, side, point = null) {
  return run.steps.map((step) => {
    const found = step[side];
    if (!found) return null;
    return meanRow(found.shares.filter((_, row) => point === null || found.points[row] === point));
  });
}

/** Indices of the fusion points at which anything was fused, in order. */
export function fusedPoints(run) {
  const all = run.steps.flatMap((step) => ["prompt", "negative"].flatMap((side) => step[side]?.points ?? []));
  return [...new Set(all)].sort((a, b) => a - b);
}

/** Each fusion point's mean share over the steps, or of one step: [point] of [expert], null where nothing was fused. */
export function sharesByPoints(run, side, step = null) {
  const steps = step === null ? run.steps : [run.steps[step]];
  return fusedPoints(run).map((point) =>
    meanRow(
      steps.flatMap((each) => {
        const row = each?.[side]?.points.indexOf(point) ?? -1;
        return row < 0 ? [] : [each[side].shares[row]];
      }),
    ),
  );
}
