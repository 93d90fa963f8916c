// The picture with the maps over it.

import { colourOf } from "../colours.mjs";
import { fitCanvas, themeColour } from "../dom.mjs";
import { MAP, overlay } from "./maps.mjs";

/** Where the picture lies in a stage of this size: as large as fits, in its own proportions. */
export function pictureBox({ width, height }, { picture, run, side }) {
  const ratio = picture ? picture.width / picture.height : mapRatio(run, side);
  const wide = Math.min(width, height * ratio);
  const tall = wide / ratio;
  return { x: (width - wide) / 2, y: (height - tall) / 2, width: wide, height: tall };
}

function mapRatio(run, side) {
  for (const step of run?.steps ?? []) for (const { h, w } of step[side]?.maps.values() ?? []) return w / h;
  return 1;
}

/** Paints what a viewer has chosen onto its canvas. */
export function paintPicture(canvas, size, view, maps) {
  const context = fitCanvas(canvas, size.width, size.height);
  paint(context, pictureBox(size, view), view, maps, themeColour(canvas, "--comfy-input-bg", "#333"));
}

export function paint(context, box, { picture, opacities, full, run }, maps, ground) {
  const { x, y, width, height } = box;
  const colours = run.experts.map((_, index) => colourOf(index));
  const pixels = maps && overlay(maps, colours, opacities, full);
  const covered = pixels?.some((value, i) => i % 4 === 3 && value > 0);
  context.fillStyle = ground;
  context.fillRect(x, y, width, height);
  if (picture) {
    // In light grey below the maps, so that every colour seen is an expert's, and is clear over dark places, too.
    context.filter = covered ? "grayscale(1) contrast(0.6) brightness(1.3)" : "none";
    context.drawImage(picture, x, y, width, height);
    context.filter = "none";
  }
  if (!covered) return;
  const layer = document.createElement("canvas");
  Object.assign(layer, { width: MAP, height: MAP });
  layer.getContext("2d").putImageData(new ImageData(pixels, MAP, MAP), 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(layer, x, y, width, height);
}
