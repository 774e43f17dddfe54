// What is known about the slide and its heatmap.

import { lengthText, whole } from "./lengths.js";

export function showFacts(list, warnings, facts) {
  const { slide, grid, counts } = facts;
  const [width, height] = slide.size_l0;
  const rows = [
    ["Size", `${whole(width)} × ${whole(height)} px, ${lengthText(width * slide.mpp)} × ${lengthText(height * slide.mpp)}`],
    ["Resolution", `${Number(slide.mpp.toPrecision(4))} µm/px (${slide.mpp_source})`],
    ["Cell", `${Number(grid.cell_um.toPrecision(4))} µm`],
    ["Tissue", `${(facts.tissue_share * 100).toFixed(1)} % of the slide`],
    ["Model", facts.first_look ? `${facts.model}, after a first look by ${facts.first_look}` : facts.model],
  ];
  if (counts) {
    rows.push(["Cells", `${whole(counts.scored)} scored, ${whole(counts.background)} background`]);
    if (counts.unreadable) rows.push(["Unreadable", `${whole(counts.unreadable)} cells`]);
    if (counts.excluded) rows.push(["Excluded", `${whole(counts.excluded)} cells`]);
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
