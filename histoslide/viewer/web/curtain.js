// The border between two heatmaps: dragged by pointer, moved by arrow keys.

const STEP = 0.02;

export class Curtain {
  constructor(element, onMove) {
    this.element = element;
    this.split = 0.5;
    this.onMove = onMove;
    element.addEventListener("pointerdown", (event) => element.setPointerCapture(event.pointerId));
    element.addEventListener("pointermove", (event) => {
      if (!element.hasPointerCapture(event.pointerId)) return;
      const box = element.parentElement.getBoundingClientRect();
      this.move((event.clientX - box.left) / box.width);
    });
    element.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -STEP, ArrowRight: STEP }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      this.move(this.split + step);
    });
  }

  move(split) {
    this.split = Math.min(1, Math.max(0, split));
    this.element.style.left = `${this.split * 100}%`;
    this.element.setAttribute("aria-valuenow", String(Math.round(this.split * 100)));
    this.onMove();
  }
}
