"""Lesions: foci of known size and place are found, joined, measured and classed to the cell."""

import csv
import json
import math
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import zarr
from heatmaps import stored_heatmap
from histoslide_cli.main import main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from skimage.morphology import area_opening

from histoslide.errors import HistoslideError, StoreError
from histoslide.geometry import Box, Size
from histoslide.grid.status import Status
from histoslide.lesions import (
    NOTICE,
    LesionClass,
    LesionSettings,
    find_lesions,
    lesion_row,
    slide_score,
    write_lesions,
)
from histoslide.store import Heatmap, open_heatmap

ALONE = LesionSettings(join_gap_um=0)
"""Foci as they are."""

Cell = tuple[int, int]


def empty(rows: int = 40, cols: int = 50) -> NDArray[np.float64]:
    return np.full((rows, cols), 0.1)


# ------------------------------------------------------------------------------ a known slide


@pytest.fixture
def known(tmp_path: Path) -> Heatmap:
    """Cells of 20 µm, 64.1 level-0 pixels, on a slide with bounds; see `test_known_slide`."""
    p = empty(200, 300)
    p[10:16, 10:18] = 0.95  # 6 × 8 cells: diagonal 10 cells = 200 µm
    p[10:17, 40:48] = 0.95  # a row more
    p[30:90, 10:90] = 0.95  # 60 × 80: diagonal 100 cells = 2000 µm
    p[100:160, 10:91] = 0.95  # a column more
    p[120:130, 30:40] = 0.1  # a hole
    p[125, 35] = 0.1
    p[199, 299] = 0.95  # the last cell
    return stored_heatmap(
        tmp_path / "known.zarr",
        p,
        mpp=0.312,
        model_mpp=0.625,
        size_l0=Size(19200, 12800),  # the grid reaches 30.8 and 20.5 pixels beyond
        bounds_l0=Box(1000, 500, 15000, 10000),
    )


def test_known_slide(known: Heatmap) -> None:
    report = find_lesions(known, LesionSettings(join_gap_um=75))
    large, micro, small, isolated, corner = report.lesions
    assert [it.number for it in report.lesions] == [1, 2, 3, 4, 5]
    assert [it.kind for it in report.lesions] == [
        LesionClass.MACROMETASTASIS,
        LesionClass.MICROMETASTASIS,  # exactly 2 mm
        LesionClass.MICROMETASTASIS,
        LesionClass.ISOLATED_TUMOUR_CELLS,  # exactly 0.2 mm
        LesionClass.ISOLATED_TUMOUR_CELLS,
    ]
    assert large.cells == 60 * 81 - 100
    assert large.area_mm2 == pytest.approx((60 * 81 - 100) * 0.0004)
    assert large.longest_diameter_um == pytest.approx(20 * math.hypot(60, 81))
    assert large.perimeter_um == pytest.approx(20 * (2 * (60 + 81) + 40))
    assert micro.longest_diameter_um == pytest.approx(2000)
    assert isolated.longest_diameter_um == pytest.approx(200)
    side = 20 / 0.312
    assert (small.box_l0.x, small.box_l0.y) == pytest.approx((40 * side, 10 * side))
    assert (small.box_um.width, small.box_um.height) == pytest.approx((160, 140))
    assert small.centroid_l0 == pytest.approx((44 * side, 13.5 * side))
    assert small.centroid_um == pytest.approx((880, 270))
    # What lies beyond the slide is no tissue.
    assert (corner.box_l0.right, corner.box_l0.bottom) == pytest.approx((19200, 12800))
    width, height = 19200 - 299 * side, 12800 - 199 * side
    assert corner.area_mm2 == pytest.approx(width * height * 0.000312**2)
    assert [it.cut_off for it in report.lesions] == [False, False, False, False, True]
    summary = report.summary
    assert summary.lesions_by_kind == {
        "isolated tumour cells": 2, "micrometastasis": 2, "macrometastasis": 1,
    }  # fmt: skip
    assert summary.largest_kind == LesionClass.MACROMETASTASIS
    assert summary.largest_diameter_um == large.longest_diameter_um
    assert summary.tissue_area_mm2 == pytest.approx(19200 * 12800 * 0.000312**2)
    assert summary.tumour_area_mm2 == pytest.approx(sum(it.area_mm2 for it in report.lesions))
    assert summary.tumour_share_of_tissue == pytest.approx(
        summary.tumour_area_mm2 / summary.tissue_area_mm2
    )


