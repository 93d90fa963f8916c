// Making elements. Texts come from files of unknown origin, so they are set as text and never parsed.

export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** Gives the root of a widget the pack's style sheet. It lies inside it, so that nothing is put into the page of others. */
export function withStyle(root) {
  const style = element("link");
  Object.assign(style, { rel: "stylesheet", href: new URL("./afa.css", import.meta.url).href });
  root.prepend(style);
}

/** Lets the browser save a file. */
export function download(blob, name) {
  const link = element("a");
  Object.assign(link, { href: URL.createObjectURL(blob), download: name });
  link.click();
  // A browser that asks where to save reads the address later.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A labelled slider: {row, input, value}, where `value` is the element that says what is chosen. */
export function slider(label, { min = 0, max = 1, step = 1, value = 0 } = {}) {
  const row = element("label", "afa-slider");
  const input = element("input");
  Object.assign(input, { type: "range", min, max, step, value });
  const reading = element("span", "afa-reading");
  row.append(element("span", "afa-label", label), input, reading);
  return { row, input, value: reading };
}

/** The context of a canvas of this size in CSS pixels, cleared, which is drawn at the screen's resolution. */
export function fitCanvas(canvas, width, height) {
  const scale = Math.max(2, window.devicePixelRatio || 1);
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** The colour that the theme gives a CSS variable at this element. */
export function themeColour(at, name, otherwise) {
  return getComputedStyle(at).getPropertyValue(name).trim() || otherwise;
}
