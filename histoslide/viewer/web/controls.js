// Sliders, switches and choices of the panel.

import { OPACITY } from "./look.js";
import { threshold } from "./quantities.js";
import { fillStatusLegend } from "./status.js";

const byId = (id) => document.getElementById(id);
const SWITCHES = { "show-heat": "heatmap", "show-foci": "foci", "show-status": "status" };

export class Controls {
  /** `wanted` comes from the link; `onChange` is called after every change. */
  constructor(facts, maps, wanted, onChange) {
    this.onChange = onChange;
    this.recorded = facts.threshold;
    fill(byId("map"), maps.map((name) => [name, name]), wanted.map);
    fill(byId("class"), facts.classes.map((name) => [name, name]), wanted.class ?? facts.main_class);
    byId("class-row").hidden = facts.classes.length < 2;
    const others = facts.comparable.map(({ key, name, model }) => [key, `${name} (${model})`]);
    fill(byId("compare"), [["", "nothing"], ...others], wanted.with);
    byId("compare-row").hidden = !others.length;
    byId("threshold").value = String(wanted.threshold ?? facts.threshold);
    byId("opacity").value = String(wanted.opacity ?? OPACITY);
    for (const [id, name] of Object.entries(SWITCHES)) {
      if (name in wanted) byId(id).checked = wanted[name];
      byId(id).addEventListener("change", () => this.#changed());
    }
    for (const id of ["threshold", "opacity"]) byId(id).addEventListener("input", () => this.#changed());
    for (const id of ["map", "class", "compare"]) byId(id).addEventListener("change", () => this.#changed());
    fillStatusLegend(byId("status-legend"));
    this.#say();
  }

  /** In hundredths, but for the recorded one, which may be finer. */
  get threshold() {
    const value = byId("threshold").valueAsNumber;
    return Math.abs(value - this.recorded) < 0.004 ? this.recorded : Math.round(value * 100) / 100;
  }

  get opacity() {
    return byId("opacity").valueAsNumber;
  }

  get map() {
    return byId("map").value;
  }

  get className() {
    return byId("class").value;
  }

  get other() {
    return byId("compare").value;
  }

  get showHeat() {
    return byId("show-heat").checked;
  }

  get showFoci() {
    return byId("show-foci").checked;
  }

  get showStatus() {
    return byId("show-status").checked;
  }

  toggle(id) {
    byId(id).checked = !byId(id).checked;
    this.#changed();
  }

  moveThreshold(step) {
    this.setThreshold(this.threshold + step);
    this.onChange();
  }

  setThreshold(value) {
    byId("threshold").value = String(value);
    this.#say();
  }

  showLegend(lut) {
    const image = new ImageData(256, 1);
    lut.forEach((colour, i) => {
      const seen = i / 255 >= this.threshold ? 255 : 40;
      image.data.set([...colour, seen], i * 4);
    });
    byId("legend").getContext("2d").putImageData(image, 0, 0);
    byId("legend-label").setAttribute(
      "aria-label",
      `Colours of probabilities from 0 to 1; below ${threshold(this.threshold)} nothing is shown`,
    );
  }

  #changed() {
    this.#say();
    this.onChange();
  }

  #say() {
    byId("threshold-value").textContent = threshold(this.threshold);
    byId("opacity-value").textContent = `${Math.round(this.opacity * 100)} %`;
    byId("threshold-hint").textContent = `Coloured: cells with P(${this.className}) of ${threshold(this.threshold)} or more.`;
    byId("status-legend").hidden = !this.showStatus;
  }
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}
