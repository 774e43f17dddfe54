// Drawing an outline: by clicks from corner to corner, by dragging freely, or by keys, which put a
// corner at the cross in the middle of the view.

import { RIM, SELECTED } from "./look.js";

const APART_PX = 3;
const CLOSE_PX = 12;

export class Pen {
  /** `layer` lies over the slide and takes its pointer; `onEnd(ring)` gets a closed outline. */
  constructor(stage, layer, { onEnd, onChange }) {
    this.stage = stage;
    this.layer = layer;
    this.onEnd = onEnd;
    this.onChange = onChange;
    this.points = null;
    this.pointer = null;
    this.stroke = null;
    stage.viewer.canvas.append(layer);
    layer.addEventListener("pointerdown", (event) => this.#down(event));
    layer.addEventListener("pointermove", (event) => this.#move(event));
    layer.addEventListener("pointerup", (event) => this.#up(event));
    layer.addEventListener("pointercancel", () => (this.stroke = null));
    layer.addEventListener("pointerleave", () => this.#hover(null));
    layer.addEventListener("dblclick", () => this.close());
    // The wheel reaches the slide below; whatever else the pointer does is the pen's.
    for (const name of ["pointerdown", "pointerup", "pointermove", "click", "dblclick"]) {
      layer.addEventListener(name, (event) => event.stopPropagation());
    }
  }

  get active() {
    return this.points !== null;
  }

  start() {
    this.points = [];
    this.#show();
  }

  cancel() {
    this.points = null;
    this.stroke = null;
    this.#show();
  }

  /** A corner in the middle of the view. */
  addAtCross() {
    const { view } = this.stage;
    this.#add([view.x + view.width / view.scale / 2, view.y + view.height / view.scale / 2]);
  }

  takeBack() {
    this.points?.pop();
    this.onChange();
  }

  close() {
    if (!this.active) return;
    const ring = this.points.map(([x, y]) => [round(x), round(y)]);
    if (ring.length < 3) return;
    this.points = null;
    this.#show();
    this.onEnd(ring);
  }

  draw(context, view) {
    if (!this.active) return;
    const at = ([x, y]) => [(x - view.x) * view.scale, (y - view.y) * view.scale];
    const [middleX, middleY] = [view.width / 2, view.height / 2];
    context.save();
    context.lineJoin = "round";
    const path = new Path2D();
    const points = this.points.map(at);
    points.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    if (this.pointer && points.length && !this.stroke) path.lineTo(this.pointer.x, this.pointer.y);
    const cross = new Path2D(`M${middleX - 9} ${middleY}h18M${middleX} ${middleY - 9}v18`);
    for (const [colour, width] of [[RIM, 4], [SELECTED, 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.stroke(path);
      context.stroke(cross);
    }
    points.forEach(([x, y], i) => {
      if (this.stroke && i) return;
      context.beginPath();
      context.arc(x, y, i ? 3 : 5, 0, 2 * Math.PI);
      context.fillStyle = SELECTED;
      context.fill();
      context.strokeStyle = RIM;
      context.lineWidth = 1;
      context.stroke();
    });
    context.restore();
  }

  #down(event) {
    if (!this.active || !event.isPrimary || event.button !== 0) return;
    this.layer.setPointerCapture(event.pointerId);
    this.stroke = { from: this.#place(event), drawn: 0 };
  }

  #move(event) {
    const place = this.#place(event);
    this.#hover(event.pointerType === "touch" ? null : place);
    if (!this.active || !this.stroke || !event.isPrimary) return;
    if (!this.stroke.drawn) {
      if (distance(place, this.stroke.from) < APART_PX) return;
      this.#addPlace(this.stroke.from);
      this.stroke.drawn = 1;
    }
    if (distance(place, this.#onScreen(this.points.at(-1))) >= APART_PX) {
      this.#addPlace(place);
      this.stroke.drawn += 1;
    }
  }

  #up(event) {
    if (!this.active || !this.stroke || !event.isPrimary) return;
    const { drawn, from } = this.stroke;
    this.stroke = null;
    if (drawn) {
      // A stroke by hand is the whole outline, unless it goes on from corners.
      if (this.points.length - drawn <= 1 || this.#nearStart(this.#place(event))) this.close();
      else this.onChange();
      return;
    }
    if (this.points.length > 2 && this.#nearStart(from)) this.close();
    else if (!this.points.length || distance(from, this.#onScreen(this.points.at(-1))) >= APART_PX) this.#addPlace(from);
  }

  #hover(place) {
    this.pointer = place;
    if (this.active) this.onChange();
  }

  #nearStart(place) {
    return distance(place, this.#onScreen(this.points[0])) <= CLOSE_PX;
  }

  #addPlace({ x, y }) {
    const { view } = this.stage;
    this.#add([view.x + x / view.scale, view.y + y / view.scale]);
  }

  #add([x, y]) {
    if (!this.active) return;
    const [width, height] = this.stage.slide.size_l0;
    this.points.push([Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)]);
    this.onChange();
  }

  #onScreen([x, y]) {
    const { view } = this.stage;
    return { x: (x - view.x) * view.scale, y: (y - view.y) * view.scale };
  }

  #place(event) {
    const box = this.layer.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  #show() {
    this.layer.hidden = !this.active;
    this.onChange();
  }
}

const distance = (one, other) => Math.hypot(one.x - other.x, one.y - other.y);
const round = (value) => Math.round(value * 100) / 100;
