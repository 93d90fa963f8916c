// One colour an expert, distinct under every kind of colour vision (Okabe and Ito); those of afa_core/plots.py.

export const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#666666"];

export function colourOf(index) {
  return COLOURS[index % COLOURS.length];
}

/** [red, green, blue] in 0..255 of "#rrggbb". */
export function rgb(colour) {
  return [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
}

/** Black or white, whichever is read better on this colour. */
export function inkOn(colour) {
  const [red, green, blue] = rgb(colour).map((value) => (value / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? "#000" : "#fff";
}
