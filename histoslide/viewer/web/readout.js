// What lies under the pointer, or under the middle of the view while there is none.

import { lengthText } from "./lengths.js";
import { probability } from "./quantities.js";
import { PENDING, SCORED, STATUS } from "./status.js";

export class Readout {
  /** `page` has `stage`, `facts`, `heat`, `other`, `controls` and `curtain`. */
  constructor(element, page) {
    this.element = element;
    this.page = page;
    this.pointer = null;
    const { element: target } = page.stage;
    target.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch") return;
      const box = target.getBoundingClientRect();
      this.pointer = { x: event.clientX - box.left, y: event.clientY - box.top };
      this.#refresh();
    });
    target.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.#refresh();
    });
  }

  update(view) {
    const { page } = this;
    const at = this.pointer ?? { x: view.width / 2, y: view.height / 2 };
    const x = view.x + at.x / view.scale;
    const y = view.y + at.y / view.scale;
    const [width, height] = page.facts.slide.size_l0;
    const where = this.pointer ? "" : "centre: ";
    if (x < 0 || y < 0 || x >= width || y >= height) {
      this.element.textContent = `${where}outside the slide`;
      return;
    }
    const { mpp } = page.facts.slide;
    const parts = [`${where}x ${Math.floor(x)}, y ${Math.floor(y)} px`, `${lengthText(x * mpp)}, ${lengthText(y * mpp)}`];
    parts.push(this.#cell(page.heat, x, y));
    if (page.other) parts.push(`right: ${this.#cell(page.other, x, y)}`);
    this.element.textContent = parts.join(" · ");
  }

  #refresh() {
    const { view } = this.page.stage;
    if (view) this.update(view);
  }

  #cell(layer, x, y) {
    const cell = layer.cellAt(x, y);
    if (!cell) return "no cell";
    if (cell.status === undefined) return "…";
    if (cell.status === SCORED) {
      const { first_look: first, first_look_weight: weight, model } = layer.facts;
      const twice = weight ? `${first} and ${model}` : model;
      const by = first && cell.looks ? ` by ${cell.looks > 1 ? twice : first}` : "";
      return `P(${this.page.controls.className}) ${probability(cell.value)}${by}`;
    }
    return STATUS[cell.status]?.name ?? STATUS[PENDING].name;
  }
}
