// The overview of a cohort: a table that sorts, filters, and fills in while slides are scored.

import { getJson, heatAddress } from "./api.js";
import { count, length, probability, threshold } from "./quantities.js";

const POLL_MS = 5000;
const byId = (id) => document.getElementById(id);
const order = { column: null, descending: false };
let heatmaps = [];
let drawn = "";

function compare(one, other) {
  const [a, b] = [one[order.column], other[order.column]];
  if (a == null || b == null) return (a == null) - (b == null); // what is not known goes last
  const sign = order.descending ? -1 : 1;
  return sign * (typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function stateText(row) {
  if (row.state === "running") return `${Math.floor(row.share_done * 100)} % scored`;
  return row.state;
}

function slideCell(row) {
  const cell = make("td");
  if (row.key === null || row.error) {
    cell.append(make("span", "", row.slide));
  } else {
    const link = make("a", "", row.slide);
    link.href = `view#heat=${encodeURIComponent(row.key)}`;
    cell.append(link);
  }
  const more = [row.name, row.model].filter(Boolean).join(" · ");
  if (more) cell.append(make("small", "", more));
  if (row.judged) cell.append(make("small", "", `Review: ${row.judged} ${row.judged === 1 ? "object" : "objects"}`));
  for (const warning of row.warnings ?? []) cell.append(make("small", "warning", warning));
  if (row.error) cell.append(make("small", "failed", row.error));
  return cell;
}

function pictureCell(row) {
  const cell = make("td");
  if (row.key !== null && !row.error) {
    const picture = make("img");
    picture.loading = "lazy";
    picture.alt = "";
    picture.src = `${heatAddress(row.key)}/thumbnail`;
    cell.append(picture);
  }
  return cell;
}

function numberCell(label, text) {
  const cell = make("td", "number", text);
  cell.dataset.label = label;
  return cell;
}

function focusCell(row) {
  const cell = numberCell("longest focus", row.longest_um == null ? "" : length(row.longest_um));
  if (row.longest_class) cell.append(make("small", "", row.longest_class));
  return cell;
}

function tableRow(row) {
  const line = make("tr");
  const state = make("td", "", undefined);
  state.append(make("span", row.error ? "failed" : "", stateText(row)));
  const positive = row.positive == null ? "" : `${count(row.positive)} at ${threshold(row.threshold)}`;
  line.append(
    pictureCell(row),
    slideCell(row),
    state,
    focusCell(row),
    numberCell("slide score", row.slide_score == null ? "" : probability(row.slide_score)),
    numberCell("highest", row.highest == null ? "" : probability(row.highest)),
    numberCell("positive", positive),
    numberCell("scored", row.scored == null ? "" : count(row.scored)),
  );
  return line;
}

function draw() {
  const part = byId("filter").value.toLowerCase();
  let rows = heatmaps.filter((row) => `${row.slide} ${row.name ?? ""}`.toLowerCase().includes(part));
  if (order.column) rows = rows.toSorted(compare);
  byId("rows").replaceChildren(...rows.map(tableRow));
  byId("count").textContent = rows.length === heatmaps.length ? `(${rows.length})` : `(${rows.length} of ${heatmaps.length})`;
  for (const button of document.querySelectorAll("th button")) {
    const mine = button.dataset.column === order.column;
    const direction = order.descending ? "descending" : "ascending";
    button.parentElement.setAttribute("aria-sort", mine ? direction : "none");
  }
}

async function load() {
  try {
    const answer = await getJson("api/heatmaps");
    byId("notice").hidden = true;
    heatmaps = answer.heatmaps;
    const text = JSON.stringify(heatmaps);
    if (text !== drawn) draw();
    drawn = text;
  } catch (error) {
    byId("notice").hidden = false;
    byId("notice").textContent = `The list cannot be read: ${error.message}`;
  }
  setTimeout(load, POLL_MS);
}

byId("filter").addEventListener("input", draw);
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const { column } = button.dataset;
    const numeric = ["longest_um", "slide_score", "highest", "positive", "scored"].includes(column);
    order.descending = order.column === column ? !order.descending : numeric;
    order.column = column;
    draw();
  });
}
await load();
document.body.dataset.ready = "1";
