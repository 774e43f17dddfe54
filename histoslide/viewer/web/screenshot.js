// What is seen, as a PNG with scale bar and a line that says what it is.

import { drawScale } from "./scale.js";

export async function saveScreenshot(stage, caption, name) {
  stage.draw();
  const canvas = stage.picture();
  const ratio = canvas.width / stage.view.width;
  const context = canvas.getContext("2d");
  drawScale(context, stage.view.mpp, ratio);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const bottom = canvas.height / ratio;
  context.fillStyle = "rgb(255 255 255 / 85%)";
  context.fillRect(0, bottom - 26, canvas.width / ratio, 26);
  context.fillStyle = "#000";
  context.font = "12px system-ui, 'Liberation Sans', sans-serif";
  context.fillText(caption, 10, bottom - 9, canvas.width / ratio - 20);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
