// The part of the page where a review is made: decisions on foci, drawing, undo, the state of saving.

import { Pen } from "./pen.js";
import { Regions } from "./regions.js";
import { boxOf, Review } from "./review.js";

const byId = (id) => document.getElementById(id);
const WORDS = { accepted: "accepted", rejected: "rejected", open: "left open" };

export class ReviewPanel {
  /** `page` has `facts`, `heat`, `foci`, `stage`, `visit(focus)`, `mark(focus)` and `say(text)`. */
  constructor(page) {
    this.page = page;
    const { mpp } = page.facts.slide;
    this.review = new Review(page.facts.key, page.facts.review, {
      change: () => this.#show(),
      trouble: (text) => this.#complain(text),
    });
    this.regions = new Regions(byId("regions"), (mpp / 1000) ** 2, {
      pick: (region) => this.#visit(region),
      reclass: (region, name) => this.#reclass(region, name),
      remove: (region) => this.remove(region),
    });
    this.pen = new Pen(page.stage, byId("pen"), {
      onEnd: (ring) => this.#drawn(ring),
      onChange: () => this.#showPen(),
    });
    page.foci.decisionOf = (focus) => this.review.decision(focus.id, page.heat.channel);
    const buttons = {
      accept: () => this.decide("accepted"),
      reject: () => this.decide("rejected"),
      reopen: () => this.decide("open"),
      draw: () => this.toggleDrawing(),
      undo: () => this.undo(),
      redo: () => this.redo(),
      "pen-add": () => this.pen.addAtCross(),
      "pen-back": () => this.pen.takeBack(),
      "pen-close": () => this.pen.close(),
      "pen-cancel": () => this.pen.cancel(),
    };
    for (const [id, action] of Object.entries(buttons)) byId(id).addEventListener("click", action);
    for (const element of document.querySelectorAll("[data-review]")) element.hidden = false;
    byId("dismiss").addEventListener("click", () => (byId("review-trouble").hidden = true));
  }

  async start() {
    await this.review.start();
  }

  /** The keys that mean something while a review is made. */
  get actions() {
    return {
      accept: () => this.decide("accepted"),
      reject: () => this.decide("rejected"),
      reopen: () => this.decide("open"),
      draw: () => this.toggleDrawing(),
      undo: () => this.undo(),
      redo: () => this.redo(),
      remove: () => (this.pen.active ? this.pen.takeBack() : this.remove(this.regions.chosen)),
      "pen-add": this.pen.active && (() => this.pen.addAtCross()),
      "pen-close": this.pen.active && (() => this.pen.close()),
      "pen-cancel": this.pen.active && (() => this.pen.cancel()),
    };
  }

  decide(decision) {
    const { foci, heat } = this.page;
    const focus = foci.current ?? foci.after(1);
    if (!focus) {
      this.page.say("There is no focus to judge");
      return;
    }
    foci.select(focus);
    const [accepted, rejected] = this.review.decisions[Math.max(0, heat.channel)];
    const { polygons_l0, number, id } = focus;
    const class_name = decision === "accepted" ? accepted : rejected;
    this.review.set(id, decision === "open" ? null : { class_name, polygons_l0, number, is_focus: true });
    const left = this.#open();
    const said = `Focus ${number} ${WORDS[decision]}, ${left.length} open`;
    if (decision !== "open" && byId("go-on").checked && left.length) {
      this.page.visit(left.find((other) => other.number > number) ?? left[0], said);
    } else {
      this.page.say(said);
      this.#show();
    }
  }

  undo() {
    this.#stepped(this.review.undo(), "taken back");
  }

  redo() {
    this.#stepped(this.review.redo(), "done again");
  }

  toggleDrawing() {
    if (this.pen.active) {
      this.pen.cancel();
      return;
    }
    this.pen.start();
    this.page.stage.viewer.canvas.focus({ preventScroll: true });
    this.page.say("Drawing: click or drag, or move with the arrow keys and press Space; Enter closes, Escape ends");
  }

