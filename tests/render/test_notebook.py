"""A heatmap in a notebook: its arrays carry their places, and the example still runs."""

import base64
import io
import json
import re
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

import dask.array as da
import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from heatmaps import stored_heatmap
from PIL import Image

from histoslide.errors import HistoslideError
from histoslide.grid.status import Status
from histoslide.render.notebook import heatmap_html
from histoslide.store import Heatmap

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def heat(tmp_path: Path) -> Heatmap:
    p = (np.arange(30 * 40) / 4000).reshape(30, 40)
    p[3:9, 5:12] = 0.95
    p[0, 0] = np.nan
    return stored_heatmap(tmp_path / "<b>.zarr", p, model_mpp=0.972, name="a & b.tif")


def test_xarray_places_are_micrometres(heat: Heatmap) -> None:
    array = heat.to_xarray()
    assert isinstance(array.data, da.Array)
    np.testing.assert_array_equal(array.values, heat.probability())
    assert array.dims == ("y", "x")
    assert array.x.attrs["units"] == "µm"
    box = heat.grid.cell_box_l0(17, 23)
    middle = {"x": box.x + box.width / 2, "y": box.y + box.height / 2}
    place: Any = {key: value * heat.grid.slide_mpp.value for key, value in middle.items()}
    cell = array.sel(place, method="nearest")
    assert float(cell) == heat.probability()[17, 23]
    assert (float(cell.x), float(cell.y)) == pytest.approx((place["x"], place["y"]))
    assert int(array.status[0, 0]) == Status.BACKGROUND


def test_xarray_draws_the_first_row_on_top(heat: Heatmap) -> None:
    mpl.use("Agg")
    drawn = heat.to_xarray().plot()  # type: ignore[call-arg]
    bottom, top = drawn.axes.get_ylim()
    assert bottom > top
    assert (drawn.axes.get_xlabel(), drawn.axes.get_ylabel()) == ("x [µm]", "y [µm]")
    assert drawn.colorbar.ax.get_ylabel() == "P(tumour)"
    plt.close("all")


def test_xarray_of_more_classes(tmp_path: Path) -> None:
    p = np.random.default_rng(0).dirichlet((1, 1, 1), (8, 9))
    p[..., 2] = np.minimum(p[..., 2], 0.3)
    p[2:5, 3:5] = 0.01, 0.02, 0.97
    p /= p.sum(axis=2, keepdims=True)
    heat = stored_heatmap(tmp_path / "h.zarr", p, classes=("a", "b", "c"))
    array = heat.to_xarray()
    assert array.dims == ("class", "y", "x")
    np.testing.assert_array_equal(array.sel({"class": "b"}).values, heat.probability("b"))
    # Of the last class, as nothing says which is tumour.
    assert "<td>1</td>" in heatmap_html(heat)
    assert "<td>2</td>" not in heatmap_html(heat)


def test_without_xarray_the_way_out_is_named(
    heat: Heatmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(HistoslideError, match=r"pip install 'histoslide\[xarray\]'"):
        heat.to_xarray()


def test_a_heatmap_shows_itself(heat: Heatmap) -> None:
    html = heat._repr_html_()
    assert html is not None, "no entry point: install histoslide again (pip install -e .)"
    assert html == heatmap_html(heat)


def test_html_holds_picture_table_and_no_markup_of_others(heat: Heatmap, tmp_path: Path) -> None:
    html = heatmap_html(heat)
    found = re.search(r"base64,([^\"]+)", html)
    assert found
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        assert 500 < image.width < 900
    assert "micrometastasis" in html
    assert "Research use only" in html
    assert "a &amp; b.tif" in html
    assert "&lt;b&gt;.zarr" in html
    assert "<b>.zarr" not in html
    assert str(tmp_path) not in html
    assert "record" not in repr(heat)  # which is pages long
    none = stored_heatmap(tmp_path / "none.zarr", np.full((5, 5), 0.1))
    assert "No lesions" in heatmap_html(none)


def test_the_example_runs_and_is_up_to_date(tmp_path: Path) -> None:
    maker = runpy.run_path(str(DOCS / "make_notebook.py"))
    page = nbformat.read(DOCS / "notebooks" / "heatmap.ipynb", as_version=4)
    fresh = maker["make"]()
    assert [cell.source for cell in page.cells] == [cell.source for cell in fresh.cells], (
        "run docs/make_notebook.py"
    )
    text = json.dumps(page)
    assert not re.search(r"/(home|root|tmp|work|Users)/|site-packages", text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of Jupyter's are not ours
        done = maker["execute"](fresh, tmp_path)
    for there, here in zip(page.cells, done.cells, strict=True):
        kinds = [
            [
                (it.output_type, sorted(it.get("data", {})))
                for it in cell.get("outputs", [])
                if "DeprecationWarning" not in it.get("text", "")  # of old libraries about others
            ]
            for cell in (there, here)
        ]
        assert kinds[0] == kinds[1]
