// The blind choice: which pair comes next, and what the choices so far say. Pure, so that it can be tested.
// A comparison has methods [{key, name}], seeds and a prompt. A choice is {prompt, seed, methods: [key, key], winner}; the
// winner is null where there is no difference. Choices of other prompts count as well.

/** All pairs of methods at all seeds that were not shown yet. */
function pairsLeft({ methods, seeds, prompt }, choices) {
  const id = (pair) => JSON.stringify([pair.prompt, pair.seed, ...[...pair.methods].sort()]);
  const done = new Set(choices.map(id));
  const keys = methods.map(({ key }) => key);
  const pairs = keys.flatMap((a, i) => keys.slice(i + 1).flatMap((b) => seeds.map((seed) => ({ prompt, seed, methods: [a, b] }))));
  return pairs.filter((pair) => !done.has(id(pair)));
}

/** {done, total}: pairs of this comparison. */
export function progress(comparison, choices) {
  const total = pairsLeft(comparison, []).length;
  return { done: total - pairsLeft(comparison, choices).length, total };
}

/** The next pair, of those whose methods were shown least so far, its sides by chance; null when all were shown. */
export function nextPair(comparison, choices, random = Math.random) {
  const left = pairsLeft(comparison, choices);
  if (!left.length) return null;
  const shown = new Map(comparison.methods.map(({ key }) => [key, 0]));
  for (const { methods } of choices) for (const key of methods) shown.set(key, (shown.get(key) ?? 0) + 1);
  const times = ({ methods: [a, b] }) => shown.get(a) + shown.get(b);
  const least = Math.min(...left.map(times));
  const rarest = left.filter((pair) => times(pair) === least);
  const pair = rarest[Math.floor(random() * rarest.length)];
  return random() < 0.5 ? pair : { ...pair, methods: [...pair.methods].reverse() };
}

/** Of a method {shown, rate, low, high}: no difference is half a win; the interval is Wilson's, of 95 %. */
export function resultOf(key, choices) {
  const own = choices.filter(({ methods }) => methods.includes(key));
  const wins = own.reduce((sum, { winner }) => sum + (winner === null ? 0.5 : Number(winner === key)), 0);
  const shown = own.length;
  if (!shown) return { shown, rate: NaN, low: 0, high: 1 };
  const [rate, z] = [wins / shown, 1.96];
  const middle = (rate + z ** 2 / (2 * shown)) / (1 + z ** 2 / shown);
  const half = (z * Math.sqrt((rate * (1 - rate)) / shown + z ** 2 / (4 * shown ** 2))) / (1 + z ** 2 / shown);
  return { shown, rate, low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}

/** The choices of two lists, each once. */
export function together(kept, own) {
  return [...new Map([...kept, ...own].map((choice) => [JSON.stringify(choice), choice])).values()];
}

/** Hands everything on to `send` in order, each once the one before has been answered: sent at once, an older one may come last. */
export function inOrder(send) {
  let last = Promise.resolve();
  return (values) => (last = last.then(() => send(values)));
}

/** A result as text, such as "62 % (38 to 81) of 13". */
export function spokenResult({ shown, rate, low, high }) {
  const percent = (value) => Math.round(100 * value);
  return shown ? `${percent(rate)} % (${percent(low)} to ${percent(high)}) of ${shown}` : "-";
}

/** The table {columns, rows} of a comparison, with a column for the choices once there are any. */
export function withResults({ methods, table: { columns, rows } }, choices) {
  if (!choices.length) return { columns, rows };
  const results = methods.map(({ key }) => spokenResult(resultOf(key, choices)));
  return { columns: [...columns, "chosen blind"], rows: rows.map((row, i) => [...row, results[i]]) };
}

/** The report as Markdown. */
export function reportText(comparison, choices) {
  const { columns, rows } = withResults(comparison, choices);
  const lines = [columns, columns.map((_, i) => (i ? "---:" : "---")), ...rows].map((cells) => `| ${cells.join(" | ")} |`);
  return [`Prompt: ${comparison.prompt}`, `Seeds: ${comparison.seeds.join(", ")}`, "", ...lines, ""].join("\n");
}
