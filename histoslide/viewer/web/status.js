// What happened to a cell, by the number stored for it.

export const PENDING = 0;
export const BACKGROUND = 1;
export const SCORED = 2;
export const UNREADABLE = 3;
export const EXCLUDED = 4;

export const STATUS = [
  { name: "pending", colour: [245, 166, 35, 150] },
  { name: "background", colour: [150, 150, 150, 110] },
  { name: "scored", colour: [53, 132, 228, 90] },
  { name: "unreadable", colour: [224, 27, 36, 200] },
  { name: "excluded", colour: [60, 58, 66, 150] },
];

export function fillStatusLegend(list) {
  for (const { name, colour } of STATUS) {
    const item = document.createElement("li");
    const swatch = document.createElement("canvas");
    swatch.width = swatch.height = 1;
    const context = swatch.getContext("2d");
    context.fillStyle = `rgb(${colour[0]} ${colour[1]} ${colour[2]})`;
    context.fillRect(0, 0, 1, 1);
    item.append(swatch, name);
    list.append(item);
  }
}
