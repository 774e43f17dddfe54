"""What a first look gains: whole runs of ``score`` on real slides, in turn.

    python benchmarks/first_look.py node.tiff=0.5 other.tiff=0.57 --rounds 3

Each slide is scored exactly, as by default (after a first look, where the model has one), and by
the light model alone, one after the other, as often as there are rounds. Times are those of the
whole command, from start to overlay and lesions; the rate is that of scoring alone, as the heatmap
records its seconds. The table has the medians, how they compare with exact, and what differs.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from histoslide.lesions import find_lesions
from histoslide.store import Heatmap, open_heatmap

WAYS = {
    "exact": ["--mode", "exact"],
    "default": [],
    "light alone": ["--model", "light"],
}


def run(slide: Path, mpp: str, way: str, out: Path, stride: int | None) -> tuple[float, Heatmap]:
    """One run: seconds of the command, and its heatmap."""
    command = [sys.executable, "-m", "histoslide_cli.main", "score", str(slide), "--mpp", mpp]
    command += [*WAYS[way], "--out", str(out), "--overwrite", "--quiet"]
    if stride is not None:
        command += ["--stride", str(stride)]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began, open_heatmap(out)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", nargs="+", metavar="SLIDE=MPP")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stride", type=int)
    arguments = parser.parse_args()
    names = ("slide", "", "command, s", "scoring, s", "cells/s", "times exact", "seen twice")
    print("|", " | ".join((*names, "positive lost", "lesions")), "|")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for given in arguments.slides:
            name, _, mpp = given.rpartition("=")
            slide = Path(name)
            walls: dict[str, list[float]] = {way: [] for way in WAYS}
            scorings: dict[str, list[float]] = {way: [] for way in WAYS}
            maps: dict[str, Heatmap] = {}
            for _ in range(arguments.rounds):
                for way in WAYS:
                    out = Path(folder) / f"{slide.stem}-{way.replace(' ', '-')}.zarr"
                    wall, maps[way] = run(slide, mpp, way, out, arguments.stride)
                    walls[way].append(wall)
                    scorings[way].append(maps[way].record.seconds)
            exact = maps["exact"].probability()
            for way, heat in maps.items():
                found = heat.probability()
                cells = int(np.isfinite(found).sum())
                wall, scoring = (statistics.median(x[way]) for x in (walls, scorings))
                gain = statistics.median(walls["exact"]) / wall
                faster = statistics.median(scorings["exact"]) / scoring
                looks = heat.looks
                twice = "" if looks is None else f"{(looks == 2).sum() / cells:.0%}"
                lost = int(((exact >= 0.5) & (found < 0.5)).sum())
                times = f"{gain:.2f}, scoring {faster:.2f}"
                row = [slide.name, way, f"{wall:.1f}", f"{scoring:.1f}", f"{cells / scoring:,.0f}"]
                row += [times, twice, str(lost), str(len(find_lesions(heat).lesions))]
                print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
