"""Exports: every format says the same value at the same place of the slide."""

import csv
import json
import math
import time
import uuid
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import shapely
import tifffile
import zarr
from heatmaps import stored_heatmap
from histoslide_cli.main import main
from numpy.typing import NDArray
from ome_types import from_tiff
from ome_zarr_models.v04 import Image as ImageV04
from ome_zarr_models.v04.image_label import ImageLabel as ImageLabelV04

from histoslide.annotations.rasterise import rasterise
from histoslide.annotations.reading import read_annotations
from histoslide.errors import HistoslideError, OutputExistsError, StoreError
from histoslide.export.cell_table import write_csv
from histoslide.export.dicom import NOT_SCORED, write_dicom
from histoslide.export.geojson import write_geojson
from histoslide.export.numpy_file import write_npz
from histoslide.export.ome_tiff import write_ome_tiff
from histoslide.geometry import Box, Size
from histoslide.lesions import LESION_COLOURS, LesionSettings, find_lesions
from histoslide.render import draw_overlay
from histoslide.store import Heatmap, convert_heatmap, open_heatmap

ROWS, COLS = 83, 71
CORNER = (1234.0, 567.0)
FOCUS = (slice(20, 23), slice(30, 35))
SETTINGS = LesionSettings(seed_probability=0.85, extend_probability=0.85)


def position_code() -> NDArray[Any]:
    """Below 0.5, each cell another value; the focus near 1, with a hole; a corner not scored."""
    p = (np.arange(1, ROWS * COLS + 1, dtype=np.float32) / (2 * ROWS * COLS)).reshape(ROWS, COLS)
    p[FOCUS] += 0.75
    p[21, 32] = 0.1
    p[:5, :7] = np.nan
    return p


@pytest.fixture(scope="module")
def heat(tmp_path_factory: pytest.TempPathFactory) -> Heatmap:
    """Cells of 31.104 µm, 126.439… level-0 pixels, on a slide with bounds."""
    return stored_heatmap(
        tmp_path_factory.mktemp("export") / "h.zarr",
        position_code(),
        mpp=0.246,
        model_mpp=0.972,
        size_l0=Size(8950, 10450),
        bounds_l0=Box(*CORNER, 7000, 9000),
    )


def focus_cells() -> set[tuple[int, int]]:
    cells = {(r, c) for r in range(20, 23) for c in range(30, 35)}
    return cells - {(21, 32)}


# ------------------------------------------------------------------------------ GeoJSON


def test_geojson_is_what_qupath_reads(heat: Heatmap, tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    report = find_lesions(heat, SETTINGS)
    write_geojson(heat, report, path)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["type"] == "FeatureCollection"
    (feature,) = document["features"]
    (lesion,) = report.lesions
    properties = feature["properties"]
    assert (feature["type"], properties["objectType"]) == ("Feature", "annotation")
    uuid.UUID(feature["id"])
    name, colour = (properties["classification"][key] for key in ("name", "color"))
    assert name == "Isolated tumour cells"
    assert all(0 <= value <= 255 for value in colour)
    assert len(colour) == 3
    assert properties["measurements"]["Longest diameter µm"] == lesion.longest_diameter_um
    assert all(isinstance(value, int | float) for value in properties["measurements"].values())
    again = tmp_path / "b.geojson"
    write_geojson(heat, find_lesions(heat, SETTINGS), again)
    assert again.read_bytes() == path.read_bytes()


def test_geojson_counts_from_the_bounds(heat: Heatmap, tmp_path: Path) -> None:
    report = find_lesions(heat, SETTINGS)
    for crop, corner in ((True, CORNER), (False, (0.0, 0.0))):
        path = tmp_path / f"{crop}.geojson"
        write_geojson(heat, report, path, bounds_crop=crop)
        document = json.loads(path.read_text(encoding="utf-8"))
        shape: Any = shapely.geometry.shape(document["features"][0]["geometry"])
        assert shape.is_valid
        assert shape.exterior.is_ccw  # RFC 7946
        assert not shape.interiors[0].is_ccw
        side = heat.grid.cell_l0
        expected = np.array([30 * side, 20 * side, 35 * side, 23 * side]) - np.tile(corner, 2)
        assert tuple(shape.bounds) == tuple(expected)
        assert document["histoslide"]["corner_l0"] == list(corner)


def test_geojson_painted_back_gives_the_cells(heat: Heatmap, tmp_path: Path) -> None:
    """Through the reader of masks, as a user would take an export for a region of interest."""
    write_geojson(heat, find_lesions(heat, SETTINGS), tmp_path / "a.geojson", bounds_crop=False)
    polygons = [item.polygon for item in read_annotations(tmp_path / "a.geojson").items]
    mask = rasterise(polygons, heat.grid.size_l0, Size(895, 1045))
    painted = set()
    for row, col in np.ndindex(heat.grid.shape):
        box = heat.grid.cell_box_l0(row, col)
        y, x = (box.y + box.height / 2) / 10, (box.x + box.width / 2) / 10
        if y < 1045 and x < 895 and mask[int(y), int(x)]:
            painted.add((row, col))
    assert painted == focus_cells()


def test_geojson_cells(heat: Heatmap, tmp_path: Path) -> None:
    write_geojson(heat, find_lesions(heat, SETTINGS), tmp_path / "a.geojson", cells=True)
    features = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))["features"]
    tiles = [it for it in features if it["properties"]["objectType"] == "tile"]
    assert len(tiles) == ROWS * COLS - 35 == len(features) - 1
    assert len({it["id"] for it in features}) == len(features)
    p = position_code()
    x_edges, y_edges = heat.grid.edges_l0()
    classed = set()
    for tile in tiles:
        bounds = np.array(shapely.geometry.shape(tile["geometry"]).bounds) + np.tile(CORNER, 2)
        row, col = heat.grid.cell_at_l0(*(bounds[:2] + bounds[2:]) / 2)
        assert bounds == pytest.approx(
            [x_edges[col], y_edges[row], x_edges[col + 1], y_edges[row + 1]], abs=1e-9
        )
        assert tile["properties"]["measurements"]["P(tumour)"] == p[row, col]
        if "classification" in tile["properties"]:
            classed.add((row, col))
    assert classed == focus_cells()


