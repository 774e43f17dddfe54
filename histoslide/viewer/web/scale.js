// Scale bar and magnification.

import { lengthText, magnificationText, roundLength } from "./lengths.js";

const MOST_PX = 160;

export function showScale(elements, mpp) {
  const length = roundLength(MOST_PX * mpp);
  elements.bar.style.width = `${length / mpp}px`;
  elements.text.textContent = lengthText(length);
  elements.magnification.textContent = magnificationText(mpp);
  elements.magnification.title = `${mpp.toPrecision(3)} µm a screen pixel`;
}

/** The same, drawn into a picture. `ratio` is pixels of the picture a screen pixel. */
export function drawScale(context, mpp, ratio) {
  const length = roundLength(MOST_PX * mpp);
  const width = length / mpp;
  const bottom = context.canvas.height / ratio;
  context.save();
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = "rgb(255 255 255 / 85%)";
  context.fillRect(8, bottom - 76, Math.max(width, 130) + 20, 38);
  context.fillStyle = "#000";
  context.fillRect(18, bottom - 48, width, 4);
  context.font = "13px system-ui, 'Liberation Sans', sans-serif";
  context.fillText(`${lengthText(length)}   ${magnificationText(mpp)}`, 18, bottom - 55);
  context.restore();
}
