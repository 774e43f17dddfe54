// The page of one slide: reads the link, loads the heatmap, and ties the controls together.

import { getJson, heatAddress } from "./api.js";
import { Controls } from "./controls.js";
import { Curtain } from "./curtain.js";
import { showFacts } from "./facts.js";
import { Foci, spoken } from "./foci.js";
import { FociSettings } from "./foci-settings.js";
import { HeatLayer, paintHeat, paintPending, paintStatus, paintTissue, paintUnreadable } from "./heat-layer.js";
import { bindKeys } from "./keys.js";
import { readHash, writeHash } from "./link.js";
import { threshold } from "./quantities.js";
import { ReviewPanel } from "./review-panel.js";
import { Readout } from "./readout.js";
import { showScale } from "./scale.js";
import { saveScreenshot } from "./screenshot.js";
import { Stage } from "./stage.js";

const POLL_MS = 2000;
const RARE_POLL_MS = 10000;
const LINK_MS = 300;
const STEP = 0.05;
const OBJECTIVES = [5, 10, 20, 40];

const byId = (id) => document.getElementById(id);
const heatmapOf = (revision) => revision.split("-")[0];

class Page {
  async start() {
    const wanted = readHash(location.hash);
    const { heatmaps } = await getJson("api/heatmaps");
    const shown = heatmaps.filter((row) => row.key !== null);
    if (!shown.length) throw new Error("there is no heatmap to show");
    byId("to-index").hidden = heatmaps.length < 2;
    const key = shown.find((row) => row.key === wanted.heat)?.key ?? shown[0].key;
    this.facts = await getJson(heatAddress(key));
    this.maps = await getJson("api/colour-maps");
    this.heat = new HeatLayer(this.facts, () => this.stage.redraw());
    this.other = null;
    this.foci = new Foci(
      { list: byId("foci"), count: byId("foci-count"), hintText: byId("foci-hint"), buttons: byId("foci-buttons") },
      (focus) => this.visit(focus),
    );
    this.curtain = new Curtain(byId("curtain"), () => this.#changed());
    this.controls = new Controls(this.facts, Object.keys(this.maps), wanted, () => this.restyle());
    this.settings = new FociSettings(this.controls, wanted, () => this.restyle());
    this.stage = new Stage(
      { osd: byId("osd"), overlay: byId("overlay") },
      { paint: (context, view) => this.paint(context, view), onMove: () => this.#changed() },
    );
    this.readout = new Readout(byId("readout"), this);
    this.review = this.facts.review === null ? null : new ReviewPanel(this);
    this.#describe();
    await this.stage.open(key, this.facts.slide);
    this.#restore(wanted);
    this.#bind();
    await this.restyle();
    await this.fociAsked;
    await this.review?.start();
    if (wanted.focus) this.#mark(this.foci.byNumber(wanted.focus));
    this.#follow();
    this.#changed();
    document.body.dataset.ready = "1";
  }

  paint(context, view) {
    const { controls } = this;
    const half = view.width * this.curtain.split;
    const parts = this.other
      ? [[this.heat, 0, half], [this.other, half, view.width - half]]
      : [[this.heat, 0, view.width]];
    for (const [layer, left, width] of parts) {
      context.save();
      context.beginPath();
      context.rect(left, 0, width, view.height);
      context.clip();
      this.#clipToSlide(context, view);
      if (!this.facts.slide.present) layer.draw(context, view, paintTissue);
      if (controls.showStatus) layer.draw(context, view, paintStatus);
      if (controls.showHeat) {
        context.globalAlpha = controls.opacity;
        layer.draw(context, view, paintHeat);
        context.globalAlpha = 1;
        layer.draw(context, view, paintPending);
        layer.draw(context, view, paintUnreadable);
      }
      context.restore();
    }
    if (controls.showFoci) this.foci.draw(context, view);
    this.review?.draw(context, view);
    this.readout.update(view);
  }

  /** The last cells of a heatmap reach beyond the slide, where there is nothing. */
  #clipToSlide(context, view) {
    const [width, height] = this.facts.slide.size_l0;
    context.beginPath();
    context.rect(-view.x * view.scale, -view.y * view.scale, width * view.scale, height * view.scale);
    context.clip();
  }

  /** Take over what the controls say. */
  async restyle() {
    const { controls } = this;
    const lut = this.maps[controls.map];
    controls.showLegend(lut);
    const channel = this.facts.classes.indexOf(controls.className);
    this.heat.setChannel(channel);
    for (const layer of [this.heat, this.other]) layer?.setStyle(lut, controls.threshold);
    if (this.fociAddress !== this.#addressOfFoci()) this.#loadFoci();
    await this.#compareWith(controls.other);
    // Two heatmaps of one class each show tumour, whatever their models call it.
    this.other?.setChannel(Math.max(0, this.other.facts.classes.indexOf(controls.className)));
    for (const layer of [this.heat, this.other]) layer?.setStyle(lut, controls.threshold);
    this.#changed();
  }

  /** Fly to a focus and say what it is. */
  visit(focus, before = "") {
    if (!focus) return;
    this.#mark(focus);
    this.stage.flyTo(focus.box_l0);
    this.say([before, `${spoken(focus)}, ${focus.number} of ${this.foci.all.length}`].filter(Boolean).join(". "));
  }

  /** For people who do not see the page. */
  say(text) {
    byId("announcer").textContent = text;
  }

  async copyLink() {
    this.#writeLink();
    try {
      await navigator.clipboard.writeText(location.href);
      byId("announcer").textContent = "Link copied";
      byId("copy-link").textContent = "Copied";
    } catch {
      byId("copy-link").textContent = "See the address bar";
    }
    setTimeout(() => (byId("copy-link").textContent = "Copy link"), 2000);
  }

  screenshot() {
    const { slide, model } = this.facts;
    const shown = this.other ? `${this.facts.name} | ${this.other.facts.name}` : this.facts.name;
    const what = `P(${this.controls.className}) ≥ ${threshold(this.controls.threshold)}`;
    const caption = `${slide.name} · ${shown} · ${model} · ${what} · research use only`;
    return saveScreenshot(this.stage, caption, `${this.facts.key}.png`);
  }

  #mark(focus) {
    this.foci.select(focus);
    this.review?.refresh();
    this.#changed();
  }

  #changed() {
    if (!this.stage?.view) return;
    this.stage.redraw();
    showScale(
      { bar: byId("scale-bar"), text: byId("scale-text"), magnification: byId("magnification") },
      this.stage.view.mpp,
    );
    document.body.dataset.moving = "1"; // until the address has caught up
    clearTimeout(this.linkTimer);
    this.linkTimer = setTimeout(() => this.#writeLink(), LINK_MS);
  }

  #writeLink() {
    const { view } = this.stage;
    const state = {
      heat: this.facts.key,
      class: this.facts.classes.length > 1 ? this.controls.className : null,
      map: this.controls.map,
      with: this.other?.key,
      split: this.curtain.split,
      x: view.x + view.width / view.scale / 2,
      y: view.y + view.height / view.scale / 2,
      mpp: view.mpp,
      threshold: this.controls.threshold,
      opacity: this.controls.opacity,
      heatmap: this.controls.showHeat,
      foci: this.controls.showFoci,
      status: this.controls.showStatus,
      focus: this.foci.current?.number,
      ...this.settings.own,
    };
    history.replaceState(null, "", writeHash(state));
    delete document.body.dataset.moving;
  }

