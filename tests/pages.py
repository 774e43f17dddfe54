"""The viewer's page: a server for it, a slide that tells its own places, and what is seen."""

import base64
import io
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from heatmaps import stored_heatmap
from PIL import Image

from histoslide.geometry import Size
from histoslide.slide import open_slide
from histoslide.synthetic import fiducial_slide
from histoslide.viewer.catalogue import Catalogue
from histoslide.viewer.reviews import Reviews
from histoslide.viewer.server import create_app

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
ROWS, COLS = 70, 90
WIDTH, HEIGHT = COLS * 32, ROWS * 32
"""Level-0 pixels; a cell is 32 of them and 32 µm."""
FOCI = {1: (40, 50, 6, 12), 2: (10, 20, 4, 3)}
"""Row, column, rows, columns of the two foci, the longer first."""

Open = Callable[..., Any]
Serve = Callable[..., str]


@contextmanager
def served(*paths: Path, review: Path | None = None, **options: Any) -> Iterator[str]:
    """A running server; gives the address of its root."""
    catalogue = Catalogue(list(paths), **options)
    reviews = None if review is None else Reviews(review, catalogue)
    app = create_app(catalogue, token="t", reviews=reviews)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/t/"
        finally:
            server.should_exit = True
            thread.join()


def truth() -> Any:
    """Two foci of 0.95 on tissue of 0.2, glass in the last column."""
    values = np.full((ROWS, COLS), 0.2, np.float32)
    for row, col, rows, cols in FOCI.values():
        values[row : row + rows, col : col + cols] = 0.95
    values[:, -1] = np.nan
    return values


def store(folder: Path, name: str = "heat", *, values: Any = None) -> Path:
    """The slide that tells its own places, and a heatmap of known foci on it."""
    slide = folder / "made.tif"
    if not slide.exists():
        fiducial_slide(slide, width=WIDTH, height=HEIGHT, mpp=1.0, downsamples=(4,))
    with open_slide(slide) as opened:
        quickhash = opened.quickhash
    path = folder / f"{name}.zarr"
    stored_heatmap(
        path, truth() if values is None else values, mpp=1.0, model_mpp=1.0, stride_px=32,
        size_l0=Size(WIDTH, HEIGHT), quickhash=quickhash,
    )  # fmt: skip
    return path


def where(page: Any) -> tuple[float, float, float]:
    """Centre in level-0 pixels and micrometres a screen pixel, once the view has come to rest."""
    page.wait_for_timeout(400)
    page.wait_for_selector("body:not([data-moving])")
    now = page.evaluate("location.hash")
    found = dict(re.findall(r"(\w+)=([-\d.]+)", now))
    return float(found["x"]), float(found["y"]), float(found["mpp"])


def overlay(page: Any) -> Any:
    """The pixels drawn over the slide, RGBA."""
    return pixels(page, "document.getElementById('overlay')")


def pixels(page: Any, canvas: str) -> Any:
    code = f"new Promise((done) => requestAnimationFrame(() => done({canvas}.toDataURL())))"
    data = base64.b64decode(page.evaluate(code).partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGBA"))


def on_screen(page: Any, box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom in screen pixels of (row, col, rows, cols)."""
    x, y, mpp = where(page)
    size = page.evaluate(
        "(({clientWidth: w, clientHeight: h}) => [w, h])(document.getElementById('osd'))"
    )
    row, col, rows, cols = (32 * part for part in box)
    return tuple(
        size[i % 2] / 2 + (edge - centre) / mpp
        for i, (edge, centre) in enumerate(((col, x), (row, y), (col + cols, x), (row + rows, y)))
    )


def extent(mask: Any) -> tuple[int, int, int, int]:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return cols[0], rows[0], cols[-1] + 1, rows[-1] + 1


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.3)
