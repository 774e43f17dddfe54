// Lengths on the screen: scale bar, magnification, places.

/** A round length, 1, 2 or 5 times a power of ten, of at most `most` micrometres. */
export function roundLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  const fitting = [5, 2, 1].find((factor) => factor * power <= most) ?? 1;
  return fitting * power;
}

export function lengthText(um) {
  if (um >= 1000) return `${Number((um / 1000).toPrecision(3))} mm`;
  if (um >= 1) return `${Number(um.toPrecision(3))} µm`;
  return `${Number((um * 1000).toPrecision(3))} nm`;
}

/** Objective magnification at which a screen pixel shows so much: 40× is 0.25 µm by convention. */
export const magnification = (umPerPixel) => 10 / umPerPixel;

export function magnificationText(umPerPixel) {
  const times = magnification(umPerPixel);
  return `${times >= 10 ? times.toFixed(0) : times.toPrecision(2)}×`;
}
