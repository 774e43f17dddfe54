// The report's few moving parts: threshold and opacity of each overlay, foci linked to their rows,
// tables that sort. Everything else stands without it.

"use strict";

const colours = JSON.parse(document.getElementById("colours").textContent);
const NONE = 65535;

function decode(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Uint16Array(bytes.length / 2).map((_, i) => bytes[2 * i] + 256 * bytes[2 * i + 1]);
}

function setUpOverlay(figure) {
  const { rows, cols, cell_l0: side, values } = JSON.parse(document.getElementById(figure.dataset.values).textContent);
  const numbers = decode(values);
  const cells = document.createElement("canvas");
  cells.width = cols;
  cells.height = rows;
  const image = new ImageData(cols, rows);
  const canvas = figure.querySelector(".stack canvas");
  const [width, height] = [Number(figure.dataset.width), Number(figure.dataset.height)];
  const [threshold, opacity] = [figure.querySelector(".threshold"), figure.querySelector(".opacity")];

  function draw() {
    const least = Math.floor(threshold.valueAsNumber * 65534);
    image.data.fill(0);
    numbers.forEach((number, i) => {
      if (number === NONE || number < least) return;
      image.data.set([...colours[Math.round((number / 65534) * 255)], 255], i * 4);
    });
    cells.getContext("2d").putImageData(image, 0, 0);
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    const [across, down] = [canvas.width / width, canvas.height / height];
    context.drawImage(cells, 0, 0, cols * side * across, rows * side * down);
    canvas.style.opacity = opacity.value;
    threshold.nextElementSibling.textContent = threshold.valueAsNumber.toFixed(3).replace(/0$/, "");
    opacity.nextElementSibling.textContent = `${Math.round(opacity.valueAsNumber * 100)} %`;
  }

  // Fine enough that cells keep their places to a fraction of a pixel of the picture, and never so
  // high for a strip of a slide that no browser makes it.
  const fine = Math.min(2000 / width, 4000 / height);
  canvas.width = Math.max(1, Math.round(width * fine));
  canvas.height = Math.max(1, Math.round(height * fine));
  for (const slider of [threshold, opacity]) slider.addEventListener("input", draw);
  draw();
  const ramp = figure.querySelector(".ramp").getContext("2d");
  const strip = new ImageData(256, 1);
  colours.forEach((colour, i) => strip.data.set([...colour, 255], i * 4));
  ramp.putImageData(strip, 0, 0);
}

function setUpFoci(article) {
  const choose = (number, from) => {
    for (const part of article.querySelectorAll("[data-focus]")) {
      part.classList.toggle("chosen", part.dataset.focus === number);
    }
    const seen = from === "row" ? article.querySelector(".overlay") : article.querySelector(`tr[data-focus="${number}"]`);
    seen.scrollIntoView({ block: "nearest", behavior: "smooth" });
  };
  for (const link of article.querySelectorAll("svg a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      choose(link.dataset.focus, "picture");
    });
  }
  for (const row of article.querySelectorAll("tr[data-focus]")) {
    row.querySelector(".show").addEventListener("click", () => choose(row.dataset.focus, "row"));
  }
}

function setUpSorting(table) {
  const headings = [...table.querySelectorAll("th")];
  headings.forEach((heading, column) => {
    heading.querySelector("button")?.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[column];
        return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
      };
      const compare = (one, other) => {
        const [a, b] = [key(one), key(other)];
        return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
      };
      const body = table.tBodies[0];
      const sorted = [...body.rows].sort(compare);
      body.append(...(down ? sorted.reverse() : sorted));
    });
  });
}

document.querySelectorAll(".overlay").forEach(setUpOverlay);
document.querySelectorAll("article").forEach(setUpFoci);
document.querySelectorAll("table.sortable").forEach(setUpSorting);
document.body.dataset.ready = "1";