def test_points_lie_where_the_grid_says(known: Heatmap) -> None:
    for lesion in find_lesions(known).lesions:
        assert lesion.polygon_l0.is_valid
        assert lesion.polygon_l0.bounds == (
            lesion.box_l0.x, lesion.box_l0.y, lesion.box_l0.right, lesion.box_l0.bottom,
        )  # fmt: skip
        for row, col in lesion.cells_rc[:: max(1, len(lesion.cells_rc) // 20)]:
            box = known.grid.label_box_l0(int(row), int(col))
            middle = shapely.Point(box.x + box.width / 2, box.y + box.height / 2)
            assert lesion.polygon_l0.contains(middle)


# ------------------------------------------------------------------------------ a slow twin


def slow_foci(p: NDArray[Any], seed: float, extend: float) -> list[set[Cell]]:
    left = {(int(r), int(c)) for r, c in np.argwhere(p >= extend)}
    foci = []
    while left:
        todo, focus = [left.pop()], set[Cell]()
        while todo:
            row, col = todo.pop()
            focus.add((row, col))
            around = {(row + i, col + j) for i, j in product((-1, 0, 1), repeat=2)} & left
            left -= around
            todo += around
        if any(p[cell] >= seed for cell in focus):
            foci.append(focus)
    return foci


def slow_distance(one: set[Cell], other: set[Cell]) -> float:
    """Between the nearest points of two sets of unit squares."""
    return min(
        math.hypot(max(abs(r - s) - 1, 0), max(abs(c - d) - 1, 0))
        for (r, c), (s, d) in product(one, other)
    )


def slow_lesions(foci: list[set[Cell]], gap: float) -> list[set[Cell]]:
    lesions = [set(focus) for focus in foci]
    merged = True
    while merged:
        merged = False
        for one, other in combinations(lesions, 2):
            if slow_distance(one, other) < gap:
                lesions = [it for it in lesions if it not in (one, other)] + [one | other]
                merged = True
                break
    return lesions


def slow_measures(cells: set[Cell]) -> tuple[int, float, int]:
    """Cells, longest diameter and perimeter, in cells."""
    corners = [(r + i, c + j) for r, c in cells for i, j in product((0, 1), repeat=2)]
    longest = max(math.dist(a, b) for a, b in product(corners, repeat=2))
    steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
    perimeter = sum((r + i, c + j) not in cells for r, c in cells for i, j in steps)
    return len(cells), longest, perimeter


LEVELS = st.sampled_from([math.nan, 0.1, 0.5, 0.8, 0.95])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    p=hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=LEVELS),
    gap=st.sampled_from([0.0, 1.0, 1.5, 2.5]),
)
def test_slow_twin(tmp_path_factory: pytest.TempPathFactory, p: NDArray[Any], gap: float) -> None:
    heat = stored_heatmap(tmp_path_factory.mktemp("twin") / "h.zarr", p)
    found = find_lesions(
        heat,
        LesionSettings(seed_probability=0.9, extend_probability=0.5, join_gap_um=gap * 32),
    )
    expected = slow_lesions(slow_foci(p, 0.9, 0.5), gap)
    assert {frozenset(map(tuple, it.cells_rc.tolist())) for it in found.lesions} == set(
        map(frozenset, expected)
    )
    measured = sorted(
        (it.cells, it.longest_diameter_um / 32, it.perimeter_um / 32) for it in found.lesions
    )
    assert measured == [pytest.approx(it) for it in sorted(map(slow_measures, expected))]
    for lesion in found.lesions:
        values = [p[tuple(cell)] for cell in lesion.cells_rc]
        assert lesion.peak_probability == pytest.approx(max(values))
        assert lesion.mean_probability == pytest.approx(np.mean(values))
        assert lesion.area_mm2 == pytest.approx(lesion.cells * 0.032**2)


