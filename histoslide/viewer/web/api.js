// Reading from the server. Every address is relative, so that it keeps the page's token.

export async function getJson(address) {
  const response = await fetch(address);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error || response.statusText);
  return body;
}

/** The server refused what was asked for: `status` is HTTP's, `answer` what it said. */
export class ChangeError extends Error {
  constructor(status, answer) {
    super(answer.error);
    this.status = status;
    this.answer = answer;
  }
}

export async function postJson(address, message) {
  const response = await fetch(address, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(message),
  });
  const body = await response.json();
  if (!response.ok) throw new ChangeError(response.status, { ...body, error: body.error || response.statusText });
  return body;
}

export const heatAddress = (key) => `api/heatmaps/${encodeURIComponent(key)}`;

export const slideTileAddress = (key, version, level, col, row) =>
  `${heatAddress(key)}/slide/${level}/${col}/${row}?v=${encodeURIComponent(version ?? "none")}`;

/** One tile of cells: float32 probabilities, then uint8 statuses, row by row. */
export async function getCells(key, channel, level, row, col, rows, cols) {
  const response = await fetch(`${heatAddress(key)}/cells/${channel}/${level}/${row}/${col}`);
  if (!response.ok) throw new Error(response.statusText);
  const buffer = await response.arrayBuffer();
  const count = rows * cols;
  // The last byte of each cell is only there where the store tells who has looked at it.
  if (buffer.byteLength !== count * 5 && buffer.byteLength !== count * 6) throw new Error("a tile of cells has the wrong size");
  return {
    values: new Float32Array(buffer, 0, count),
    status: new Uint8Array(buffer, count * 4, count),
    looks: buffer.byteLength === count * 6 ? new Uint8Array(buffer, count * 5, count) : null,
    revision: response.headers.get("x-revision"),
  };
}
