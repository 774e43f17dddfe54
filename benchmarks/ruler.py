"""What the nuclei on slides say of their resolution, beside what is known of it.

    python benchmarks/ruler.py slides/*.tiff slides/*.svs

Prints a line for each slide, and for drawn nodes at five resolutions. What a slide records is not
used.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from histoslide.errors import HistoslideError
from histoslide.geometry import Mpp
from histoslide.slide import open_slide
from histoslide.synthetic import scene_slide
from histoslide.tissue.masks import METHODS, find_tissue
from histoslide.tissue.ruler import CLEAR, read_ruler

DRAWN = (0.25, 0.5, 0.75, 1.0, 1.3)
"""Micrometres per pixel."""


def main() -> None:
    """Look at what was named, then at what is drawn."""
    for path in map(Path, sys.argv[1:]):
        try:
            show(path, path.name)
        except HistoslideError as error:
            print(error)
    with tempfile.TemporaryDirectory() as folder:
        for mpp in DRAWN:
            path = Path(folder) / f"{mpp}.tif"
            side = round(1500 / mpp)
            scene_slide(path, width=side, height=side, mpp=mpp, seed=1)
            show(path, f"drawn at {mpp:g}")


def show(path: Path, name: str) -> None:
    """A line: resolution told, how clear that is, and the seconds it takes beside the mask."""
    with open_slide(path) as slide:
        recorded = slide.mpp
    with open_slide(
        path, mpp=Mpp(value=recorded.value if recorded else 0.5, source="any")
    ) as slide:
        mask = find_tissue(slide, METHODS["otsu"])
        started = time.process_time()
        reading = read_ruler(slide, mask.mask)
        seconds = time.process_time() - started
    told = (
        f"{reading.mpp:.2f} µm/px, clear {reading.clearness:.2f}" if reading else "nothing is said"
    )
    known = f"{recorded.value:g}" if recorded else "not recorded"
    print(
        f"{name}: {told} (below {CLEAR:g} nothing is); slide: {known}; {seconds:.2f} s of processor"
    )


if __name__ == "__main__":
    main()
