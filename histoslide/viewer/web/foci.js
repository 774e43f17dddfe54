// The foci of a heatmap: a list that flies to each, and their outlines over the slide.

import { RIM, SELECTED } from "./look.js";
import { chooseIn, drawLabels, onSlide } from "./marks.js";
import { area, length, probability } from "./quantities.js";

const SHORT = {
  "isolated tumour cells": "isolated cells",
};

const MARKS = { accepted: "✓", rejected: "✗", open: "" };
const OUTLINES = {
  open: { colour: "#000", width: 1.6, dash: [] },
  accepted: { colour: "#c80000", width: 2.4, dash: [] },
  rejected: { colour: "#006ec8", width: 2.4, dash: [7, 5] },
};

export class Foci {
  /** `onPick` is called with a focus when it is chosen in the list. */
  constructor(elements, onPick) {
    this.elements = elements;
    this.onPick = onPick;
    this.decisionOf = null; // a function, while a review is made
    this.current = null;
    this.stale = false;
    this.show({ lesions: [], notes: [] });
  }

  /** What is listed is not what is asked for: grey until the answer comes. */
  expect() {
    this.stale = true;
    this.elements.list.classList.add("stale");
    this.elements.list.setAttribute("aria-busy", "true");
  }

  /** Take what the server found: `lesions`, longest first, and `notes`; the chosen focus stays chosen. */
  show({ lesions, notes }) {
    const before = this.current;
    this.stale = false;
    this.elements.list.classList.remove("stale");
    this.elements.list.setAttribute("aria-busy", "false");
    this.all = lesions.map((lesion) => ({
      ...lesion,
      path: outline(lesion.polygons_l0.flat()),
      top: topEdge(lesion.polygons_l0.flat()),
    }));
    this.current = null;
    const { list, count, hintText, buttons } = this.elements;
    count.textContent = this.all.length ? `(${this.all.length})` : "";
    hintText.textContent = [this.all.length ? "" : "None.", ...notes].filter(Boolean).join(" ");
    buttons.hidden = !this.all.length;
    const held = list.contains(document.activeElement);
    list.replaceChildren(...this.all.map((focus) => this.#item(focus)));
    this.showDecisions();
    const same = before && (this.all.find(({ id }) => id === before.id) ?? this.at(before.peak_x_l0, before.peak_y_l0));
    if (same) this.select(same);
    if (same && held) list.querySelector(`[data-number="${same.number}"]`).focus({ preventScroll: true });
  }

  /** Say of each focus in the list what the review says. */
  showDecisions() {
    if (!this.decisionOf) return;
    for (const button of this.elements.list.querySelectorAll("button")) {
      const focus = this.byNumber(Number(button.dataset.number));
      const decision = this.decisionOf(focus);
      button.dataset.decision = decision;
      button.querySelector(".decision").textContent = MARKS[decision];
      button.setAttribute("aria-label", `${spoken(focus)}, ${decision}`);
    }
  }

  /** The focus `step` places after the current one, around the end. */
  after(step) {
    if (!this.all.length) return null;
    const at = this.current ? this.all.indexOf(this.current) : step > 0 ? -1 : 0;
    return this.all[(at + step + this.all.length) % this.all.length];
  }

  byNumber(number) {
    return this.all.find((focus) => focus.number === number) ?? null;
  }

  select(focus) {
    this.current = focus;
    const number = focus && String(focus.number);
    chooseIn(this.elements.list.querySelectorAll("button"), ({ dataset }) => dataset.number === number);
  }

  /** The smallest focus around a level-0 point. */
  at(x, y) {
    const context = document.createElement("canvas").getContext("2d");
    const hit = this.all.filter((focus) => context.isPointInPath(focus.path, x, y, "evenodd"));
    return hit.at(-1) ?? null;
  }

  draw(context, view) {
    context.save();
    if (this.stale) context.globalAlpha = 0.5;
    onSlide(context, view, () => {
      for (const focus of this.all) this.#drawOutline(context, view, focus);
    });
    const labels = this.all.map((focus) => {
      const mark = this.decisionOf ? MARKS[this.decisionOf(focus)] : "";
      const text = mark ? `${focus.number} ${mark}` : String(focus.number);
      return { at: focus.top, text, chosen: focus === this.current, edge: "#000" };
    });
    drawLabels(context, view, labels.reverse());
    context.restore();
  }

  #drawOutline(context, view, focus) {
    const own = OUTLINES[this.decisionOf?.(focus) ?? "open"];
    const strokes = focus === this.current ? [[RIM, 6.5], [SELECTED, 3]] : [["#fff", 3.5], [own.colour, own.width]];
    for (const [colour, width] of strokes) {
      context.strokeStyle = colour;
      context.lineWidth = width / view.scale;
      // Told apart without colours too: the outline of what was rejected is broken.
      context.setLineDash(focus !== this.current && colour === "#fff" ? [] : own.dash.map((length) => length / view.scale));
      context.stroke(focus.path);
    }
  }

  #item(focus) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.number = String(focus.number);
    button.setAttribute("aria-label", spoken(focus));
    const cells = [
      ["number", String(focus.number)],
      ["decision", ""],
      ["size", length(focus.longest_diameter_um)],
      ["peak", `max. ${probability(focus.peak_probability)}`],
      ["more", `${SHORT[focus.class] ?? focus.class}, ${area(focus.area_mm2)}${focus.cut_off ? ", cut off" : ""}`],
    ];
    for (const [name, text] of cells) {
      const part = document.createElement("span");
      part.className = name;
      part.textContent = text;
      button.append(part);
    }
    button.addEventListener("click", () => this.onPick(focus));
    item.append(button);
    return item;
  }
}

/** A focus in words, for the ear. */
export function spoken(focus) {
  const parts = [
    `Focus ${focus.number}`,
    focus.class,
    `longest diameter ${length(focus.longest_diameter_um)}`,
    `area ${area(focus.area_mm2)}`,
    `highest probability ${probability(focus.peak_probability)}`,
  ];
  if (focus.cut_off) parts.push("cut off at an edge, may be larger");
  return parts.join(", ");
}

/** The middle of the uppermost edge, where the number stands. */
function topEdge(rings) {
  const points = rings.flat();
  const top = points.reduce((least, [, y]) => Math.min(least, y), Infinity);
  const along = points.filter(([, y]) => y === top).map(([x]) => x);
  const first = Math.min(...along);
  return [(first + Math.min(...along.filter((x) => x > first))) / 2, top];
}

export function outline(rings) {
  const path = new Path2D();
  for (const ring of rings) {
    ring.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  }
  return path;
}
