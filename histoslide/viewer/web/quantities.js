// One text for one number, as histoslide/quantities.py writes it: a test holds the two together.

const fixed = (value, digits) => value.toFixed(digits);
const grouped = (text) => text.replace(/\B(?=(\d{3})+$)/g, ",");

export const probability = (value) => fixed(value, 3);

/** A probability that was chosen: in hundredths, or thousandths where it is finer. */
export const threshold = (value) => fixed(value, 3).replace(/0$/, "");

export const count = (value) => grouped(fixed(value, 0));

/** Of a focus. */
export const length = (um) => `${count(um)} µm`;

export const area = (mm2) => `${fixed(mm2, mm2 >= 0.001 || mm2 === 0 ? 3 : 4)} mm²`;

export const share = (part) => `${fixed(part * 100, 1)} %`;

export const resolution = (mpp) => `${Number(mpp.toPrecision(4))} µm/px`;

export const cell = (um) => `${fixed(um, 1)} µm`;

export const extent = (widthUm, heightUm) => `${fixed(widthUm / 1000, 2)} × ${fixed(heightUm / 1000, 2)} mm`;

/** A round length, of a scale bar. */
export const scale = (um) => (um >= 1000 ? `${um / 1000} mm` : `${um} µm`);
