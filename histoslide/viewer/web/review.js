// What a person says of foci and draws: kept by the server, changed here, never lost in between.
//
// A change is shown at once and sent in order. Until the server has saved it, it lies in the tab's
// session storage, so that neither a reload nor a server that has gone loses it. Each change names
// the version that it was made from: the server refuses one whose object another window has changed.

import { ChangeError, getJson, heatAddress, postJson } from "./api.js";

const RETRY_MS = 1500;
const POLL_MS = 4000;
const MOST_STEPS = 300;

const same = (one, other) => meaning(one) === meaning(other);
const meaning = (object) =>
  object && JSON.stringify([object.class_name, object.is_focus, object.polygons_l0]);

export class Review {
  /** `on` has `change()`, called whenever there is something new to show, and `trouble(text)`. */
  constructor(key, file, on) {
    this.address = `${heatAddress(key)}/review`;
    this.on = on;
    this.store = `histoslide review ${file} of ${key}`;
    this.file = file;
    this.saved = new Map();
    this.classes = [];
    this.decisions = [];
    this.failed = null;
    const kept = JSON.parse(sessionStorage.getItem(this.store) ?? "{}");
    this.queue = kept.queue ?? [];
    this.past = kept.past ?? [];
    this.future = kept.future ?? [];
    this.others = "BroadcastChannel" in window ? new BroadcastChannel("histoslide review") : null;
    this.others?.addEventListener("message", () => this.refresh());
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
    window.addEventListener("beforeunload", (event) => this.queue.length && event.preventDefault());
  }

  async start() {
    this.#take(await getJson(this.address));
    setInterval(() => this.refresh(), POLL_MS);
    this.#send();
  }

  /** All objects as they are shown, by id: saved ones with what is still to be saved. */
  get objects() {
    const shown = new Map(this.saved);
    for (const { id, to } of this.queue) {
      if (to) shown.set(id, { ...shown.get(id), ...to, id });
      else shown.delete(id);
    }
    return shown;
  }

  get regions() {
    return [...this.objects.values()].filter((object) => !object.is_focus);
  }

  /** "accepted", "rejected" or "open". */
  decision(id, channel) {
    const object = this.objects.get(id);
    if (!object?.is_focus) return "open";
    return object.class_name === this.decisions[Math.max(0, channel)]?.[0] ? "accepted" : "rejected";
  }

  /** Make an object what it shall be; null removes it. */
  set(id, to) {
    const before = this.objects.get(id) ?? null;
    if (same(before, to)) return;
    this.past.push({ id, before, after: to });
    this.past.splice(0, this.past.length - MOST_STEPS);
    this.future = [];
    this.#enqueue(id, to);
  }

  /** Take back the last step, or do it again; gives the object that changed, or null. */
  undo() {
    return this.#step(this.past, this.future, "after", "before");
  }

  redo() {
    return this.#step(this.future, this.past, "before", "after");
  }

  /** Show what other windows and programs have saved. */
  async refresh() {
    if (this.queue.length || this.asking) return;
    this.asking = true;
    try {
      const review = await getJson(this.address);
      if (!this.queue.length && review.version !== this.version) this.#take(review);
    } catch {
      // The server or the disk is away: the next look will tell.
    } finally {
      this.asking = false;
    }
  }

  #step(from, to, there, wanted) {
    const step = from.pop();
    if (!step) return null;
    const now = this.objects.get(step.id) ?? null;
    if (!same(now, step[there])) {
      this.#keep();
      this.on.trouble("This step cannot be taken back: what it changed was changed again elsewhere.");
      this.on.change();
      return null;
    }
    to.push(step);
    this.#enqueue(step.id, step[wanted]);
    return step[wanted] ?? step[there];
  }

  #enqueue(id, to) {
    // Of several changes of one object only the first knows what it was made from; the next are
    // made from its outcome.
    const chained = this.queue.some((change) => change.id === id);
    const shape = to && {
      class_name: to.class_name,
      polygons_l0: to.polygons_l0,
      is_focus: to.is_focus,
      number: to.number ?? null,
    };
    this.queue.push({ id, chained, base: this.saved.get(id)?.version ?? null, to: shape });
    this.#keep();
    this.on.change();
    this.#send();
  }

  async #send() {
    if (this.sending) return;
    this.sending = true;
    while (this.queue.length) {
      const [change] = this.queue;
      const base = change.chained ? this.saved.get(change.id)?.version ?? null : change.base;
      try {
        const { is_focus, ...shape } = change.to ?? {};
        const to = change.to && { ...shape, number: is_focus ? shape.number : null };
        const { object } = await postJson(this.address, { id: change.id, base, to });
        this.#settle(change, object);
        this.queue.shift();
        this.failed = null;
      } catch (error) {
        if (error instanceof ChangeError && error.status === 409) {
          this.#lose(change.id, error.answer.object, "was changed elsewhere in the meantime: what is shown now is that, yours is not saved");
        } else if (error instanceof ChangeError && error.status < 500) {
          this.#lose(change.id, this.saved.get(change.id) ?? null, `cannot be saved: ${error.message}`);
        } else {
          this.failed = error instanceof ChangeError ? error.message : "the server does not answer";
          this.on.change();
          await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
        }
      }
      this.#keep();
      this.on.change();
    }
    this.sending = false;
    this.others?.postMessage("saved");
    await this.refresh();
  }

  /** The server has mended an outline, for example one that crossed itself. */
  #settle(change, object) {
    if (object) this.saved.set(change.id, object);
    else this.saved.delete(change.id);
    if (!object || same(object, change.to)) return;
    for (const step of [...this.past, ...this.future]) {
      if (step.id !== change.id) continue;
      for (const side of ["before", "after"]) if (same(step[side], change.to)) step[side] = object;
    }
  }

  #lose(id, now, why) {
    this.queue = this.queue.filter((change) => change.id !== id);
    this.past = this.past.filter((step) => step.id !== id);
    this.future = this.future.filter((step) => step.id !== id);
    if (now) this.saved.set(id, now);
    else this.saved.delete(id);
    this.failed = null;
    const what = now?.number ? `Focus ${now.number}` : "An object of the review";
    this.on.trouble(`${what} ${why}.`);
  }

  #take(review) {
    this.version = review.version;
    this.file = review.file;
    this.classes = review.classes;
    this.decisions = review.decisions;
    this.saved = new Map(review.objects.map((object) => [object.id, object]));
    this.on.change();
  }

  #keep() {
    const { queue, past, future } = this;
    try {
      sessionStorage.setItem(this.store, JSON.stringify({ queue, past, future }));
    } catch {
      // There is no room for the steps that could be taken back: what is unsaved matters more.
      sessionStorage.setItem(this.store, JSON.stringify({ queue }));
    }
  }
}

/** The area of polygons in square level-0 pixels: rings after the first are holes. */
export function areaOf(polygons) {
  let area = 0;
  for (const rings of polygons) {
    rings.forEach((ring, i) => {
      const twice = ring.reduce((sum, [x, y], j) => {
        const [nextX, nextY] = ring[(j + 1) % ring.length];
        return sum + x * nextY - nextX * y;
      }, 0);
      area += (i ? -1 : 1) * Math.abs(twice) / 2;
    });
  }
  return area;
}

/** The box of polygons, as [x, y, width, height]. */
export function boxOf(polygons) {
  const points = polygons.flat(2);
  const ends = (values) => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
  const [left, right] = ends(points.map(([x]) => x));
  const [top, bottom] = ends(points.map(([, y]) => y));
  return [left, top, right - left, bottom - top];
}
