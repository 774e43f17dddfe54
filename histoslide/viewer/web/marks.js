// How foci and regions are drawn over the slide: outlines that lie on it, labels that keep their size.

import { RIM, SELECTED } from "./look.js";

/** Call `draw` where a unit of the canvas is a level-0 pixel. */
export function onSlide(context, view, draw) {
  const ratio = context.getTransform().a;
  context.save();
  context.setTransform(
    ratio * view.scale, 0, 0, ratio * view.scale,
    -view.x * view.scale * ratio, -view.y * view.scale * ratio,
  );
  context.lineJoin = "round";
  draw();
  context.restore();
}

/** Draw labels, later ones on top: each has `at` (level-0 x and y, above which it stands), `text`, `chosen` and the colour of its `edge`. */
export function drawLabels(context, view, labels) {
  context.save();
  context.font = "600 12px system-ui, 'Liberation Sans', sans-serif";
  context.textBaseline = "middle";
  context.textAlign = "center";
  for (const { at: [left, top], text, chosen, edge } of labels) {
    const x = (left - view.x) * view.scale;
    const y = (top - view.y) * view.scale - 11;
    const wide = context.measureText(text).width + 10;
    context.fillStyle = chosen ? RIM : SELECTED;
    context.strokeStyle = chosen ? SELECTED : edge;
    context.beginPath();
    context.roundRect(x - wide / 2, y - 8, wide, 16, 5);
    context.fill();
    context.stroke();
    context.fillStyle = chosen ? SELECTED : RIM;
    context.fillText(text, x, y + 0.5);
  }
  context.restore();
}

/** Say of each button of a list whether it is the chosen one, and bring that into sight. */
export function chooseIn(buttons, isChosen) {
  for (const button of buttons) {
    const chosen = isChosen(button);
    button.setAttribute("aria-current", String(chosen));
    if (chosen) button.scrollIntoView({ block: "nearest" });
  }
}