@settings(max_examples=60, deadline=None)
@given(
    p=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.sampled_from([math.nan, 0.0, 0.25, 0.5, 0.75, 1.0]),
    ),
    cells=st.integers(1, 5),
)
def test_slide_score_is_the_highest_of_the_area_opening(p: NDArray[Any], cells: int) -> None:
    score = slide_score(p, cells)
    if not np.isfinite(p).any():
        assert score is None
        return
    padded = np.pad(np.where(np.isfinite(p), p, 0), cells)
    assert score == area_opening(padded, cells, connectivity=2).max()


# ------------------------------------------------------------------------------ one at a time


def test_hysteresis(tmp_path: Path) -> None:
    p = empty()
    p[5:10, 5:10] = 0.8  # no seed
    p[20:25, 20:25] = 0.8
    p[22, 22] = 0.95
    p[25, 25] = 0.8  # touches at a corner
    heat = stored_heatmap(tmp_path / "h.zarr", p)
    (lesion,) = find_lesions(heat, ALONE).lesions
    assert (lesion.cells, lesion.peak_l0) == (26, (22.5 * 128, 22.5 * 128))
    assert lesion.polygon_l0.geom_type == "MultiPolygon"
    low = LesionSettings(seed_probability=0.8, extend_probability=0.8, join_gap_um=0)
    assert len(find_lesions(heat, low).lesions) == 2


def test_thresholds_include_what_equals_them(tmp_path: Path) -> None:
    """0.7 is stored as 0.69999999 in float32."""
    p = empty()
    p[3, 3:5] = 0.7
    heat = stored_heatmap(tmp_path / "h.zarr", p)
    equal = LesionSettings(seed_probability=0.7, extend_probability=0.7)
    for smoothing in (0, 1e-6):  # so little that nothing moves
        changed = LesionSettings(
            seed_probability=0.7, extend_probability=0.7, smoothing_um=smoothing
        )
        assert [it.cells for it in find_lesions(heat, changed).lesions] == [2]
    assert find_lesions(heat, equal).lesions[0].cells == 2


def test_joining_bridges_a_gap_but_does_not_fill_it(tmp_path: Path) -> None:
    p = empty()
    p[10, 10:13] = 0.95
    p[10, 15:18] = 0.95  # a gap of 2 cells, 64 µm
    p[10, 21] = 0.95  # a gap of 3
    heat = stored_heatmap(tmp_path / "h.zarr", p)
    assert [it.cells for it in find_lesions(heat, LesionSettings(join_gap_um=64)).lesions] == [
        3, 3, 1,
    ]  # fmt: skip
    long, lone = find_lesions(heat, LesionSettings(join_gap_um=65)).lesions
    assert (long.cells, lone.cells) == (6, 1)
    assert long.area_mm2 == pytest.approx(6 * 0.032**2)
    assert long.longest_diameter_um == pytest.approx(32 * math.hypot(8, 1))
    assert [it.cells for it in find_lesions(heat, LesionSettings(min_cells=2)).lesions] == [6]


def test_smoothing_ignores_what_was_not_scored(tmp_path: Path) -> None:
    p = np.full((40, 50), math.nan)
    p[10:14, 10:14] = 0.95  # an island of tissue
    p[20:40, 20:50] = 0.1
    p[30, 30] = 1.0  # a lone cell
    heat = stored_heatmap(tmp_path / "h.zarr", p)
    (island,) = find_lesions(heat, LesionSettings(smoothing_um=40)).lesions
    assert island.cells == 16
    assert island.mean_probability == pytest.approx(0.95)  # of the heatmap, not of the smoothed
    assert len(find_lesions(heat).lesions) == 2


