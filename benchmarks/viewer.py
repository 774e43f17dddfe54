"""How long the viewer's server takes for a tile, over HTTP, nothing cached.

    python benchmarks/viewer.py [--slide FILE --mpp UM]

Without a slide one is drawn: 12 000 × 8 000 px, JPEG in 256 px tiles, three levels. Its heatmap is
made up; where the values come from does not matter here. Prints a line a kind of tile, and JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from torch import Tensor, nn

from histoslide.geometry import Mpp
from histoslide.model import Model, ModelSpec
from histoslide.scoring.lazy import make_heatmap
from histoslide.slide import open_slide
from histoslide.store import store_heatmap
from histoslide.synthetic import scene, write_slide
from histoslide.tissue.masks import METHODS, find_tissue
from histoslide.viewer.catalogue import Catalogue
from histoslide.viewer.server import create_app

WIDTH, HEIGHT, PIECE = 12_000, 8_000, 1_000
TILES = 60


class Brightness(nn.Module):
    """Stands in for a network: how dark a tile's centre is."""

    def forward(self, images: Tensor) -> Tensor:
        """Two logits for each image."""
        dark = 1 - images[:, :, 48, 48].mean(dim=1)
        return torch.stack([1 - dark, dark], dim=1)


def drawn_slide(folder: Path) -> Path:
    """A slide of one scene laid out many times."""
    piece = scene(PIECE, PIECE, mpp=0.5, seed=1).pixels
    pixels = np.tile(piece, (HEIGHT // PIECE, WIDTH // PIECE, 1))
    return write_slide(folder / "drawn.tif", pixels, mpp=0.5, downsamples=(4.0, 16.0))


def made_up_heatmap(slide_path: Path, mpp: Mpp | None, out: Path) -> None:
    """A heatmap of every cell, quickly."""
    spec = ModelSpec(
        name="brightness",
        architecture="none",
        classes=("normal", "tumour"),
        tumour_class="tumour",
        mean=(0, 0, 0),
        std=(1, 1, 1),
        input_px=96,
        label_px=32,
        mpp=0.972,
    )
    model = Model(spec, Brightness(), device="cpu", sha256="brightness")
    with open_slide(slide_path, mpp=mpp) as slide:
        tissue = find_tissue(slide, METHODS["none"])
        store_heatmap(make_heatmap(slide, model, tissue=tissue, tissue_threshold=0), out)


def timed(connection: http.client.HTTPConnection, path: str) -> tuple[float, int]:
    """Milliseconds and bytes of one answer."""
    started = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {body[:200]!r}")
    return (time.perf_counter() - started) * 1000, len(body)


def tile_paths(facts: dict[str, Any]) -> dict[str, list[str]]:
    """Addresses of tiles of each kind, in random order."""
    picker = random.Random(0)
    slide, grid = facts["slide"], facts["grid"]
    kinds: dict[str, list[str]] = {}
    for level in range(slide["max_level"] - 6, slide["max_level"] + 1):
        down = 2 ** (slide["max_level"] - level)
        across, high = (-(-side // down // slide["tile_px"]) for side in slide["size_l0"])
        every = [f"slide/{level}/{col}/{row}" for col in range(across) for row in range(high)]
        kinds[f"slide, 1 in {down}"] = picker.sample(every, min(TILES, len(every)))
    for level, (rows, cols) in enumerate(grid["levels"]):
        across, high = (-(-side // grid["tile_cells"]) for side in (cols, rows))
        every = [f"cells/0/{level}/{row}/{col}" for col in range(across) for row in range(high)]
        kinds[f"cells, level {level}"] = picker.sample(every, min(TILES, len(every)))
    return kinds


def main() -> None:
    """Serve, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--mpp", type=float)
    arguments = parser.parse_args()
    mpp = None if arguments.mpp is None else Mpp(value=arguments.mpp, source="--mpp")
    with tempfile.TemporaryDirectory() as name, socket.socket() as listener:
        folder = Path(name)
        slide_path = arguments.slide or drawn_slide(folder)
        made_up_heatmap(slide_path, mpp, folder / "heat.zarr")
        app = create_app(Catalogue([folder / "heat.zarr"], slides=[slide_path]))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        connection = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=60)
        connection.request("GET", "/api/heatmaps/heat")
        facts = json.loads(connection.getresponse().read())
        found = {}
        for kind, paths in tile_paths(facts).items():
            times, sizes = zip(
                *(timed(connection, f"/api/heatmaps/heat/{p}") for p in paths), strict=True
            )
            found[kind] = {
                "tiles": len(times),
                "median_ms": round(statistics.median(times), 1),
                "slowest_ms": round(max(times), 1),
                "median_kB": round(statistics.median(sizes) / 1000, 1),
            }
            print(f"{kind:18} {found[kind]}", flush=True)
        connection.close()
        server.should_exit = True
        thread.join()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
