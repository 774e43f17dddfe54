// Keys that work wherever the focus is, except while something is typed or chosen.

const KEYS = {
  n: "next", p: "previous", "+": "in", "=": "in", "-": "out", 0: "fit",
  h: "heat", o: "foci", s: "status", "[": "lower", "]": "raise",
  l: "link", g: "screenshot", "?": "help",
};

/** While a review is made; `ctrl` stands for the command key of a Mac too. */
const REVIEW_KEYS = {
  a: "accept", r: "reject", u: "reopen", d: "draw", Delete: "remove", Backspace: "remove",
  "ctrl z": "undo", "ctrl shift z": "redo", "ctrl y": "redo",
  " ": "pen-add", Enter: "pen-close", Escape: "pen-cancel",
};

/** Keys that press a button where one has the focus. */
const PRESSING = [" ", "Enter"];

const TYPED_IN = "input:not([type=checkbox], [type=range]), select, textarea, dialog";

/** `review` gives the actions of a review, those that mean something now; null where none is made. */
export function bindKeys(viewer, actions, review) {
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.target.closest?.(TYPED_IN)) return;
    const command = event.ctrlKey || event.metaKey;
    const key = event.key.length === 1 && command ? event.key.toLowerCase() : event.key;
    const name = command ? `ctrl ${event.shiftKey ? "shift " : ""}${key}` : key;
    if (PRESSING.includes(name) && event.target.closest?.("button, input, a")) return;
    const action = actions[KEYS[name]] ?? review?.()[REVIEW_KEYS[name]];
    if (!action) return;
    event.preventDefault();
    action();
  });
  // OpenSeadragon has meanings of its own for letters, digits and signs: only arrows stay.
  viewer.addHandler("canvas-key", (event) => {
    const key = event.originalEvent.key;
    if (!key.startsWith("Arrow")) event.preventDefaultAction = true;
  });
}
