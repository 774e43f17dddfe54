"""Two heatmaps made with known differences: every line of the table is one of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from heatmaps import lazy_of, stored_heatmap
from histoslide_cli.main import main
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from histoslide.comparison.cells import (
    Comparison,
    ScoredCells,
    compare_cells,
    compare_heatmaps,
)
from histoslide.comparison.record import ComparisonRecord
from histoslide.errors import HistoslideError, StoreError
from histoslide.geometry import Mpp, Size
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.render import ONLY_COLOURS, draw_difference, round_limit
from histoslide.scoring.record import ModelRecord
from histoslide.storage.location import Location
from histoslide.store import open_heatmap, store_heatmap

SHAPE = (40, 50)


def made_values() -> NDArray[np.float32]:
    """Every cell has a value of its own, multiples of 1/4096, which float32 holds exactly."""
    rows, cols = np.indices(SHAPE)
    return ((rows * SHAPE[1] + cols + 10) / 4096).astype(np.float32)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Location, Location]:
    """Heatmaps of 2,000 cells that differ in nine ways that the tests below name."""
    first, second = made_values(), made_values()
    second[0, :3] += np.float32(1 / 1024)  # three cells a little up
    second[1, 4] -= np.float32(1 / 4096)  # one a little down
    second[5, 6] = 0.75  # one far up, across 0.5
    first[6, 7], second[6, 7] = 0.875, 0.25  # one far down, across 0.5
    first[7, 8], second[7, 8] = 0.5, 0.75  # already at the threshold: crosses nothing
    first[10, 11], second[12, 13:15] = np.nan, np.nan  # scored by one alone
    first[20, 20:23] = second[20, 20:23] = np.nan  # scored by neither, and one says why not
    status = np.where(np.isfinite(second), Status.SCORED, Status.BACKGROUND).astype(np.uint8)
    status[12, 13] = Status.UNREADABLE
    status[20, 20] = Status.EXCLUDED
    a = stored_heatmap(tmp_path / "a.zarr", first)
    b = stored_heatmap(tmp_path / "b.zarr", second, status=status)
    return a.path, b.path


def compared(pair: tuple[Location, Location], **how: float) -> Comparison:
    return compare_heatmaps(open_heatmap(pair[0]), open_heatmap(pair[1]), **how)


def test_every_difference_is_counted(pair: tuple[Location, Location]) -> None:
    comparison = compared(pair)
    (entry,) = comparison.classes
    cells = 2000 - 3 - 3
    assert (entry.name, entry.cells, entry.equal) == ("tumour", cells, cells - 7)
    assert (entry.largest, entry.largest_at) == (0.75 - made_values()[5, 6], (5, 6))
    sizes = [1 / 1024] * 3 + [1 / 4096, 0.75 - float(made_values()[5, 6]), 0.625, 0.25]
    assert entry.mean == pytest.approx(sum(sizes) / cells, rel=1e-12)
    assert (entry.up, entry.down) == (1, 1)
    assert (comparison.only_a, comparison.only_b) == (2, 1)
    assert comparison.statuses == {
        ("background", "scored"): 1,
        ("scored", "unreadable"): 1,
        ("scored", "background"): 1,
        ("background", "excluded"): 1,
    }
    assert [difference.name for difference in comparison.settings] == ["mask.plan_sha256"]
    assert comparison.origins == ()
    assert not comparison.equal


def test_signs_are_b_minus_a(pair: tuple[Location, Location]) -> None:
    difference = compared(pair).differences["tumour"]
    assert difference[0, 1] == 1 / 1024
    assert difference[6, 7] == -0.625
    assert np.isnan(difference[[10, 12, 12, 20], [11, 13, 14, 20]]).all()
    assert np.isfinite(difference).sum() == 1994
    backwards = compared((pair[1], pair[0])).differences["tumour"]
    np.testing.assert_array_equal(backwards, -difference)


def test_tolerance_and_threshold(pair: tuple[Location, Location]) -> None:
    (entry,) = compared(pair, tolerance=1 / 1024).classes
    assert entry.within == entry.cells - 3
    (entry,) = compared(pair, tolerance=1 / 1025).classes
    assert entry.within == entry.cells - 6
    (entry,) = compared(pair, threshold=0.6).classes
    assert (entry.up, entry.down) == (2, 1)


def test_equal_values_are_equal_whatever_the_settings(tmp_path: Path) -> None:
    """The question of a diff is the values; the settings are said beside them."""
    a = stored_heatmap(tmp_path / "a.zarr", made_values())
    b = stored_heatmap(tmp_path / "b.zarr", made_values(), ngff="0.4")
    group = zarr.open_group(b.path, mode="r+")
    facts = dict(group.attrs)["histoslide"]
    assert isinstance(facts, dict)
    facts["fingerprint"]["model.sha256"] = facts["model"]["sha256"] = "other"
    facts["versions"]["torch"] = "1.0"
    group.attrs["histoslide"] = facts
    comparison = compared((a.path, b.path))
    assert comparison.equal
    assert [(d.name, d.a, d.b) for d in comparison.settings] == [("model.sha256", "made", "other")]
    assert [(d.name, d.b) for d in comparison.origins] == [("torch", "1.0")]
    assert comparison.of().correlation == pytest.approx(1)


def made_cells(probability: NDArray[np.float32]) -> ScoredCells:
    rows, cols = probability.shape
    return ScoredCells(
        name="made",
        grid=TileGrid(
            size_l0=Size(cols * 32, rows * 32),
            slide_mpp=Mpp(value=1.0, source="test"),
            model_mpp=1.0,
            input_px=96,
            label_px=32,
            stride_px=32,
        ),
        quickhash="made",
        slide="made.tif",
        tumour_class="tumour",
        probability={"tumour": probability},
        status=np.full((rows, cols), Status.SCORED, dtype=np.uint8),
        settings={},
        origin={},
    )


@given(
    st.lists(st.tuples(st.integers(0, 64), st.integers(0, 64)), min_size=2, max_size=30),
    st.integers(0, 64),
)
def test_figures_agree_with_a_loop(values: list[tuple[int, int]], cut: int) -> None:
    """A slow and obvious twin, on values drawn at random."""
    first = np.array([[a / 64 for a, _ in values]], dtype=np.float32)
    second = np.array([[b / 64 for _, b in values]], dtype=np.float32)
    side = made_cells(first)
    entry = compare_cells(side, made_cells(second), threshold=cut / 64).classes[0]
    sizes = sorted(abs(a - b) / 64 for a, b in values)
    assert entry.largest == sizes[-1]
    assert entry.equal == sum(a == b for a, b in values)
    assert entry.up == sum(a < cut <= b for a, b in values)
    assert entry.down == sum(b < cut <= a for a, b in values)
    for share, value in entry.quantiles.items():
        assert sum(size <= value for size in sizes) >= share * len(sizes)
        assert value in sizes


def test_nothing_in_common(tmp_path: Path) -> None:
    """Cells that nobody scored make a comparison without figures, not an error."""
    nothing = stored_heatmap(tmp_path / "a.zarr", np.full((3, 3), np.nan))
    entry = compared((nothing.path, nothing.path)).of()
    assert (entry.cells, entry.largest, entry.correlation, entry.quantiles) == (0, None, None, {})
    overlay = draw_difference(compared((nothing.path, nothing.path)), longest_px=200)
    assert overlay.image.shape[0] > 200


def test_three_classes(tmp_path: Path) -> None:
    values = np.zeros((4, 5, 3), dtype=np.float32)
    values[...] = (0.5, 0.25, 0.25)
    other = values.copy()
    other[2, 3] = (0.25, 0.625, 0.125)
    classes = ("stroma", "tumour", "fat")
    a = stored_heatmap(tmp_path / "a.zarr", values, classes=classes)
    b = stored_heatmap(tmp_path / "b.zarr", other, classes=classes)
    comparison = compared((a.path, b.path))
    assert [(c.name, c.largest, c.up, c.down) for c in comparison.classes] == [
        ("stroma", 0.25, 0, 1),
        ("tumour", 0.375, 1, 0),
        ("fat", 0.125, 0, 0),
    ]
    assert comparison.of().name == "tumour"  # differs most
    assert comparison.of("fat").largest == 0.125
    with pytest.raises(HistoslideError, match="'bone' is not compared: choose from stroma"):
        comparison.of("bone")
    two = stored_heatmap(tmp_path / "c.zarr", values[..., 0])
    with pytest.raises(StoreError, match=r"classes: stroma, tumour, fat and tumour\)"):
        compare_heatmaps(a, two)


def test_the_tumour_is_shown_even_where_another_class_differs_more(tmp_path: Path) -> None:
    paths = []
    for name, values in (("a.zarr", (0.5, 0.25, 0.25)), ("b.zarr", (0.25, 0.625, 0.125))):
        lazy = lazy_of(np.full((4, 5, 3), values), classes=("stroma", "nerve", "fat"))
        spec = replace(lazy.spec, tumour_class="fat")
        lazy = replace(lazy, spec=spec, model=ModelRecord.of(spec, sha256="made"))
        paths.append(store_heatmap(lazy, tmp_path / name).path)
    assert compared((paths[0], paths[1])).of().name == "fat"


def test_two_words_for_tumour(tmp_path: Path) -> None:
    """Two models of two classes are compared by their tumour class, whatever its name."""
    a = stored_heatmap(tmp_path / "a.zarr", np.full((2, 2), 0.25))
    b = stored_heatmap(tmp_path / "b.zarr", np.full((2, 2), 0.75), classes=("benign", "cancer"))
    entry = compare_heatmaps(a, b).of()
    assert (entry.name, entry.largest, entry.up) == ("tumour", 0.5, 4)


def test_what_cannot_be_compared_names_the_setting(tmp_path: Path) -> None:
    size, four, eight = Size(512, 512), np.zeros((4, 4)), np.zeros((8, 8))
    plain = stored_heatmap(tmp_path / "plain.zarr", four)
    finer = stored_heatmap(tmp_path / "stride.zarr", eight, stride_px=16)
    model = stored_heatmap(tmp_path / "model.zarr", np.zeros((2, 2)), model_mpp=2.0)
    mpp = stored_heatmap(tmp_path / "mpp.zarr", eight, mpp=0.5, size_l0=size)
    narrow = stored_heatmap(tmp_path / "size.zarr", four, size_l0=Size(511, 512))
    for other, reason in (
        (finer, r"--stride: cells of 32 µm .* and of 16 µm"),
        (model, r"stride or resolution of the model: .* 64 µm"),
        (mpp, r"--mpp: 0.25 and 0.5 µm/px"),
        (narrow, r"their slides measure 512×512 px and 511×512 px"),
    ):
        with pytest.raises(StoreError, match=reason):
            compare_heatmaps(plain, other)
    namesake = stored_heatmap(tmp_path / "sub" / "plain.zarr", eight, stride_px=16)
    with pytest.raises(StoreError, match=rf"^{tmp_path.name}/plain.zarr and sub/plain.zarr cannot"):
        compare_heatmaps(plain, namesake)
    other = stored_heatmap(
        tmp_path / "other.zarr", np.zeros((4, 4)), quickhash="else", name="b.tif"
    )
    with pytest.raises(StoreError, match=r"different slides \(made.tif and b.tif"):
        compare_heatmaps(plain, other)


def test_only_some_cells(pair: tuple[Location, Location]) -> None:
    whole = compared(pair)
    among = np.zeros(SHAPE, dtype=np.bool_)
    among[:2] = True
    part = compare_cells(whole.a, whole.b, among=among)
    assert (part.of().cells, part.of().equal, part.only_a, part.only_b) == (100, 96, 0, 0)
    assert part.statuses == {}
    assert ComparisonRecord.of(part).cells == 100


# ------------------------------------------------------------------------------ picture


def middle_of(comparison: Comparison, row: int, col: int, px: int) -> tuple[int, ...]:
    picture = draw_difference(comparison, longest_px=SHAPE[1] * px, limit=1)
    y, x = picture.top + round((row + 0.5) * px), picture.left + round((col + 0.5) * px)
    return tuple(int(value) for value in picture.image[y, x])


def test_colours_tell_the_sign(pair: tuple[Location, Location]) -> None:
    comparison = compared(pair)
    red, blue = middle_of(comparison, 5, 6, 16), middle_of(comparison, 6, 7, 16)
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    grey = middle_of(comparison, 30, 30, 16)
    assert max(grey) - min(grey) < 5
    assert max(grey) < 235  # told apart from what nobody scored
    assert middle_of(comparison, 20, 21, 16) == (255, 255, 255)
    for (row, col), colour in (((12, 13), ONLY_COLOURS[0]), ((10, 11), ONLY_COLOURS[1])):
        expected = [round(255 * value) for value in to_rgb(colour)]
        assert np.abs(np.array(middle_of(comparison, row, col, 16)) - expected).max() <= 2


def test_no_difference_vanishes_where_pixels_are_large(tmp_path: Path) -> None:
    """One cell far down among cells a little up: the pixel shows what is larger."""
    values = np.full((200, 200), 0.5, dtype=np.float32)
    other = values + np.float32(0.0625)
    other[101, 101] = 0.0
    a = stored_heatmap(tmp_path / "a.zarr", values)
    comparison = compare_heatmaps(a, stored_heatmap(tmp_path / "b.zarr", other))
    comparison = replace(comparison, crossings={"tumour": np.zeros((200, 200), dtype=np.bool_)})
    picture = draw_difference(comparison, longest_px=100, limit=1)
    slide = picture.image[picture.top : picture.top + 100, picture.left : picture.left + 100]
    blue = np.argwhere(slide[..., 2].astype(int) > slide[..., 0].astype(int) + 50)
    assert blue.tolist() == [[50, 50]]


def test_a_dollar_in_a_name_is_a_dollar(tmp_path: Path) -> None:
    values = np.full((4, 5), 0.5, dtype=np.float32)
    a = stored_heatmap(tmp_path / "cost$5_$6.zarr", values)
    values[1] = np.nan
    comparison = compare_heatmaps(a, stored_heatmap(tmp_path / "b.zarr", values))
    assert draw_difference(comparison, longest_px=100).image.size


def test_cells_that_change_sides_are_outlined(pair: tuple[Location, Location]) -> None:
    comparison = compared(pair)
    without = replace(comparison, crossings={"tumour": np.zeros(SHAPE, dtype=np.bool_)})
    one, other = (draw_difference(c, longest_px=800) for c in (comparison, without))
    corner = (slice(one.top + 78, one.top + 83), slice(one.left + 98, one.left + 110))  # of (5, 6)
    assert one.image[corner].min() < 60
    assert other.image[corner].min() > 60


@pytest.mark.parametrize(
    ("largest", "limit"),
    [(0, 1), (1, 1), (0.6, 1), (0.5, 0.5), (0.21, 0.5), (0.2, 0.2), (0.011, 0.02), (3e-7, 5e-7)],
)
def test_colour_scales_end_at_round_numbers(largest: float, limit: float) -> None:
    assert round_limit(largest) == pytest.approx(limit)


# ------------------------------------------------------------------------------ command


def test_diff_prints_draws_and_ends_with_three(
    pair: tuple[Location, Location], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = map(str, pair)
    picture = tmp_path / "diff.png"
    assert main(["diff", a, b, "--out", str(picture), "--tolerance", "0.0005"]) == 3
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == [
        "made.tif: A a.zarr, B b.zarr",
        "P(tumour)",
        "compared 1,994 cells, 1,987 equal, 1,988 within 0.0005",
    ]
    for line in (
        "difference largest 0.685 at row 5, column 6; mean 0.000784",
        "sides of 0.5 1 up, 1 down",
        "scored in one 2 in A, 1 in B",
        "status 1 scored in A, unreadable in B",
        "setting mask.plan_sha256",
        "verdict different: 6 probabilities and 4 statuses",
    ):
        assert any(found.startswith(line) for found in lines), (line, lines)
    with Image.open(picture) as image:
        assert image.size[0] > 1600
    assert main(["diff", a, b, "--out", str(picture)]) == 2
    assert "diff.png exists: pass --overwrite" in capsys.readouterr().err
    assert main(["diff", a, a]) == 0
    assert "difference none" in " ".join(capsys.readouterr().out.split())


def test_diff_as_json(pair: tuple[Location, Location], capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, pair)
    assert main(["diff", a, b, "--json", "--quiet"]) == 3
    document = json.loads(capsys.readouterr().out)
    (entry,) = document["classes"]
    assert (document["equal"], document["only_a"], entry["up"]) == (False, 2, 1)
    assert entry["largest_at"] == [5, 6]
    assert set(entry["quantiles"]) == {"0.95", "0.99", "0.999"}
    assert {"a": "scored", "b": "unreadable", "cells": 1} in document["statuses"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--threshold", "1.5"), "--threshold must lie in 0-1"),
        (("--tolerance", "-1"), "--tolerance must lie in 0-1"),
        (("--tolerance", "nan"), "--tolerance must lie in 0-1"),
        (("--limit", "0"), "--limit must lie above 0"),
        (("--size", "5"), "--size must lie in"),
        (("--class", "bone"), "'bone' is not compared"),
    ],
)
def test_diff_refuses_wrong_usage(
    pair: tuple[Location, Location],
    options: tuple[str, ...],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["diff", str(pair[0]), str(pair[1]), *options]) == 2
    captured = capsys.readouterr()
    assert reason in captured.err
    assert captured.out == ""
