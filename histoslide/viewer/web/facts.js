// What is known about the slide and its heatmap.

import { cell, count, extent, resolution, share } from "./quantities.js";

export function showFacts(list, warnings, facts) {
  const { slide, grid, counts } = facts;
  const [width, height] = slide.size_l0;
  const rows = [
    ["Size", `${count(width)} × ${count(height)} px, ${extent(width * slide.mpp, height * slide.mpp)}`],
    ["Resolution", `${resolution(slide.mpp)} (${slide.mpp_source})`],
    ["Cell", cell(grid.cell_um)],
    ["Tissue", `${share(facts.tissue_share)} of the slide`],
    ["Model", facts.first_look ? `${facts.model}, after a first look by ${facts.first_look}` : facts.model],
  ];
  if (counts) {
    rows.push(["Cells", `${count(counts.scored)} scored, ${count(counts.background)} background`]);
    if (counts.unreadable) rows.push(["Unreadable", `${count(counts.unreadable)} cells`]);
    if (counts.excluded) rows.push(["Excluded", `${count(counts.excluded)} cells`]);
  }
  list.replaceChildren(
    ...rows.flatMap(([name, text]) => {
      const term = document.createElement("dt");
      const value = document.createElement("dd");
      term.textContent = name;
      value.textContent = text;
      return [term, value];
    }),
  );
  warnings.replaceChildren(
    ...facts.warnings.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }),
  );
}
