"""Write and execute docs/notebooks/heatmap.ipynb.

    python docs/make_notebook.py

A test executes the notebook again, so that it cannot rot.
"""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PAGE = Path(__file__).parent / "notebooks" / "heatmap.ipynb"

CELLS = (
    """# A heatmap in a notebook

This notebook draws a small slide, scores it with the weights that ship, and works with the
heatmap. It needs no data, and takes less than a minute. On a slide of your own, start at
`score_slide`.

Research use only. The lymph node below is drawn, not scanned.""",
    """from pathlib import Path

from histoslide import find_lesions, load_cascade, open_heatmap, score_slide
from histoslide.pipeline import ScoreOptions
from histoslide.synthetic import scene_slide

folder = Path("notebook-demo")
folder.mkdir(exist_ok=True)
drawn = scene_slide(folder / "node.tif", width=1000, height=1000, mpp=0.972, seed=7, overwrite=True)
result = score_slide(
    folder / "node.tif", folder / "heat.zarr", load_cascade(), ScoreOptions(stride_px=48)
)
result.state, dict(result.counts)""",
    """## Look at it

A heatmap as the last line of a cell shows itself: over grey tissue, since it does not need the
slide, with its longest lesions.""",
    """heat = open_heatmap(folder / "heat.zarr")
heat""",
    """## Count with it

`find_lesions` gives the lesions as objects. Outlines are shapely polygons in level-0 pixels.""",
    """report = find_lesions(heat)
for lesion in report.lesions:
    print(
        f"{lesion.number}: {lesion.kind}, {lesion.longest_diameter_um:.0f} µm, "
        f"{lesion.area_mm2:.3f} mm², {lesion.polygon_l0.geom_type}"
    )
print(f"{report.summary.tumour_share_of_tissue:.1%} of the tissue")""",
    """The slide was drawn, so the truth is known. A cell lights up if any tumour lies in it, so the
area comes out too large, the more so the larger the cells; and the model errs besides.""",
    """truth_mm2 = drawn.tumour.sum() * drawn.mpp**2 / 1e6
print(f"drawn {truth_mm2:.3f} mm², found {report.summary.tumour_area_mm2:.3f} mm²")""",
    """## Compute with it

`heat.array` is a Dask array, one pixel a cell. `heat.to_xarray()` adds coordinates in
micrometres, so that places are chosen by where they are, not by index.""",
    """probability = heat.to_xarray()
probability""",
    """middle = probability.sel(x=slice(400, 600), y=slice(400, 600))
print(f"mean within 0.4 to 0.6 mm: {float(middle.mean()):.2f} over {middle.size} cells")
print(f"highest: {float(probability.max()):.3f}")""",
    """Cells that were not scored are NaN, and xarray leaves them out of means. Read
*What the probabilities mean* in the documentation before you put a number into a table.""",
)


def is_code(text: str) -> bool:
    """Prose begins with a heading or a capital letter."""
    return not (text[0].isupper() or text.startswith("#"))


def make() -> nbformat.NotebookNode:
    """The notebook, not executed."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    for number, text in enumerate(CELLS):
        if is_code(text):
            cell = nbformat.v4.new_code_cell(text)
        else:
            cell = nbformat.v4.new_markdown_cell(text)
        cell["id"] = f"cell-{number}"
        notebook.cells.append(cell)
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run all cells in a folder; an error in one is raised."""
    # A progress bar or a log line would be different at each run.
    os.environ["TQDM_DISABLE"] = "1"
    client = NotebookClient(
        notebook,
        timeout=280,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    return client.execute()


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(make(), Path(folder))
    notebook.metadata.pop("language_info", None)
    PAGE.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, PAGE)


if __name__ == "__main__":
    main()