def test_a_lesion_beside_what_was_not_looked_at_is_marked(tmp_path: Path) -> None:
    p = empty(30, 30)
    status = np.full(p.shape, Status.SCORED, dtype=np.uint8)
    for row, neighbour in ((4, Status.UNREADABLE), (12, Status.EXCLUDED), (20, Status.BACKGROUND)):
        p[row, 10:12] = 0.95
        p[row + 1, 12] = math.nan
        status[row + 1, 12] = neighbour
    report = find_lesions(stored_heatmap(tmp_path / "h.zarr", p, status=status), ALONE)
    by_row = {it.cells_rc[0][0]: it.cut_off for it in report.lesions}
    assert by_row == {4: True, 12: True, 20: False}
    assert report.summary.unreadable_cells == 1
    assert any("1 cells could not be read" in note for note in report.summary.notes)


def test_nothing_found_and_nothing_scored(tmp_path: Path) -> None:
    report = find_lesions(stored_heatmap(tmp_path / "a.zarr", empty()))
    assert report.lesions == ()
    assert report.summary.largest_kind is None
    assert report.summary.slide_score == pytest.approx(0.1)
    nothing = find_lesions(stored_heatmap(tmp_path / "b.zarr", np.full((5, 5), math.nan))).summary
    assert (nothing.slide_score, nothing.tumour_share_of_tissue) == (None, None)


def test_sparse_cells_are_noted(tmp_path: Path) -> None:
    heat = stored_heatmap(tmp_path / "h.zarr", empty(8, 8), stride_px=192)
    notes = find_lesions(heat).summary.notes
    assert any("larger than the label footprint of 32.0 µm" in note for note in notes)
    assert any("cells cannot be told apart" in note for note in notes)


def test_more_classes_need_a_name(tmp_path: Path) -> None:
    p = np.zeros((6, 6, 3))
    p[..., 0] = 1
    p[2, 2:4] = (0, 0, 1)
    heat = stored_heatmap(tmp_path / "h.zarr", p, classes=("a", "b", "c"))
    with pytest.raises(StoreError, match="choose from a, b, c"):
        find_lesions(heat)
    report = find_lesions(heat, LesionSettings(class_name="c"))
    assert [it.cells for it in report.lesions] == [2]
    assert report.settings.class_name == "c"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed_probability": 1.2}, "seed probability must be above 0 and at most 1, not 1.2"),
        ({"extend_probability": 0.0}, "extend probability must be above 0"),
        ({"seed_probability": 0.5, "extend_probability": 0.6}, "0.6 must not exceed"),
        ({"smoothing_um": -1.0}, "smoothing must be 0 µm or more, not -1"),
        ({"join_gap_um": math.nan}, "join gap must be 0 µm or more, not nan"),
        ({"min_cells": 0}, "min cells must be at least 1, not 0"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(HistoslideError, match=message):
        LesionSettings(**wrong)


def test_altered_stores_are_refused(tmp_path: Path) -> None:
    heat = stored_heatmap(tmp_path / "h.zarr", empty())
    values: Any = zarr.open_group(heat.path, mode="r+")["0"]
    values[3, 3] = 7
    with pytest.raises(StoreError, match=r"damaged \(1 probabilities outside 0-1\)"):
        find_lesions(heat)
    values[3, 3] = math.nan
    with pytest.raises(StoreError, match="1 cells that were scored but have no probability"):
        find_lesions(heat)
    values[3, 3] = 0.5
    values.resize((40, 40))
    with pytest.raises(StoreError, match="claims 40 × 40 cells"):
        find_lesions(heat)


def test_stores_that_cannot_be_decoded_are_refused(tmp_path: Path) -> None:
    heat = stored_heatmap(tmp_path / "h.zarr", empty())
    for name in ("0/c/0/0", "labels/status/0/c/0/0"):
        whole = (heat.path / name).read_bytes()
        (heat.path / name).write_bytes(b"not what was written")
        with pytest.raises(StoreError, match="is damaged"):
            find_lesions(heat)
        (heat.path / name).write_bytes(whole)
    find_lesions(heat)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("grid", "cell_l0", 50.0), ("grid", "cell_um", 30.0), ("slide", "mpp", 0.2501),
        ("slide", "quickhash", "another"), ("model", "sha256", "another"),
    ],
)  # fmt: skip
def test_stores_whose_facts_were_altered_are_refused(
    tmp_path: Path, part: str, name: str, value: object
) -> None:
    heat = stored_heatmap(tmp_path / "h.zarr", empty())
    group = zarr.open_group(heat.path, mode="r+")
    metadata: Any = group.attrs["histoslide"]
    metadata[part][name] = value
    group.attrs["histoslide"] = metadata
    with pytest.raises(StoreError, match="contradicts itself"):
        open_heatmap(heat.path)


