// Heat maps: the maps that were chosen, averaged, and laid over the picture.

import { rgb } from "../colours.mjs";

export const MAP = 32; // side at which maps of different sizes are averaged

/**
 * The shares by position of one step (null: all) and one fusion point (null: all), averaged:
 * [expert] of Float32Array(MAP * MAP). null where nothing was fused.
 */
export function meanMaps(run, side, step, point) {
  const steps = step === null ? run.steps : [run.steps[step]];
  const sum = run.experts.map(() => new Float32Array(MAP * MAP));
  let count = 0;
  for (const each of steps) {
    const found = each?.[side];
    found?.points.forEach((index, row) => {
      if (point !== null && index !== point) return;
      count += 1;
      const map = found.maps.get(index);
      sum.forEach((total, expert) => {
        if (map) addResized(total, map.shares[expert], map.h, map.w);
        else for (let i = 0; i < total.length; i++) total[i] += found.shares[row][expert];
      });
    });
  }
  if (!count) return null;
  for (const total of sum) for (let i = 0; i < total.length; i++) total[i] /= count;
  return sum;
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
 * RGBA bytes of MAP x MAP to lay over the picture: every expert's colour by its share, to the power of `contrast`,
 * times its opacity. Where all opacities are 0 nothing covers the picture.
 */
export function overlay(maps, colours, opacities, contrast = 1) {
  const out = new Uint8ClampedArray(MAP * MAP * 4);
  const tones = colours.map(rgb);
  for (let i = 0; i < MAP * MAP; i++) {
    const raised = maps.map((map) => Math.max(map[i], 0) ** contrast);
    const total = raised.reduce((a, b) => a + b, 0) || 1;
    let [red, green, blue, alpha] = [0, 0, 0, 0];
    raised.forEach((value, expert) => {
      const weight = (value / total) * opacities[expert];
      red += weight * tones[expert][0];
      green += weight * tones[expert][1];
      blue += weight * tones[expert][2];
      alpha += weight;
    });
    const visible = alpha || 1;
    out.set([red / visible, green / visible, blue / visible, Math.min(alpha, 1) * 255], i * 4);
  }
  return out;
}
