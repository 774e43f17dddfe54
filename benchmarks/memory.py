"""Peak resident memory of scoring slides, each of four times the area of the one before.

    python benchmarks/memory.py

Each slide is scored in a process of its own with a small network, so that what is measured is
reading, cutting, storing and the pyramid. Linux only. Prints the peaks and their ratios.
"""

import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from histoslide.model import Model, ModelSpec
from histoslide.scoring.lazy import make_heatmap
from histoslide.slide import open_slide
from histoslide.store import store_heatmap
from histoslide.synthetic import scene, write_slide

SIDES = (6144, 12288, 24576)
"""Level-0 sides of the slides, at 0.243 µm/px."""


class MeanColour(nn.Module):
    """A network that costs nothing: two logits from the mean red and blue."""

    def forward(self, tiles: Tensor) -> Tensor:
        """Map (n, 3, h, w) to (n, 2)."""
        return tiles.mean(dim=(2, 3))[:, ::2]


def score(side: int, folder: str, queue: "multiprocessing.Queue[tuple[int, int]]") -> None:
    """Score a slide and report cells and the peak of resident memory in KiB."""
    spec = ModelSpec(
        name="mean",
        architecture="none",
        classes=("normal", "tumour"),
        tumour_class="tumour",
        input_px=96,
        label_px=32,
        mpp=0.972,
    )
    model = Model(spec, MeanColour(), device="cpu", sha256="mean")
    slide = open_slide(Path(folder) / f"{side}.tif")
    heat = store_heatmap(make_heatmap(slide, model), Path(folder) / f"{side}.zarr")
    # VmHWM and not getrusage: the latter still remembers the parent, which drew the slides.
    status = Path("/proc/self/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    queue.put((heat.counts.scored, int(peak)))


def main() -> None:
    """Make the slides, score each in its own process, print peaks and ratios."""
    context = multiprocessing.get_context("spawn")
    tile = scene(1024, 1024, mpp=0.243, seed=1).pixels
    peaks: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            pixels = np.tile(tile, (side // 1024, side // 1024, 1))
            write_slide(Path(folder) / f"{side}.tif", pixels, mpp=0.243, downsamples=(4.0, 16.0))
            del pixels
            queue = context.Queue()
            process = context.Process(target=score, args=(side, folder, queue))
            process.start()
            cells, peak = queue.get()
            process.join()
            text = f"{side}×{side} px, {cells:,} cells scored: peak {peak / 1024:.0f} MiB"
            if peaks:
                text += f", {peak / peaks[-1]:.2f} times that of a quarter of the area"
            peaks.append(peak)
            print(text)


if __name__ == "__main__":
    main()
