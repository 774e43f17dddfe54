"""The report: what stands in it, where foci lie in it, and that it needs nothing else."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import zarr
from fakes import FakeSlide
from heatmaps import stored_heatmap
from histoslide_cli.main import main
from models import colour_model
from PIL import Image
from scipy.ndimage import gaussian_filter

from histoslide.cohort.records import write_run
from histoslide.errors import OutputExistsError, StoreError
from histoslide.geometry import Box, Mpp, Size
from histoslide.grid.status import Status
from histoslide.lesions import LesionSettings, find_lesions
from histoslide.pipeline import ScoreOptions, TissueOptions, score_slide
from histoslide.pipeline.result import SlideResult
from histoslide.report.contents import gather, svg_path
from histoslide.report.page import write_report
from histoslide.report.pictures import embedded_values, tile_picture
from histoslide.report.quality import BLURRED, measure_quality, pen_share, sharpness
from histoslide.scoring.lazy import make_grid
from histoslide.slide import open_slide
from histoslide.store import halve_probability, open_heatmap
from histoslide.synthetic import decode_fiducial, fiducial_slide, scene
from histoslide.viewer.catalogue import Catalogue

EVERYTHING = ScoreOptions(tissue=TissueOptions(method="none", threshold=0), overlay=False)


class Page(HTMLParser):
    """Everything that a page asks for, says, and embeds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside = ""
        self.scripts: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id") or "" if tag == "script" else ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[self.inside] = data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a.tif and the a.zarr that was made from it."""
    folder = tmp_path_factory.mktemp("report")
    slide = fiducial_slide(folder / "a.tif", width=1536, height=928, mpp=0.972)
    score_slide(slide, folder / "a.zarr", colour_model(), EVERYTHING)
    return folder


def report(out: Path, *paths: Path, **options: Any) -> Page:
    with Catalogue(list(paths), slides=options.pop("slides", ())) as catalogue:
        write_report(catalogue, out, **options)
    return Page(out.read_text(encoding="utf-8"))


def test_nothing_outside_the_file_is_asked_for(scored: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "r.html", scored / "a.zarr")
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "action", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|https?:", text)
    policy = next(a["content"] for t, a in page.tags if "Content-Security-Policy" in a.values())
    assert str(policy).startswith("default-src 'none'")
    assert str(scored) not in text, "no absolute path"


def test_it_says_what_is_known(scored: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "r.html", scored / "a.zarr")
    for words in (
        "Metastasis heatmap of a.tif",
        "Research use only",
        "1,536 × 928 px, 1.49 × 0.90 mm",
        "0.972 µm/px (slide metadata)",
        "Cells unreadable 0",
        "colour-0",
        "one every 32 px (31.1 µm), where tissue makes up 0 % or more",
        "torch fp32 on cpu, mode exact",
        "histoslide 0.1",
        "The highest probabilities",
        "The most doubtful",
    ):
        assert words in page.text, words
    assert page.text.count("level-0 px") == 1


def test_names_never_become_markup(tmp_path: Path) -> None:
    bad = "<script>alert(1)<%2fscript>&\"'.tif"
    stored_heatmap(tmp_path / "h.zarr", np.full((4, 5), 0.95, np.float32), name=bad)
    group: Any = zarr.open_group(tmp_path / "h.zarr", mode="r+")
    metadata = group.attrs["histoslide"]
    metadata["mask"]["warnings"] = ["<img src=x onerror=alert(2)>"]
    metadata["command"] = "</script><b>"
    group.attrs["histoslide"] = metadata
    page = report(tmp_path / "r.html", tmp_path / "h.zarr")
    assert bad in page.text
    assert "<img src=x onerror=alert(2)>" in page.text
    assert "</script><b>" in page.text
    assert sum(tag == "script" for tag, _ in page.tags) == 3  # values, colours, code


def numbered(rows: int, cols: int) -> Any:
    values = (np.arange(rows * cols, dtype=np.float32) / (rows * cols)).reshape(rows, cols)
    values[3, 4] = np.nan
    return values


def decoded(found: Any) -> Any:
    numbers = np.frombuffer(base64.b64decode(found["values"]), "<u2")
    values = np.where(numbers == 65535, np.nan, numbers / 65534)
    return values.reshape(found["rows"], found["cols"])


def test_the_overlay_holds_every_value_or_the_maximum_of_several(tmp_path: Path) -> None:
    heat = stored_heatmap(tmp_path / "h.zarr", numbered(70, 90))
    exact = embedded_values(numbered(70, 90), heat.grid, 90)
    np.testing.assert_allclose(decoded(exact), numbered(70, 90), atol=1 / 65534)
    assert exact["cell_l0"] == heat.grid.cell_l0
    halved = embedded_values(numbered(70, 90), heat.grid, 89)
    np.testing.assert_allclose(decoded(halved), halve_probability(numbered(70, 90)), atol=2e-5)
    assert halved["cell_l0"] == 2 * heat.grid.cell_l0


