// One heatmap: loads its tiles of cells, colours them here, draws them over the slide.

import { getCells } from "./api.js";
import { UNREADABLE as HATCHING } from "./look.js";
import { PENDING, SCORED, STATUS, UNREADABLE } from "./status.js";

const MAX_TILES = 600;
const RETRY_MS = 2000;

export class HeatLayer {
  /** `onTile` is called whenever there is something new to draw. */
  constructor(facts, onTile) {
    this.facts = facts;
    this.key = facts.key;
    this.grid = facts.grid;
    this.revision = facts.state.revision;
    this.channel = 0;
    this.onTile = onTile;
    this.tiles = new Map();
    this.style = { lut: null, threshold: 0, generation: 0 };
  }

  setRevision(revision) {
    this.revision = revision;
  }

  setChannel(channel) {
    if (channel === this.channel) return;
    this.channel = channel;
    this.tiles.clear();
  }

  /** `lut` holds 256 RGB triples; cells below the threshold stay clear. */
  setStyle(lut, wanted) {
    const threshold = Math.fround(wanted); // as the probabilities: 0.7 is below 0.7 of 64 bits
    if (lut === this.style.lut && threshold === this.style.threshold) return;
    this.style = { lut, threshold, generation: this.style.generation + 1 };
  }

  /** The finest level whose cells are at least one pixel of the screen. */
  levelFor(scale) {
    const cell = this.grid.cell_l0 * scale * (window.devicePixelRatio || 1);
    const wanted = Math.ceil(Math.log2(1 / Math.max(cell, 1e-9)));
    return Math.min(Math.max(wanted, 0), this.grid.levels.length - 1);
  }

  /**
   * Draw what is in view.
   *
   * `view` has `scale` (screen pixels a level-0 pixel), `x` and `y` (level-0 pixel at the upper
   * left corner), `width` and `height` (screen pixels). `paint` picks what is drawn of a tile.
   */
  draw(context, view, paint) {
    const level = this.levelFor(view.scale);
    const side = this.grid.cell_l0 * 2 ** level;
    const [rows, cols] = this.grid.levels[level];
    const step = this.grid.tile_cells;
    const range = (from, length, cells) => [
      Math.max(0, Math.floor(from / side / step)),
      Math.min(Math.ceil(cells / step), Math.ceil((from + length) / side / step)),
    ];
    const [top, bottom] = range(view.y, view.height / view.scale, rows);
    const [left, right] = range(view.x, view.width / view.scale, cols);
    context.imageSmoothingEnabled = false;
    for (let row = top; row < bottom; row += 1) {
      for (let col = left; col < right; col += 1) this.#drawTile(context, view, level, row, col, paint);
    }
  }

  /** The cell under a level-0 point, or null where its tile is not loaded yet. */
  cellAt(x, y) {
    const row = Math.floor(y / this.grid.cell_l0);
    const col = Math.floor(x / this.grid.cell_l0);
    if (row < 0 || col < 0 || row >= this.grid.rows || col >= this.grid.cols) return null;
    const step = this.grid.tile_cells;
    const tile = this.#tile(0, Math.floor(row / step), Math.floor(col / step));
    if (!tile.values) return { row, col };
    const index = (row % step) * tile.cols + (col % step);
    return { row, col, value: tile.values[index], status: tile.status[index], looks: tile.looks?.[index] };
  }

  #drawTile(context, view, level, row, col, paint) {
    const tile = this.#tile(level, row, col);
    const side = this.grid.cell_l0 * 2 ** level * view.scale;
    const step = this.grid.tile_cells;
    const x = col * step * side - view.x * view.scale;
    const y = row * step * side - view.y * view.scale;
    if (tile.values) {
      paint(this, context, tile, { x, y, side });
      return;
    }
    // Until it arrives, the part of a coarser tile that covers the same place.
    for (let up = 1; level + up < this.grid.levels.length; up += 1) {
      const parent = this.tiles.get(`${level + up}/${row >> up}/${col >> up}`);
      if (!parent?.values) continue;
      const size = 2 ** up;
      const offset = (index) => (index - ((index >> up) << up)) * step * side;
      context.save();
      context.beginPath();
      context.rect(x, y, step * side, step * side);
      context.clip();
      paint(this, context, parent, { x: x - offset(col), y: y - offset(row), side: side * size });
      context.restore();
      return;
    }
  }

  #tile(level, row, col) {
    const name = `${level}/${row}/${col}`;
    let tile = this.tiles.get(name);
    if (tile) {
      this.tiles.delete(name); // to the end: what was used longest ago goes first
    } else {
      const [rows, cols] = this.grid.levels[level];
      const step = this.grid.tile_cells;
      tile = {
        rows: Math.min(step, rows - row * step),
        cols: Math.min(step, cols - col * step),
        asked: null,
        pictures: {},
      };
    }
    this.tiles.set(name, tile);
    if (tile.asked !== this.revision) this.#load(tile, level, row, col);
    if (this.tiles.size > MAX_TILES) this.tiles.delete(this.tiles.keys().next().value);
    return tile;
  }

  async #load(tile, level, row, col) {
    const revision = this.revision;
    const channel = this.channel;
    tile.asked = revision;
    try {
      const got = await getCells(this.key, channel, level, row, col, tile.rows, tile.cols);
      if (channel !== this.channel) return;
      tile.values = got.values;
      tile.status = got.status;
      tile.looks = got.looks;
      tile.pictures = {};
    } catch {
      setTimeout(() => {
        if (tile.asked === revision) tile.asked = null;
        this.onTile();
      }, RETRY_MS);
    }
    this.onTile();
  }
}