  remove(region) {
    if (!region) return;
    this.review.set(region.id, null);
    this.page.say(`Region ${region.label} deleted`);
  }

  /** A click on the slide: the region there, if any. */
  pickAt(x, y) {
    const region = this.regions.at(x, y);
    this.#choose(region);
    return region;
  }

  draw(context, view) {
    this.regions.draw(context, view);
    this.pen.draw(context, view);
  }

  /** Foci were loaded anew. */
  refresh() {
    this.#show();
  }

  #open() {
    return this.page.foci.all.filter((focus) => this.page.foci.decisionOf(focus) === "open");
  }

  #stepped(object, what) {
    if (!object) return;
    const focus = this.page.foci.all.find(({ id }) => id === object.id);
    if (focus) this.page.visit(focus, `Focus ${focus.number}: ${what}, now ${WORDS[this.page.foci.decisionOf(focus)]}`);
    else {
      this.page.stage.flyTo(boxOf(object.polygons_l0));
      this.page.say(`Region: ${what}`);
    }
  }

  #drawn(ring) {
    const id = crypto.randomUUID();
    const class_name = byId("draw-class").value;
    this.review.set(id, { class_name, polygons_l0: [[ring]], is_focus: false, number: null });
    this.#choose(this.regions.all.find((region) => region.id === id));
    this.page.say(`Region drawn, ${class_name}`);
  }

  #reclass(region, class_name) {
    const { id, polygons_l0, is_focus, number } = region;
    this.review.set(id, { class_name, polygons_l0, is_focus, number });
    this.page.say(`Region ${region.label} is now ${class_name}`);
  }

  #visit(region) {
    this.#choose(region);
    this.page.stage.flyTo(boxOf(region.polygons_l0));
  }

  #choose(region) {
    this.regions.select(region);
    this.page.stage.redraw();
  }

  /** Take over what the review says into everything that shows it. */
  #show() {
    const { review, page } = this;
    const found = new Set(page.foci.all.map(({ id }) => id));
    const classes = [...review.classes];
    this.regions.show([...review.objects.values()].filter(({ id }) => !found.has(id)), classes);
    page.foci.showDecisions();
    const judged = page.foci.all.length - this.#open().length;
    byId("review-count").textContent = `(${judged} of ${page.foci.all.length} foci judged)`;
    const now = page.foci.current ? page.foci.decisionOf(page.foci.current) : null;
    for (const [id, decision] of [["accept", "accepted"], ["reject", "rejected"], ["reopen", "open"]]) {
      byId(id).setAttribute("aria-pressed", String(now === decision));
      byId(id).disabled = !page.foci.all.length;
    }
    byId("undo").disabled = !review.past.length;
    byId("redo").disabled = !review.future.length;
    fillClasses(byId("draw-class"), classes);
    const waiting = review.queue.length;
    const changes = `${waiting} ${waiting === 1 ? "change" : "changes"}`;
    const state = byId("review-state");
    state.textContent = review.failed
      ? `${changes} not saved yet: ${review.failed}. Trying again; keep this page open.`
      : waiting ? `Saving ${changes}…` : `All saved in ${review.file}.`;
    state.classList.toggle("failed", Boolean(review.failed));
    document.body.dataset.review = review.failed ? "failed" : waiting ? "saving" : "saved";
    page.stage.redraw();
  }

  #showPen() {
    const { active, points } = this.pen;
    byId("draw").setAttribute("aria-pressed", String(active));
    byId("pen-tools").hidden = !active;
    byId("pen-close").disabled = !active || points.length < 3;
    byId("pen-back").disabled = !active || !points.length;
    this.page.stage.redraw();
  }

  #complain(text) {
    byId("review-trouble").hidden = false;
    byId("review-trouble-text").textContent = text;
  }
}

function fillClasses(select, classes) {
  const names = classes.map(({ name }) => name);
  if ([...select.options].map(({ value }) => value).join("\n") === names.join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(chosen)) select.value = chosen;
}