def test_foci_lie_where_they_were_found(tmp_path: Path) -> None:
    values = np.full((40, 60), 0.1, np.float32)
    values[5:9, 10:20] = 0.95
    values[5, 10:12] = 0.1  # its upper edge is not in the middle
    values[6, 12] = 0.1  # a hole
    values[30:31, 40:42] = 0.95
    heat = stored_heatmap(tmp_path / "h.zarr", values)
    page = report(tmp_path / "r.html", tmp_path / "h.zarr")
    paths = [a["d"] for tag, a in page.tags if tag == "path" and a["class"] == "line"]
    found = find_lesions(heat).lesions
    assert len(paths) == len(found) == 2
    for path, lesion in zip(paths, found, strict=True):
        assert path is not None
        rings = [
            [tuple(map(float, point.split())) for point in ring.rstrip("Z").split("L")]
            for ring in path.split("M")[1:]
        ]
        drawn = shapely.Polygon(rings[0], rings[1:])
        assert drawn.symmetric_difference(lesion.polygon_l0).area < 1
    side = heat.grid.cell_l0
    assert shapely.Polygon(
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", str(paths[1]))]
    ).bounds == (40 * side, 30 * side, 42 * side, 31 * side)
    assert svg_path(found[0]).count("M") == 2
    numbers = [
        (float(str(a["x"])), float(str(a["y"])))
        for tag, a in page.tags
        if tag == "text" and "aria-hidden" in a
    ]
    assert len(numbers) == 2
    for (x, y), lesion in zip(numbers, found, strict=True):  # above the middle of its upper edge
        box = lesion.box_l0
        assert x == pytest.approx(
            box.x + box.width / 2 + (side if lesion.number == 1 else 0), abs=1
        )
        assert box.y - side < y < box.y
    rows = [a for tag, a in page.tags if tag == "tr" and "data-focus" in a]
    assert [row["id"] for row in rows] == ["s1-row-1", "s1-row-2"]
    values_ = json.loads(page.scripts["s1-values"])
    assert decoded(values_)[5, 12] == pytest.approx(0.95, abs=2e-5)


def test_tiles_are_the_highest_and_the_most_doubtful(scored: Path) -> None:
    heat = open_heatmap(scored / "a.zarr")
    with open_slide(scored / "a.tif") as slide:
        said = gather(heat, slide, LesionSettings(), anchor="s1", picture_px=300)
        probability = heat.probability()
        flat = np.sort(probability[np.isfinite(probability)])[::-1]
        assert [tile.probability for tile in said.highest] == pytest.approx(flat[:10])
        distance = np.sort(np.abs(flat - 0.5))[:10]
        assert [abs(t.probability - 0.5) for t in said.doubtful] == pytest.approx(distance)
        for tile in (*said.highest, *said.doubtful):
            body = base64.b64decode(tile.picture.partition(",")[2])
            pixels = np.asarray(Image.open(io.BytesIO(body))).astype(float)
            inside = pixels[70:122, 70:122].mean(axis=(0, 1))  # within the box
            x, y = decode_fiducial(inside, width=1536, height=928)
            assert (x, y) == pytest.approx((tile.x_l0, tile.y_l0), abs=8)
            box = pixels[95, [62, 63, 128, 129]]
            assert (box.min(axis=1) > 180).any(), "white beside the footprint"


def test_a_box_stands_just_outside_of_the_label_footprint() -> None:
    slide = FakeSlide([np.full((960, 960, 3), 90, np.uint8)], mpp=Mpp(value=0.972, source="--mpp"))
    grid = make_grid(slide, colour_model().spec)
    body = base64.b64decode(tile_picture(slide, grid, 5, 5).partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(body))).astype(int)
    white = np.argwhere(pixels.min(axis=2) > 180)
    assert tuple(white.min(axis=0)) == (62, 62)
    assert tuple(white.max(axis=0)) == (129, 129)
    assert (pixels[66:126, 66:126].std(axis=(0, 1)) < 8).all(), "nothing lies on what was labelled"


