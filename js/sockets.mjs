// Which expert sockets a node shows. Names stay fixed (model_1 ... model_8): only how many are shown changes.

/** How many of each are always shown. */
const LEAST = { model: 2, clip: 2, aggregator: 1 };

/** The number in a socket's name, such as 3 of "model_3"; 0 for any other socket. */
export function numberOf(name, prefix) {
  const match = /^(.+)_([1-9]\d*)$/.exec(name);
  return match && match[1] === prefix ? Number(match[2]) : 0;
}

/** How many sockets to show: one more than the last connected, at least what the prefix asks for, at most all there are. */
export function shown(connected, most, prefix = "model") {
  return Math.min(most, Math.max(LEAST[prefix], connected.lastIndexOf(true) + 2));
}

/** Moves [from, to] that bring connected sockets together at the front, in their order. */
export function closingMoves(connected) {
  const moves = [];
  let free = 0;
  connected.forEach((isConnected, index) => {
    if (!isConnected) return;
    if (index !== free) moves.push([index, free]);
    free += 1;
  });
  return moves;
}
