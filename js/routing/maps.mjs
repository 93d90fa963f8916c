// Heat maps: the maps that were chosen, averaged, and laid over the picture.

import { rgb } from "../colours.mjs";

export const MAP = 32; // side at which maps of different sizes are averaged

/**
 * The shares by position of one step (null: all) and one fusion point (null: all), averaged:
 * [expert] of Float32Array(MAP * MAP). null where nothing was fused.
 */
export function meanMaps(run, side, step, point) {
  const steps = step === null ? run.steps : [run.steps[step]];
  const sums = new Map(); // of the maps of one size, which are resized together
  let count = 0;
  for (const each of steps) {
    const found = each?.[side];
    found?.points.forEach((index, row) => {
      if (point !== null && index !== point) return;
      count += 1;
      // A share that does not vary is a map of one place.
      const { h, w, shares } = found.maps.get(index) ?? { h: 1, w: 1, shares: found.shares[row].map((share) => [share]) };
      const size = `${h} x ${w}`;
      if (!sums.has(size)) sums.set(size, { h, w, totals: shares.map(() => new Float32Array(h * w)) });
      const { totals } = sums.get(size);
      totals.forEach((total, expert) => shares[expert].forEach((share, i) => (total[i] += share)));
    });
  }
  if (!count) return null;
  return run.experts.map((_, expert) => {
    const mean = new Float32Array(MAP * MAP);
    for (const { h, w, totals } of sums.values()) addResized(mean, totals[expert].map((total) => total / count), h, w);
    return mean;
  });
}

/** Adds a map of h x w, resized bilinearly to MAP x MAP, to `total`. */
function addResized(total, map, h, w) {
  const across = weights(w);
  const down = weights(h);
  for (let y = 0; y < MAP; y++) {
    const { low: y0, high: y1, part: v } = down[y];
    for (let x = 0; x < MAP; x++) {
      const { low: x0, high: x1, part: u } = across[x];
      const top = map[y0 * w + x0] * (1 - u) + map[y0 * w + x1] * u;
      const bottom = map[y1 * w + x0] * (1 - u) + map[y1 * w + x1] * u;
      total[y * MAP + x] += top * (1 - v) + bottom * v;
    }
  }
}

function weights(length) {
  return Array.from({ length: MAP }, (_, i) => {
    const at = Math.min(Math.max(((i + 0.5) * length) / MAP - 0.5, 0), length - 1);
    const low = Math.floor(at);
    return { low, high: Math.min(low + 1, length - 1), part: at - low };
  });
}

/**
 * How far each expert leads at place `i`, in 0..1: 0 at an even share or below, 1 at `full` and above.
 * That of afa_core/routing/panels.py.
 */
export function leads(maps, i, full) {
  const even = 1 / maps.length;
  return maps.map((map) => Math.min(Math.max((map[i] - even) / (full - even), 0), 1));
}

/** The weight at which colours are full by default: that of the clearest places, the uppermost 2 %. */
export function clearest(maps) {
  const highest = maps[0].map((_, i) => Math.max(...maps.map((map) => map[i]))).sort();
  const even = 1 / maps.length;
  // So near to an even share that it says nothing, colours stay faint.
  return Math.max(highest[Math.round(0.98 * (highest.length - 1))], even + 0.05 * (1 - even));
}

/**
 * RGBA bytes of MAP x MAP to lay over the picture: at every place the colour of the expert that leads, as strong as it
 * leads, times its opacity. Where no expert has more than an even weight nothing covers the picture.
 */
export function overlay(maps, colours, opacities, full) {
  const out = new Uint8ClampedArray(MAP * MAP * 4);
  const tones = colours.map(rgb);
  for (let i = 0; i < MAP * MAP; i++) {
    const strengths = leads(maps, i, full).map((lead, expert) => lead * opacities[expert]);
    // Colours blend, since a hard edge would look like a decision, but only where two are nearly level: a mixed colour belongs to no expert.
    const weights = strengths.map((strength) => strength ** 4);
    const total = weights.reduce((a, b) => a + b, 0) || 1;
    const mixed = [0, 1, 2].map((part) => weights.reduce((sum, weight, expert) => sum + (weight / total) * tones[expert][part], 0));
    out.set([...mixed, Math.max(...strengths) * 255], i * 4);
  }
  return out;
}