def test_quality_knows_pen_and_blur(tmp_path: Path) -> None:
    node = scene(700, 700, mpp=0.972, seed=2).pixels
    assert pen_share(node) < 0.001
    marked = node.copy()
    marked[:20] = (40, 120, 200)
    assert pen_share(marked) == pytest.approx(20 / 700, abs=0.002)
    tile = node[300:396, 300:396]
    soft = np.stack([gaussian_filter(tile[..., i], 2.0) for i in range(3)], axis=2)
    assert sharpness(soft) < BLURRED < sharpness(tile)
    assert sharpness(np.full((96, 96, 3), 200, np.uint8)) == 0
    blurred = np.stack([gaussian_filter(marked[..., i], 3.0) for i in range(3)], axis=2)
    heat = stored_heatmap(
        tmp_path / "h.zarr", np.full((22, 22), 0.5, np.float32), mpp=0.972, model_mpp=0.972,
        size_l0=Size(700, 700),
    )  # fmt: skip
    found = measure_quality(heat, FakeSlide([blurred]))
    assert found.blurred_share is not None
    assert found.blurred_share > 0.8
    assert found.tiles == 60
    rotten = measure_quality(heat, FakeSlide([blurred], rotten=Box(300, 300, 20, 20)))
    assert 0 < rotten.tiles < 60, "tiles that cannot be read are left out"
    assert [("pen" in w, "focus" in w) for w in found.warnings] == [(True, False), (False, True)]


def test_warnings_stand_out(tmp_path: Path) -> None:
    values = np.full((10, 10), 0.2, np.float32)
    status = np.full((10, 10), Status.SCORED, np.uint8)
    values[2, 3:6], status[2, 3:6] = np.nan, Status.UNREADABLE
    stored_heatmap(tmp_path / "h.zarr", values, status=status)
    page = report(tmp_path / "r.html", tmp_path / "h.zarr")
    assert "3 cells could not be read and may hide a lesion" in page.text
    assert "Cells unreadable 3" in page.text
    assert "No focus at these settings" in page.text
    assert "not judged: the slide was not at hand" in page.text
    assert "Tiles are shown where the slide is at hand" in page.text


def test_a_heatmap_without_any_score_is_reported(tmp_path: Path) -> None:
    stored_heatmap(tmp_path / "h.zarr", np.full((4, 5), np.nan, np.float32))
    page = report(tmp_path / "r.html", tmp_path / "h.zarr")
    assert "slide score none, highest probability none" in page.text


def test_a_cohort_begins_with_a_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, peak in (("a", 0.95), ("b", 0.3)):
        stored_heatmap(tmp_path / f"{name}.zarr", np.full((4, 5), peak, np.float32), name=name)
    stored_heatmap(tmp_path / "c.zarr", np.full((4, 5), 0.5, np.float32))
    group: Any = zarr.open_group(tmp_path / "c.zarr", mode="r+")
    group.attrs["histoslide"] = group.attrs["histoslide"] | {"complete": False}
    results = [
        SlideResult(slide="a", state="done", output="a.zarr", warnings=("a warning of the run",)),
        SlideResult(slide="<d>.svs", state="failed", output="d.zarr", error="<d>.svs is empty"),
    ]
    write_run(tmp_path, "made", results, total=2)
    out = tmp_path / "r.html"
    with Catalogue([tmp_path]) as catalogue:
        slides, failed = write_report(catalogue, out)
    assert "<d>.svs is left out, since scoring it failed: <d>.svs is empty" in caplog.text
    assert [slide.name for slide in slides] == ["a", "b"]
    assert sorted(slide.name for slide in failed) == ["<d>.svs", "c.zarr"]
    page = Page(out.read_text(encoding="utf-8"))
    assert "c.zarr is incomplete" in page.text
    assert "<d>.svs is empty" in page.text
    assert "a warning of the run" in page.text
    links = [a["href"] for tag, a in page.tags if tag == "a" and a.get("href")]
    anchors = {a["id"] for _, a in page.tags if a.get("id")}
    assert {str(link)[1:] for link in links} <= anchors


def test_bad_input(scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.html"
    assert main(["report", str(tmp_path / "none.zarr"), "--out", str(out)]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["report", str(scored / "a.zarr"), "--out", str(out), "--seed", "2"]) == 2
    assert main(["report", str(scored / "a.zarr"), "--out", str(out), "--size", "9"]) == 2
    assert not out.exists()
    assert main(["report", str(scored / "a.zarr"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert main(["report", str(scored / "a.zarr"), "--out", str(out)]) == 2
    with pytest.raises(OutputExistsError):
        write_report(Catalogue([scored / "a.zarr"]), out)
    other = fiducial_slide(tmp_path / "b.tif", width=600, height=400, mpp=0.972)
    command = ["report", str(scored / "a.zarr"), "--out", str(out), "--slide", str(other)]
    assert main([*command, "--overwrite"]) == 2
    assert "is not the slide" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--force"]) == 0
    assert "b.tif is not the slide that was scored" in Page(out.read_text()).text
    stored_heatmap(tmp_path / "i.zarr", np.full((4, 5), 0.5, np.float32))
    group: Any = zarr.open_group(tmp_path / "i.zarr", mode="r+")
    group.attrs["histoslide"] = group.attrs["histoslide"] | {"complete": False}
    with pytest.raises(StoreError, match=r"nothing to report: i\.zarr is incomplete"):
        write_report(Catalogue([tmp_path / "i.zarr"]), tmp_path / "i.html")
