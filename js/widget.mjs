// An element on a node, in both renderers.

import { app } from "../../scripts/app.js";
import { withStyle } from "./dom.mjs";

/** Puts an element on a node, `height` tall at least; the node becomes `width` wide if it is new. */
export function addWidget(node, name, element, height, width) {
  withStyle(element);
  element.style.minHeight = `${height}px`;
  element.classList.add("widget-expands"); // takes the node's height in Nodes 2.0 of older front ends
  const widget = node.addDOMWidget(name, name, element, {
    serialize: false,
    hideOnZoom: false,
    margin: 8,
    getMinHeight: () => height + 16,
  });
  widget.serialize = false;
  // Without this a slider in Nodes 2.0 would drag the node along.
  for (const event of ["pointerdown", "pointermove", "pointerup"]) {
    element.addEventListener(event, (e) => e.stopPropagation());
  }
  // The classic canvas lies below its widgets, so it does not see their wheel.
  element.addEventListener(
    "wheel",
    (event) => {
      if (!globalThis.LiteGraph?.vueNodesMode) app.canvas.processMouseWheel(event);
    },
    { passive: false },
  );
  const least = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], least[1])]);
  return widget;
}
