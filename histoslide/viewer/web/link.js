// The address's hash holds what is seen, so that a link restores it.

const NUMBERS = { x: null, y: null, mpp: null, threshold: [0.01, 1], opacity: [0, 1], split: [0, 1] };
/** How foci are found, where it was changed. */
const FOCI = { seed: [0.01, 1], gap: [0, 500], smoothing: [0, 500], cells: [1, 10000] };
const WORDS = ["heat", "class", "map", "with"];
const SWITCHES = ["heatmap", "foci", "status"];

/** What a hash says; whatever is missing or makes no sense is left out. */
export function readHash(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const state = {};
  for (const [name, range] of Object.entries({ ...NUMBERS, ...FOCI })) {
    const value = Number.parseFloat(given.get(name));
    if (!Number.isFinite(value)) continue;
    state[name] = range ? Math.min(range[1], Math.max(range[0], value)) : value;
  }
  for (const name of WORDS) if (given.has(name)) state[name] = given.get(name);
  for (const name of SWITCHES) if (given.has(name)) state[name] = given.get(name) === "1";
  const focus = Number.parseInt(given.get("focus"), 10);
  if (focus > 0) state.focus = focus;
  return state;
}

export function writeHash(state) {
  const words = new URLSearchParams();
  for (const name of WORDS) if (state[name]) words.set(name, state[name]);
  for (const name of ["x", "y"]) words.set(name, String(Math.round(state[name])));
  words.set("mpp", String(Number(state.mpp.toPrecision(4))));
  for (const name of ["threshold", "opacity"]) words.set(name, String(state[name]));
  for (const name of Object.keys(FOCI)) if (state[name] !== undefined) words.set(name, String(state[name]));
  if (state.with) words.set("split", state.split.toFixed(3));
  for (const name of SWITCHES) words.set(name, state[name] ? "1" : "0");
  if (state.focus) words.set("focus", String(state.focus));
  return `#${words}`;
}
