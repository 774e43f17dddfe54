"""Open a slide, load a model, lay out a lazy heatmap, store it, look at it.

    python examples/score_a_slide.py slide.tif heat.zarr

Without arguments it scores a small slide that it draws itself.
"""

import sys
import tempfile
from pathlib import Path

from histoslide import (
    draw_overlay,
    load_cascade,
    make_heatmap,
    open_slide,
    save_png,
    store_heatmap,
)
from histoslide.synthetic import scene_slide


def main(slide_path: Path, heat_path: Path) -> None:
    """Score one slide with the weights that ship."""
    slide = open_slide(slide_path)
    model = load_cascade()
    heat = make_heatmap(slide, model)  # lazy: heat.probability is a Dask array
    stored = store_heatmap(heat, heat_path)  # storing it is running it
    save_png(draw_overlay(stored, slide).image, heat_path.with_suffix(".png"), overwrite=True)
    probability = stored.probability()
    print(f"{slide.name}: {probability.shape[0]}×{probability.shape[1]} cells")
    print(f"cells scored: {stored.counts.scored:,} of {probability.size:,}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "node.tif"
            scene_slide(path, width=600, height=500, mpp=0.972, seed=1)
            main(path, Path(folder) / "heat.zarr")