/** Probabilities at or above the threshold, in colour. */
export function paintHeat(layer, context, tile, place) {
  const { lut, threshold, generation } = layer.style;
  if (!lut) return;
  const picture = pictureOf(tile, "heat", generation, (pixels) => {
    for (let i = 0; i < tile.values.length; i += 1) {
      const value = tile.values[i];
      if (!(value >= threshold)) continue; // NaN is not
      const colour = lut[Math.min(255, Math.max(0, Math.round(value * 255)))];
      pixels.set([colour[0], colour[1], colour[2], 255], i * 4);
    }
  });
  drawPicture(context, picture, tile, place);
}

/** Tissue that was scored, in plain grey: what is seen where there is no slide. */
export function paintTissue(layer, context, tile, place) {
  const picture = pictureOf(tile, "tissue", 0, (pixels) => {
    for (let i = 0; i < tile.status.length; i += 1) {
      if (tile.status[i] === SCORED) pixels.set([222, 222, 226, 255], i * 4);
    }
  });
  drawPicture(context, picture, tile, place);
}

/** A veil over what is not decided yet: it must not pass for tissue without tumour. */
export function paintPending(layer, context, tile, place) {
  if (layer.facts.state.complete && layer.revision === layer.facts.state.revision) return;
  const picture = pictureOf(tile, "pending", 0, (pixels) => {
    for (let i = 0; i < tile.status.length; i += 1) {
      if (tile.status[i] === PENDING) pixels.set([96, 96, 110, 120], i * 4);
    }
  });
  drawPicture(context, picture, tile, place);
}

/** The status of every cell. */
export function paintStatus(layer, context, tile, place) {
  const picture = pictureOf(tile, "status", 0, (pixels) => {
    for (let i = 0; i < tile.status.length; i += 1) {
      pixels.set(STATUS[tile.status[i]]?.colour ?? STATUS[PENDING].colour, i * 4);
    }
  });
  drawPicture(context, picture, tile, place);
}

/** Cells that could not be read, hatched: they must never look like normal tissue. */
export function paintUnreadable(layer, context, tile, { x, y, side }) {
  tile.pictures.unreadable ??= unreadableRuns(tile);
  if (!tile.pictures.unreadable.length) return;
  context.save();
  context.beginPath();
  for (const [row, from, to] of tile.pictures.unreadable) {
    context.rect(x + from * side, y + row * side, (to - from) * side, side);
  }
  context.clip();
  context.fillStyle = "rgb(255 255 255 / 55%)";
  const width = tile.cols * side;
  const height = tile.rows * side;
  context.fillRect(x, y, width, height);
  context.strokeStyle = HATCHING;
  context.lineWidth = 2;
  context.beginPath();
  const first = Math.floor((Math.max(x, 0) - height) / 10) * 10;
  const last = Math.min(x + width, context.canvas.clientWidth);
  for (let at = first; at < last; at += 10) {
    context.moveTo(at, y + height);
    context.lineTo(at + height, y);
  }
  context.stroke();
  context.restore();
}

function unreadableRuns(tile) {
  const runs = [];
  for (let row = 0; row < tile.rows; row += 1) {
    let from = -1;
    for (let col = 0; col <= tile.cols; col += 1) {
      const bad = col < tile.cols && tile.status[row * tile.cols + col] === UNREADABLE;
      if (bad && from < 0) from = col;
      if (!bad && from >= 0) {
        runs.push([row, from, col]);
        from = -1;
      }
    }
  }
  return runs;
}

function pictureOf(tile, name, generation, fill) {
  const known = tile.pictures[name];
  if (known && known.generation === generation) return known.canvas;
  const canvas = known?.canvas ?? document.createElement("canvas");
  canvas.width = tile.cols;
  canvas.height = tile.rows;
  const image = new ImageData(tile.cols, tile.rows);
  fill(image.data);
  canvas.getContext("2d").putImageData(image, 0, 0);
  tile.pictures[name] = { canvas, generation };
  return canvas;
}

function drawPicture(context, picture, tile, { x, y, side }) {
  context.drawImage(picture, x, y, tile.cols * side, tile.rows * side);
}
