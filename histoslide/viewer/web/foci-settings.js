// How foci are found: what the panel asks the server for, and the way back to what is recorded.
//
// A focus extends to the threshold of the heatmap; everything else is set here.

import { threshold } from "./quantities.js";

const byId = (id) => document.getElementById(id);

/** Inputs by the name that the link gives them, and the server's name. */
const FIELDS = {
  seed: ["seed", "seed_probability"],
  gap: ["join-gap", "join_gap_um"],
  smoothing: ["smoothing", "smoothing_um"],
  cells: ["min-cells", "min_cells"],
};

export class FociSettings {
  /** `wanted` comes from the link; `onChange` is called after every change. */
  constructor(controls, wanted, onChange) {
    this.controls = controls;
    this.onChange = onChange;
    this.own = {}; // what was changed, by the name in the link
    this.recorded = null;
    for (const [name, [id]] of Object.entries(FIELDS)) {
      if (name in wanted) this.own[name] = name === "cells" ? Math.round(wanted[name]) : wanted[name];
      byId(id).addEventListener("input", () => this.#take(name, byId(id)));
    }
    byId("foci-recorded").addEventListener("click", () => this.reset());
    byId("foci-settings").open = Object.keys(this.own).length > 0;
  }

  /** What is asked of the server, as the query of an address. */
  get query() {
    const asked = new URLSearchParams({ extend_probability: String(this.controls.threshold) });
    for (const [name, value] of Object.entries(this.own)) asked.set(FIELDS[name][1], String(value));
    if ("seed" in this.own) asked.set("seed_probability", String(Math.max(this.own.seed, this.controls.threshold)));
    return asked.toString();
  }

  /** Show how the foci of an answer were found. */
  show({ settings, recorded, tables }) {
    this.recorded = recorded;
    for (const [id, field] of Object.values(FIELDS)) {
      if (document.activeElement !== byId(id)) byId(id).value = String(settings[field]);
    }
    this.#say(settings.seed_probability);
    byId("foci-how").textContent = inWords(settings);
    const differ = Object.keys(recorded).some((name) => recorded[name] !== settings[name]);
    byId("foci-differ").hidden = !differ;
    const those = tables ? `Not the foci of ${tables}, which were found otherwise:` : "Not found as histoslide finds them unasked:";
    byId("foci-differ-text").textContent = differ ? `${those} ${inWords(recorded)}` : "";
  }

  /** Back to how the foci of the tables were found. */
  reset() {
    this.own = {};
    for (const [id, field] of Object.values(FIELDS)) byId(id).value = String(this.recorded[field]);
    this.controls.setThreshold(this.recorded.extend_probability);
    this.onChange();
    byId("threshold").focus(); // the button goes
  }

  #take(name, input) {
    if (!input.validity.valid || !Number.isFinite(input.valueAsNumber)) return; // still being typed
    const seed = name === "seed";
    this.own[name] = seed ? Math.max(Math.round(input.valueAsNumber * 100) / 100, this.controls.threshold) : input.valueAsNumber;
    if (seed) {
      input.value = String(this.own.seed);
      this.#say(this.own.seed);
    }
    this.onChange();
  }

  #say(seed) {
    byId("seed-value").textContent = threshold(seed);
  }
}

function inWords({ seed_probability: seed, extend_probability: extend, join_gap_um: gap, smoothing_um: smooth, min_cells: cells }) {
  const parts = [`connected cells of ${threshold(extend)} or more, at least one of ${threshold(seed)} or more`];
  parts.push(gap ? `nearer than ${gap} µm is one` : "none are joined");
  if (smooth) parts.push(`smoothed by ${smooth} µm`);
  if (cells > 1) parts.push(`of at least ${cells} cells`);
  const text = parts.join("; ");
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}
