// What is known of a training run, from the messages so far.

const MEASURES = ["loss", "held_out"];

/** The progress after one more message of "afa.training". A new run starts anew. */
export function advance(progress, message) {
  const same = progress && progress.run === message.run;
  const next = same ? progress : { run: message.run, curve: [], samples: [], shares: null, rivals: {} };
  const { state, step, steps, experts, seconds_per_step, sample } = message;
  Object.assign(next, { state, step, steps, experts });
  if (seconds_per_step) next.secondsPerStep = seconds_per_step;
  if (message.message) next.message = message.message;
  if (message.shares) next.shares = message.shares;
  if (message.rivals) next.rivals = message.rivals;
  if (sample) next.samples = [...next.samples, { step, sample }].slice(-4);
  if (MEASURES.some((name) => Number.isFinite(message[name]))) {
    next.curve.push({ step, ...pick(message) });
  }
  return next;
}

/** The progress of a snapshot of GET /afa/training. */
export function restored(snapshot) {
  const { history, samples, ...message } = snapshot;
  const progress = advance(null, { ...message, ...Object.fromEntries(MEASURES.map((name) => [name, null])) });
  progress.samples = samples;
  progress.curve = history.map(([step, loss, held_out]) => ({ step, ...pick({ loss, held_out }) }));
  return progress;
}

function pick(values) {
  return Object.fromEntries(MEASURES.filter((name) => Number.isFinite(values[name])).map((name) => [name, values[name]]));
}

/** [[step, value]] of one measure. */
export function series(progress, name) {
  return progress.curve.filter((row) => name in row).map((row) => [row.step, row[name]]);
}

/** The latest value of a measure, or NaN. */
export function latest(progress, name) {
  return series(progress, name).at(-1)?.[1] ?? NaN;
}

/** A noisy series made readable: an exponential mean that forgets over about `span` values. */
export function smoothed(points, span = 20) {
  const keep = 1 - 1 / span;
  let [mean, weight] = [0, 0];
  return points.map(([x, y]) => {
    mean = keep * mean + (1 - keep) * y;
    weight = keep * weight + (1 - keep);
    return [x, mean / weight];
  });
}

/** Seconds until the last step, or null. */
export function secondsLeft({ state, step, steps, secondsPerStep }) {
  return state !== "training" || !secondsPerStep ? null : (steps - step) * secondsPerStep;
}

/** A time as a person says it: "45 s", "12 min", "3 h 20 min". */
export function spoken(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