# ------------------------------------------------------------------------------ tables


def test_tables(known: Heatmap, tmp_path: Path) -> None:
    report = find_lesions(known)
    paths = tmp_path / "l.csv", tmp_path / "l.json"
    write_lesions(report, *paths)
    first = [path.read_bytes() for path in paths]
    write_lesions(find_lesions(open_heatmap(known.path)), *paths)
    assert [path.read_bytes() for path in paths] == first
    with paths[0].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report.lesions)
    for row, lesion in zip(rows, report.lesions, strict=True):
        assert row["slide"] == "made.tif"
        assert row["notice"] == NOTICE
        assert row["class"] == lesion.kind
        assert float(row["longest_diameter_um"]) == pytest.approx(lesion.longest_diameter_um)
        assert float(row["box_x_l0"]) == pytest.approx(lesion.box_l0.x)
        assert float(row["seed_probability"]) == report.settings.seed_probability
        assert set(lesion_row(lesion)) < set(row)
    document = json.loads(paths[1].read_text(encoding="utf-8"))
    assert document["notice"] == NOTICE
    assert document["settings"]["class_name"] == "tumour"
    assert document["summary"]["lesions_by_kind"]["macrometastasis"] == 1
    assert [it["lesion"] for it in document["lesions"]] == [1, 2, 3, 4, 5]
    assert str(tmp_path) not in paths[1].read_text(encoding="utf-8")


def test_a_table_without_lesions_has_its_columns(known: Heatmap, tmp_path: Path) -> None:
    write_lesions(find_lesions(known), tmp_path / "a.csv", tmp_path / "a.json")
    none = find_lesions(stored_heatmap(tmp_path / "h.zarr", empty()))
    write_lesions(none, tmp_path / "b.csv", tmp_path / "b.json")
    full, header = (tmp_path / name for name in ("a.csv", "b.csv"))
    assert header.read_text() == full.read_text().splitlines(keepends=True)[0]
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_lesions(none, tmp_path / "file" / "c.csv", tmp_path / "file" / "c.json")


def test_command(known: Heatmap, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["lesions", str(known.path), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "macrometastasis" in printed
    assert NOTICE in printed
    assert (out / "lesions.csv").exists()
    assert main(["lesions", str(known.path), "--out", str(out)]) == 2
    assert "exists: pass --overwrite" in capsys.readouterr().err
    assert main(["lesions", str(known.path), "--json", "--seed", "0.99"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["lesions"] == []
    assert document["settings"]["seed_probability"] == 0.99
    assert main(["lesions", str(known.path), "--extend", "0.99"]) == 2
    assert "must not exceed" in capsys.readouterr().err
    assert main(["lesions", str(tmp_path / "none.zarr")]) == 2