  #restore(wanted) {
    this.curtain.move(wanted.split ?? 0.5);
    if (wanted.mpp > 0 && Number.isFinite(wanted.x) && Number.isFinite(wanted.y)) {
      this.stage.lookAt(wanted.x, wanted.y, wanted.mpp, { immediately: true });
    }
  }

  async #compareWith(key) {
    if ((this.other?.key ?? "") === key) return;
    this.other = key ? new HeatLayer(await getJson(heatAddress(key)), () => this.stage.redraw()) : null;
    byId("curtain").hidden = !this.other;
    byId("curtain-left").textContent = this.facts.name;
    byId("curtain-right").textContent = this.other?.facts.name ?? "";
  }

  #addressOfFoci() {
    return `${heatAddress(this.facts.key)}/foci/${Math.max(0, this.heat.channel)}?${this.settings.query}`;
  }

  /** Ask for the foci as the controls have it now. One answer is awaited at a time, however fast a slider moves. */
  async #loadFoci() {
    this.fociAddress = this.#addressOfFoci();
    this.fociWanted = (this.fociWanted ?? 0) + 1;
    this.foci.expect();
    this.fociAsked ??= this.#askForFoci().finally(() => (this.fociAsked = null));
    await this.fociAsked;
  }

  async #askForFoci() {
    let wanted;
    let found;
    do {
      wanted = this.fociWanted;
      this.trouble = null;
      try {
        found = await getJson(this.fociAddress);
      } catch (error) {
        found = null;
        this.trouble = error.message;
      }
    } while (wanted !== this.fociWanted);
    this.foci.show(found ?? { lesions: [], notes: [] });
    if (found) this.settings.show(found);
    this.review?.refresh();
    this.#notice();
    this.#changed();
  }

  #describe() {
    document.title = `${this.facts.slide.name} – histoslide`;
    byId("title").textContent = this.facts.slide.name;
    byId("subtitle").textContent = `${this.facts.name} · ${this.facts.model}`;
    showFacts(byId("facts"), byId("warnings"), this.facts);
    this.#notice();
    this.#showProgress(this.facts.state);
  }

  /** What must be known before the picture is believed. */
  #notice() {
    const { present, warning } = this.facts.slide;
    const missing = "The slide is not at hand: the heatmap is shown alone. Pass --slide to see the tissue.";
    const trouble = this.trouble && `The foci cannot be listed, and parts of the heatmap may be missing: ${this.trouble}.`;
    const notice = byId("notice");
    notice.textContent = [trouble, present ? warning : missing].filter(Boolean).join(" ");
    notice.hidden = !notice.textContent;
  }

  #showProgress(state) {
    byId("progress").hidden = state.complete;
    const share = state.decided / state.cells;
    byId("progress-bar").value = share;
    byId("progress-text").textContent = `${Math.floor(share * 100)} % scored, filling in`;
  }

  /** Show what has come while the heatmap is being written; begin anew when it was replaced. */
  async #follow() {
    for (;;) {
      const { complete, revision } = this.facts.state;
      await new Promise((resolve) => setTimeout(resolve, complete ? RARE_POLL_MS : POLL_MS));
      let state;
      try {
        state = await getJson(`${heatAddress(this.facts.key)}/state`);
      } catch {
        continue; // the server or the disk is away: try again
      }
      if (state.revision === revision) continue;
      if (complete || heatmapOf(state.revision) !== heatmapOf(revision)) {
        location.reload(); // its cells may be others; the address keeps the view
        return;
      }
      this.heat.setRevision(state.revision);
      this.facts = { ...this.facts, state };
      if (state.complete) {
        this.facts = await getJson(heatAddress(this.facts.key));
        byId("announcer").textContent = "The heatmap is complete";
        this.#describe();
      }
      this.#showProgress(state);
      await this.#loadFoci();
      this.stage.redraw();
    }
  }

  #bind() {
    const stage = this.stage;
    const actions = {
      next: () => this.visit(this.foci.after(1)),
      previous: () => this.visit(this.foci.after(-1)),
      in: () => stage.zoomBy(1.5),
      out: () => stage.zoomBy(1 / 1.5),
      fit: () => stage.fit(),
      heat: () => this.controls.toggle("show-heat"),
      foci: () => this.controls.toggle("show-foci"),
      status: () => this.controls.toggle("show-status"),
      lower: () => this.controls.moveThreshold(-STEP),
      raise: () => this.controls.moveThreshold(STEP),
      link: () => this.copyLink(),
      screenshot: () => this.screenshot(),
      help: () => byId("help").showModal(),
    };
    bindKeys(stage.viewer, actions, this.review && (() => this.review.actions));
    const buttons = {
      "next-focus": "next", "previous-focus": "previous", "zoom-in": "in", "zoom-out": "out",
      "zoom-fit": "fit", "copy-link": "link", screenshot: "screenshot", "show-help": "help",
    };
    for (const [id, action] of Object.entries(buttons)) byId(id).addEventListener("click", actions[action]);
    for (const times of OBJECTIVES) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `${times}×`;
      button.title = `As through a ${times}× objective`;
      button.addEventListener("click", () => stage.zoomToMpp(10 / times));
      byId("presets").append(button);
    }
    byId("toggle-panel").addEventListener("click", () => {
      const hidden = document.body.classList.toggle("no-panel");
      byId("toggle-panel").setAttribute("aria-expanded", String(!hidden));
    });
    stage.viewer.addHandler("canvas-click", (event) => {
      if (!event.quick) return;
      const { view } = stage;
      const [x, y] = [view.x + event.position.x / view.scale, view.y + event.position.y / view.scale];
      const focus = this.controls.showFoci ? this.foci.at(x, y) : null;
      if (focus) this.#mark(focus);
      else this.review?.pickAt(x, y);
    });
    window.addEventListener("hashchange", () => location.reload());
  }
}

const page = new Page();
page.start().catch((error) => {
  byId("notice").hidden = false;
  byId("notice").textContent = `This cannot be shown: ${error.message}`;
});
