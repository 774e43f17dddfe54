"""How long judging a cohort of CAMELYON's size takes, and whether memory grows with it.

    python benchmarks/judging.py /tmp/judging --slides 130 --workers 2
    python benchmarks/judging.py /tmp/judging --slides 130 --workers 2 --choose froc

Makes heatmaps of 97,792 × 221,184 px at 0.243 µm/px (1.3 million cells of 31 µm, of which tissue
are 18 %) with annotations of half of them in the folder, where they are not there yet, and judges
them with ``evaluate slides``, or finds lesion settings on them. A few are made; the rest are links
to them under other names. Seconds are of the whole command: from start to the report on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from heatmaps import stored_heatmap

from histoslide.geometry import Size

ROWS, COLS, CELL_L0, MPP = 1728, 764, 128, 0.243
DIFFERENT = 6


def main() -> None:
    """Make what is missing, judge, and say how long it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=130)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--choose", metavar="AIM", help="as of evaluate slides")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    make(folder, arguments.slides)
    command = [sys.executable, "-m", "histoslide_cli.main", "evaluate", "slides"]
    command += [str(folder / f"{arguments.slides}"), "--reference", str(folder / "annotations")]
    command += ["--others-negative", "--out", str(folder / "evaluation"), "--overwrite"]
    command += ["--workers", str(arguments.workers), "--quiet"]
    if arguments.choose:
        command += ["--choose", arguments.choose]
    started = time.monotonic()
    subprocess.run(command, check=True)
    seconds = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{arguments.slides} slides, {arguments.workers} workers: {seconds:.1f} s, "
        f"{used.ru_utime + used.ru_stime:.1f} s of processor, "
        f"largest process {used.ru_maxrss / 2**10:.0f} MB"
    )


def make(folder: Path, slides: int) -> None:
    """Heatmaps and annotations, where they are not there yet."""
    annotations, heatmaps = folder / "annotations", folder / f"{slides}"
    annotations.mkdir(parents=True, exist_ok=True)
    heatmaps.mkdir(exist_ok=True)
    for i in range(DIFFERENT):
        first = folder / f"first-{i}.zarr"
        if not first.exists():
            make_one(first, annotations / f"first-{i}.geojson", seed=i)
    for i in range(slides):
        path = heatmaps / f"slide-{i:03}.zarr"
        if not path.exists():
            link(folder / f"first-{i % DIFFERENT}.zarr", path, f"slide-{i:03}.tif")
        drawn = annotations / f"slide-{i:03}.geojson"
        if i % 2 == 0:
            drawn.write_bytes((annotations / f"first-{i % DIFFERENT}.geojson").read_bytes())


def make_one(path: Path, annotation: Path, *, seed: int) -> None:
    """One heatmap with tissue, noise and, every other time, some foci."""
    rng = np.random.default_rng(seed)
    values = np.full((ROWS, COLS), np.nan, np.float32)
    values[300:900, 150:550] = rng.beta(0.25, 12, size=(600, 400))
    features = []
    y, x = np.mgrid[:ROWS, :COLS]
    for radius in (60, 25, 8, 4, 3, 2) if seed % 2 == 0 else ():
        row, col = rng.integers(370, 830), rng.integers(220, 480)
        inside = np.hypot(y - row, x - col) <= radius
        values[inside] = rng.beta(6, 2, size=int(inside.sum()))
        turn = np.linspace(0, 2 * np.pi, 400)
        wave = radius * (1 + 0.1 * np.sin(9 * turn))
        ring = np.stack([col + 0.5 + wave * np.cos(turn), row + 0.5 + wave * np.sin(turn)], axis=1)
        ring = ring * CELL_L0
        ring[-1] = ring[0]
        geometry = {"type": "Polygon", "coordinates": [ring.tolist()]}
        properties = {"classification": {"name": "tumour"}}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    annotation.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    size = Size(COLS * CELL_L0, ROWS * CELL_L0)
    stored_heatmap(path, values, mpp=MPP, model_mpp=MPP * 4, size_l0=size, quickhash=f"made {seed}")


def link(first: Path, path: Path, slide: str) -> None:
    """The same heatmap, of a slide of another name."""
    for folder, _, names in os.walk(first):
        there = path / Path(folder).relative_to(first)
        there.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.link(Path(folder) / name, there / name)
    root = path / "zarr.json"
    record = json.loads(root.read_text(encoding="utf-8"))
    record["attributes"]["histoslide"]["slide"]["name"] = slide
    root.unlink()
    root.write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main()
