"""A slide that kills its library fails; the command goes on with the others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heatmaps import stored_heatmap
from histoslide_cli.main import main
from starlette.testclient import TestClient

import histoslide.slide.access as access_module
import histoslide.slide.isolated.slide as isolated_slide_module
from histoslide.geometry import Size
from histoslide.slide import open_slide
from histoslide.slide.isolated.slide import IsolatedSlide
from histoslide.synthetic import fiducial_slide
from histoslide.viewer.catalogue import Catalogue
from histoslide.viewer.server import create_app

Captured = pytest.CaptureFixture[str]

pytestmark = pytest.mark.filterwarnings("ignore:warned by the worker")


@pytest.fixture
def slides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of slides and their heatmaps; the library dies of reading some of them."""

    def isolated(path: Path, **options: Any) -> IsolatedSlide:
        return IsolatedSlide(path, **options | {"opener": "crashing:open_crashing"})

    monkeypatch.setattr(access_module, "IsolatedSlide", isolated)
    monkeypatch.setattr(isolated_slide_module, "MAX_CRASHES_AT_FIRST", 2)
    first = fiducial_slide(tmp_path / "a.tif", width=900, height=700, mpp=0.972)
    for name in ("abort", "z"):
        (tmp_path / f"{name}.tif").write_bytes(first.read_bytes())
    with open_slide(first) as slide:
        for name in ("a", "abort", "z"):
            stored_heatmap(
                tmp_path / f"{name}.zarr",
                np.full((22, 29), 0.25),
                mpp=0.972,
                model_mpp=0.972,
                size_l0=Size(900, 700),
                name=f"{name}.tif",
                quickhash=slide.quickhash,
            )
    return tmp_path


def said(capsys: Captured, name: str) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if f"{name}.tif: the" in line]


def test_tile_goes_on(slides: Path, capsys: Captured) -> None:
    words = [str(slides / f"{name}.tif") for name in ("a", "abort", "z")]
    assert main(["tile", *words, "--out", str(slides / "tiles"), "--tissue", "none"]) == 3
    assert said(capsys, "abort")[-1].count("SIGABRT") == 1
    for name in ("a", "z"):
        assert json.loads((slides / "tiles" / name / "tiles.json").read_text())["complete"]


def test_info_goes_on(slides: Path, capsys: Captured) -> None:
    (slides / "open-segv.tif").write_bytes((slides / "a.tif").read_bytes())
    words = [str(slides / f"{name}.tif") for name in ("a", "open-segv", "z")]
    assert main(["info", "--json", *words]) == 3
    captured = capsys.readouterr()
    assert [facts["name"] for facts in json.loads(captured.out)] == ["a.tif", "z.tif"]
    assert "SIGSEGV" in captured.err


def test_overlay_ends_in_a_line(slides: Path, capsys: Captured) -> None:
    words = [str(slides / "abort.zarr"), "--slide", str(slides / "abort.tif")]
    assert main(["overlay", *words, "--out", str(slides / "o.png")]) == 2
    assert "SIGABRT" in said(capsys, "abort")[0]


def test_a_report_is_made_of_the_others(slides: Path) -> None:
    assert main(["report", str(slides), "--out", str(slides / "r.html")]) == 3
    page = (slides / "r.html").read_text()
    assert "a.tif" in page
    assert "z.tif" in page


def test_the_viewer_answers_on(slides: Path) -> None:
    catalogue = Catalogue([slides])
    try:
        web = TestClient(create_app(catalogue), base_url="http://127.0.0.1")
        for _ in range(3):
            assert web.get("/api/heatmaps/abort/slide/10/1/1").status_code != 404
        assert web.get("/api/heatmaps/abort").status_code == 200
        assert web.get("/api/heatmaps/a/slide/10/1/1").status_code == 200
        assert web.get("/api/heatmaps/z").json()["slide"]["present"]
    finally:
        catalogue.close()
