// Keys that work wherever the focus is, except while something is typed or chosen.

const KEYS = {
  n: "next", p: "previous", "+": "in", "=": "in", "-": "out", 0: "fit",
  h: "heat", o: "foci", s: "status", "[": "lower", "]": "raise",
  l: "link", g: "screenshot", "?": "help",
};

const TYPED_IN = "input:not([type=checkbox], [type=range]), select, textarea, dialog";

export function bindKeys(viewer, actions) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(TYPED_IN)) return;
    const action = KEYS[event.key];
    if (!action) return;
    event.preventDefault();
    actions[action]();
  });
  // OpenSeadragon has meanings of its own for letters, digits and signs: only arrows stay.
  viewer.addHandler("canvas-key", (event) => {
    const key = event.originalEvent.key;
    if (!key.startsWith("Arrow")) event.preventDefaultAction = true;
  });
}
