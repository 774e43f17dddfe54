// Regions that were drawn, and foci that were judged and are not found any more: over the slide, and
// as a list.

import { areaOf } from "./review.js";
import { outline } from "./foci.js";
import { RIM, SELECTED } from "./look.js";
import { chooseIn, drawLabels, onSlide } from "./marks.js";
import { area } from "./quantities.js";

export class Regions {
  /** `on` has `pick(region)`, `reclass(region, name)` and `remove(region)`. */
  constructor(list, mm2PerPixel, on) {
    this.list = list;
    this.mm2 = mm2PerPixel;
    this.on = on;
    this.all = [];
    this.current = null;
  }

  /** `objects` of the review; `classes` on offer, each with `name` and `colour`. */
  show(objects, classes) {
    const known = new Map(this.all.map((region) => [region.id, region]));
    this.colours = new Map(classes.map(({ name, colour }) => [name, colour]));
    this.all = objects.map((object, i) => {
      const before = known.get(object.id);
      const path = before?.polygons_l0 === object.polygons_l0 ? before.path : outline(object.polygons_l0.flat());
      return { ...object, path, label: String.fromCharCode(65 + (i % 26)) + (i >= 26 ? Math.floor(i / 26) : "") };
    });
    if (!this.all.some(({ id }) => id === this.current)) this.current = null;
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset : null;
    this.list.replaceChildren(...this.all.map((region) => this.#item(region, classes)));
    if (focused?.part) this.list.querySelector(`[data-id="${CSS.escape(focused.id)}"][data-part=${focused.part}]`)?.focus();
  }

  get chosen() {
    return this.all.find(({ id }) => id === this.current) ?? null;
  }

  select(region) {
    this.current = region?.id ?? null;
    chooseIn(this.list.querySelectorAll("[data-part=pick]"), ({ dataset }) => dataset.id === this.current);
  }

  /** The smallest region around a level-0 point. */
  at(x, y) {
    const context = document.createElement("canvas").getContext("2d");
    const hit = this.all.filter(({ path }) => context.isPointInPath(path, x, y, "evenodd"));
    return hit.sort((one, other) => areaOf(one.polygons_l0) - areaOf(other.polygons_l0))[0] ?? null;
  }

  draw(context, view) {
    onSlide(context, view, () => {
      for (const region of this.all) this.#drawOutline(context, view, region);
    });
    const labels = this.all.map((region) => ({
      at: region.polygons_l0[0][0].reduce((high, point) => (point[1] < high[1] ? point : high)),
      text: `${region.label} ${region.class_name ?? "no class"}`,
      chosen: region.id === this.current,
      edge: `rgb(${this.#colour(region)})`,
    }));
    drawLabels(context, view, labels);
  }

  #colour(region) {
    return (this.colours.get(region.class_name) ?? [90, 90, 90]).join(" ");
  }

  #drawOutline(context, view, region) {
    const colour = this.#colour(region);
    const chosen = region.id === this.current;
    context.fillStyle = `rgb(${colour} / ${chosen ? 26 : 14}%)`;
    context.fill(region.path, "evenodd");
    for (const [stroke, width] of [...(chosen ? [[RIM, 9]] : []), [SELECTED, chosen ? 6.5 : 4], [`rgb(${colour})`, 2.2]]) {
      context.strokeStyle = stroke;
      context.lineWidth = width / view.scale;
      context.stroke(region.path);
    }
  }

  #item(region, classes) {
    const item = document.createElement("li");
    const name = `region ${region.label}`;
    const pick = part("button", "pick", region);
    pick.type = "button";
    const mm2 = areaOf(region.polygons_l0) * this.mm2;
    pick.textContent = `${region.label}  ${area(mm2)}`;
    pick.setAttribute("aria-label", `Show ${name}, ${region.class_name ?? "no class"}, ${area(mm2)}`);
    pick.setAttribute("aria-current", String(region.id === this.current));
    pick.addEventListener("click", () => this.on.pick(region));
    const choice = part("select", "class", region);
    choice.setAttribute("aria-label", `Class of ${name}`);
    if (region.class_name === null) choice.append(new Option("no class", ""));
    choice.append(...classes.map((it) => new Option(it.name, it.name)));
    choice.value = region.class_name ?? "";
    choice.addEventListener("change", () => this.on.reclass(region, choice.value));
    const remove = part("button", "remove", region);
    remove.type = "button";
    remove.textContent = "×";
    remove.title = "Delete (Del)";
    remove.setAttribute("aria-label", `Delete ${name}`);
    remove.addEventListener("click", () => this.on.remove(region));
    item.append(pick, choice, remove);
    return item;
  }
}

function part(tag, name, region) {
  const element = document.createElement(tag);
  element.dataset.part = name;
  element.dataset.id = region.id;
  return element;
}