def test_geojson_without_lesions(tmp_path: Path) -> None:
    heat = stored_heatmap(tmp_path / "h.zarr", np.full((5, 5), 0.1))
    write_geojson(heat, find_lesions(heat), tmp_path / "a.geojson")
    assert json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))["features"] == []


# ------------------------------------------------------------------------------ tables and arrays


def test_csv_has_wsinfers_columns_and_exact_numbers(heat: Heatmap, tmp_path: Path) -> None:
    write_csv(heat, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["minx", "miny", "width", "height", "prob_normal", "prob_tumour"]
    p = position_code()
    cells = np.argwhere(np.isfinite(p))
    assert len(rows) - 1 == len(cells)
    for (row, col), text in zip(cells.tolist(), rows[1:], strict=True):
        box = heat.grid.cell_box_l0(row, col)
        assert [float(it) for it in text[:4]] == [box.x, box.y, box.width, box.height]
        assert np.float32(text[5]) == p[row, col]
        assert float(text[4]) == pytest.approx(1 - p[row, col])


def test_npz(heat: Heatmap, tmp_path: Path) -> None:
    write_npz(heat, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        np.testing.assert_array_equal(arrays["probability"][1], position_code())
        assert arrays["classes"].tolist() == ["normal", "tumour"]
        np.testing.assert_array_equal(arrays["status"], heat.status)
        assert arrays["x_l0"][30] == 30 * heat.grid.cell_l0
        assert (arrays["x_l0"][-1], arrays["y_l0"][-1]) == (8950, 10450)
        assert json.loads(str(arrays["metadata"]))["slide"]["name"] == "made.tif"


@pytest.mark.parametrize("classes", [("normal", "tumour"), ("a", "b", "c")])
def test_ome_tiff(tmp_path: Path, classes: tuple[str, ...]) -> None:
    p = position_code()
    if len(classes) == 3:
        p = np.stack([p / 4, p / 2, 1 - p / 4 - p / 2], axis=2)
    heat = stored_heatmap(tmp_path / "h.zarr", p, model_mpp=0.972, classes=classes)
    path = tmp_path / "a.ome.tif"
    write_ome_tiff(heat, path)
    stored = zarr.open_group(heat.path, mode="r")
    with tifffile.TiffFile(path) as tiff:
        (series,) = tiff.series
        assert len(series.levels) == 2
        for level, pages in enumerate(series.levels):
            np.testing.assert_array_equal(pages.asarray(), np.asarray(stored[str(level)][:]))  # type: ignore[index]
    pixels = from_tiff(path).images[0].pixels
    assert pixels.physical_size_x == pixels.physical_size_y == 32 * 0.972
    assert pixels.physical_size_x_unit.value == "µm"
    assert [channel.name for channel in pixels.channels] == list(heat.shown_classes)
    with pytest.raises(HistoslideError, match=r"must end in \.ome\.tif"):
        write_ome_tiff(heat, tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.ome.tif", "a.npz", "a.csv", "a.geojson"])
def test_equal_heatmaps_make_equal_files(
    heat: Heatmap, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"ome.tif": "ome-tiff", "npz": "numpy"}.get(name[2:], name[2:])
    contents = []
    for folder, later in (("one", 0), ("two", 100_000)):
        now = time.time() + later
        monkeypatch.setattr(time, "time", lambda now=now: now)
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / name
        assert main(["export", str(heat.path), "--to", kind, "--out", str(path)]) == 0
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


def test_classes_are_told_apart_by_their_colours(tmp_path: Path) -> None:
    """Viewers add channels up: in one colour they would all look alike, and all of them sure."""
    classes = ("normal", "mucus", "tumour")
    heat = stored_heatmap(tmp_path / "h.zarr", np.full((5, 5, 3), 1 / 3), classes=classes)
    attributes: Any = zarr.open_group(heat.path, mode="r").attrs["ome"]
    channels = attributes["omero"]["channels"]
    assert tuple(channel["label"] for channel in channels) == classes
    assert len({channel["color"] for channel in channels}) == 3


def test_ome_zarr(heat: Heatmap, tmp_path: Path) -> None:
    older = convert_heatmap(heat, tmp_path / "4.zarr", ngff="0.4")
    group = zarr.open_group(older.path, mode="r")
    assert group.metadata.zarr_format == 2
    multiscales: Any = ImageV04.from_zarr(group).attributes.multiscales
    ImageLabelV04.from_zarr(zarr.open_group(older.path / "labels" / "status", mode="r"))
    (scale,) = multiscales[0].datasets[1].coordinateTransformations
    assert scale.scale == pytest.approx([2 * heat.grid.cell_um] * 2)
    np.testing.assert_array_equal(older.probability(), heat.probability())
    np.testing.assert_array_equal(older.status, heat.status)
    assert older.grid == heat.grid
    assert older.record.counts == heat.record.counts
    newer = convert_heatmap(older, tmp_path / "5.zarr", ngff="0.5")
    assert newer.id == heat.id
    ours, theirs = (zarr.open_group(it.path, mode="r")["1"] for it in (heat, newer))
    np.testing.assert_array_equal(np.asarray(ours[:]), np.asarray(theirs[:]))  # type: ignore[index]
    assert not list(tmp_path.glob(".*"))


def test_ome_zarr_replaces_only_heatmaps(heat: Heatmap, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    with pytest.raises(OutputExistsError):
        convert_heatmap(heat, precious, ngff="0.4")
    with pytest.raises(StoreError, match="not a heatmap"):
        convert_heatmap(heat, precious, ngff="0.4", overwrite=True)
    assert (precious / "thesis.txt").exists()
    with pytest.raises(StoreError, match="is the heatmap itself"):
        convert_heatmap(heat, heat.path, ngff="0.4", overwrite=True)
    convert_heatmap(heat, tmp_path / "a.zarr", ngff="0.5")
    again = convert_heatmap(heat, tmp_path / "a.zarr", ngff="0.4", overwrite=True)
    assert again.record.fingerprint["ngff"] == "0.4"
    assert sorted(it.name for it in tmp_path.iterdir()) == ["a.zarr", "precious"]


def test_dicom(heat: Heatmap, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(heat, path)
    p = position_code()
    image = highdicom.imread(path)
    matrix = image.get_total_pixel_matrix()
    np.testing.assert_array_equal(matrix, np.where(np.isfinite(p), p, NOT_SCORED))
    dataset = pydicom.dcmread(path)
    assert dataset.SOPClassUID.name == "Parametric Map Storage"
    assert dataset.ContentQualification == "RESEARCH"
    assert dataset.FloatPixelPaddingValue == NOT_SCORED
    origin = dataset.TotalPixelMatrixOriginSequence[0]
    (measures,) = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    box = heat.grid.cell_box_l0(22, 34)
    for offset, spacing, index, middle_l0 in (
        (
            origin.XOffsetInSlideCoordinateSystem,
            measures.PixelSpacing[1],
            34,
            box.x + box.width / 2,
        ),
        (
            origin.YOffsetInSlideCoordinateSystem,
            measures.PixelSpacing[0],
            22,
            box.y + box.height / 2,
        ),
    ):
        assert float(offset) + index * float(spacing) == pytest.approx(middle_l0 * 0.246 / 1000)
    write_dicom(heat, tmp_path / "b.dcm")
    assert pydicom.dcmread(tmp_path / "b.dcm").SOPInstanceUID == dataset.SOPInstanceUID


def test_dicom_takes_names_of_any_script(tmp_path: Path) -> None:
    p = np.full((5, 5, 2), 0.5, dtype=np.float32)
    for i, name in enumerate(("病理.svs", "žluťoučký.svs")):
        heat = stored_heatmap(tmp_path / f"{i}.zarr", p, name=name, classes=("нет", "опухоль"))
        write_dicom(heat, tmp_path / f"{i}.dcm")
        dataset = pydicom.dcmread(tmp_path / f"{i}.dcm")
        assert dataset.SeriesDescription.startswith(f"{name}: P(")
        functional = dataset.SharedFunctionalGroupsSequence[0]
        groups = [functional, *dataset.PerFrameFunctionalGroupsSequence]
        maps = [m for group in groups for m in group.get("RealWorldValueMappingSequence", ())]
        assert {m.LUTLabel for m in maps} == {"опухоль"}


def test_dicom_cuts_names_that_are_too_long(tmp_path: Path) -> None:
    classes = ("normal", "adipose\\fatty", "lymphocytes and plasma cells " * 3)
    p = np.full((5, 5, 3), 0.25, dtype=np.float32)
    heat = stored_heatmap(
        tmp_path / "h.zarr", p, classes=classes, name=f"{'slide' * 20}.svs", model="model" * 20
    )
    write_dicom(heat, tmp_path / "a.dcm")
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    assert dataset.ManufacturerModelName == ("model" * 20)[:64]
    assert dataset.SeriesDescription == ("slide" * 20)[:64]
    maps = [
        group.RealWorldValueMappingSequence[0] for group in dataset.PerFrameFunctionalGroupsSequence
    ]
    assert [m.LUTLabel for m in maps] == ["normal", "adipose/fatty", "lymphocytes and"]
    assert maps[2].LUTExplanation == (
        "probability of lymphocytes and plasma cells, -1 where not scored"
    )


def test_dicom_in_several_frames_and_channels(tmp_path: Path) -> None:
    p = np.random.default_rng(1).dirichlet((1, 1, 1), (40, 600)).astype(np.float32)
    heat = stored_heatmap(tmp_path / "h.zarr", p, classes=("a", "b", "c"))
    write_dicom(heat, tmp_path / "a.dcm")
    image = highdicom.imread(tmp_path / "a.dcm")
    assert image.NumberOfFrames == 2 * 3
    labels = [
        it.RealWorldValueMappingSequence[0].LUTLabel
        for it in image.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(set(labels)) == ["a", "b", "c"]
    frames = pydicom.dcmread(tmp_path / "a.dcm").pixel_array
    for frame, label, item in zip(
        frames, labels, image.PerFrameFunctionalGroupsSequence, strict=True
    ):
        place = item.PlanePositionSlideSequence[0]
        left = place.ColumnPositionInTotalImagePixelMatrix - 1
        width = min(512, 600 - left)
        np.testing.assert_array_equal(
            frame[:40, :width], p[:, left : left + width, "abc".index(label)]
        )


# ------------------------------------------------------------------------------ all together


def test_every_output_puts_the_focus_at_the_same_place(tmp_path: Path) -> None:
    p = np.full((ROWS, COLS), 0.1, dtype=np.float32)
    p[40, 50] = 1.0
    heat = stored_heatmap(
        tmp_path / "h.zarr", p, mpp=0.246, model_mpp=0.972, bounds_l0=Box(*CORNER, 7000, 9000)
    )
    report, side = find_lesions(heat), heat.grid.cell_l0
    expected = 50.5 * side, 40.5 * side
    (lesion,) = report.lesions
    write_geojson(heat, report, tmp_path / "a.geojson")
    features = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))["features"]
    centroid = shapely.geometry.shape(features[0]["geometry"]).centroid
    write_csv(heat, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        best = max(csv.DictReader(file), key=lambda row: float(row["prob_tumour"]))
    write_ome_tiff(heat, tmp_path / "a.ome.tif")
    write_dicom(heat, tmp_path / "a.dcm")
    pictures = {
        "tiff": tifffile.imread(tmp_path / "a.ome.tif"),
        "dicom": highdicom.imread(tmp_path / "a.dcm").get_total_pixel_matrix(),
        "0.4": convert_heatmap(heat, tmp_path / "4.zarr", ngff="0.4").probability(),
        "xarray": heat.to_xarray().values,
    }
    peaks = {key: np.unravel_index(it.argmax(), it.shape) for key, it in pictures.items()}
    places = {
        "table": lesion.centroid_l0,
        "peak": lesion.peak_l0,
        "geojson": (centroid.x + CORNER[0], centroid.y + CORNER[1]),
        "csv": (
            float(best["minx"]) + float(best["width"]) / 2,
            float(best["miny"]) + float(best["height"]) / 2,
        ),
    } | {key: ((col + 0.5) * side, (row + 0.5) * side) for key, (row, col) in peaks.items()}
    assert places == {key: pytest.approx(expected) for key in places}
    drawn = draw_overlay(heat, None, longest_px=1000, lesions=report)
    slide = drawn.image[drawn.top :, drawn.left :][:, : drawn.slide_size.width].astype(int)
    near = (np.abs(slide - LESION_COLOURS[lesion.kind]).max(axis=2) < 40)[100:]  # below the legend
    rows, cols = np.nonzero(near)
    per_px = heat.grid.size_l0.width / drawn.slide_size.width
    seen = (cols.min() + cols.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2 + 100
    assert (seen[0] * per_px, seen[1] * per_px) == pytest.approx(expected, abs=2 * per_px)


# ------------------------------------------------------------------------------ the command


def test_command(heat: Heatmap, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {
        "geojson": "a.geojson", "csv": "a.csv", "ome-zarr": "a.zarr", "ome-tiff": "a.ome.tif",
        "dicom": "a.dcm", "numpy": "a.npz",
    }  # fmt: skip
    for kind, name in names.items():
        out = str(tmp_path / name)
        assert main(["export", str(heat.path), "--to", kind, "--out", out]) == 0
        assert capsys.readouterr().out.strip() == out
        assert main(["export", str(heat.path), "--to", kind, "--out", out]) == 2
        assert "exists: pass --overwrite" in capsys.readouterr().err
        assert main(["export", str(heat.path), "--to", kind, "--out", out, "--overwrite"]) == 0
        capsys.readouterr()
    assert open_heatmap(tmp_path / "a.zarr").record.fingerprint["ngff"] == "0.4"
    assert {it.name for it in tmp_path.iterdir()} == set(names.values())
    assert main(["export", str(heat.path), "--to", "csv", "--out", str(tmp_path / "b.dcm")]) == 2
    assert "ends like dicom, not csv: end it in .csv" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "a.csv")
    assert main(["export", str(heat.path), "--to", "csv", "--out", out]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_command_options(heat: Heatmap, tmp_path: Path) -> None:
    options = ["--seed", "0.05", "--extend", "0.05", "--gap", "0", "--no-bounds-crop", "--cells"]
    out = tmp_path / "a.geojson"
    assert main(["export", str(heat.path), "--to", "geojson", "--out", str(out), *options]) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["histoslide"]["corner_l0"] == [0, 0]
    assert len(document["features"]) > ROWS * COLS - 35
    assert math.isfinite(document["features"][0]["properties"]["measurements"]["Area mm^2"])


@pytest.mark.parametrize(
    ("kind", "name", "options", "said"),
    [
        ("ome-tiff", "a.ome.tif", ["--class", "nonsense"], "--class says nothing to --to ome-tiff"),
        ("csv", "a.csv", ["--cells"], "--cells says nothing to --to csv, only to geojson"),
        ("dicom", "a.dcm", ["--gap", "0"], "--gap says nothing to --to dicom"),
        ("ome-zarr", "a.zarr", ["--seed", "0.99"], "--seed says nothing to --to ome-zarr"),
        (
            "numpy",
            "a.npz",
            ["--ngff", "0.5"],
            "--ngff says nothing to --to numpy, only to ome-zarr",
        ),
        ("geojson", "a.geojson", ["--packed"], "--packed says nothing to --to geojson"),
    ],
)
def test_options_of_another_format_are_refused(
    heat: Heatmap, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    kind: str, name: str, options: list[str], said: str,
) -> None:  # fmt: skip
    out = str(tmp_path / name)
    assert main(["export", str(heat.path), "--to", kind, "--out", out, *options]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_lesions_are_not_drawn_at_a_threshold(
    heat: Heatmap, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["overlay", str(heat.path), "--out", str(tmp_path / "o.png"), "--lesions"]
    assert main([*command, "--threshold", "0"]) == 2
    assert "to which --threshold says nothing" in capsys.readouterr().err
    assert main(command) == 0
