"""What the viewer serves lies where it should: slides and cells that encode their own place."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from fakes import FakeSlide
from heatmaps import stored_heatmap
from hypothesis import given
from hypothesis import strategies as st
from models import colour_model, three_class_model
from PIL import Image

from histoslide.errors import StoreError
from histoslide.geometry import Box, Mpp, Size
from histoslide.grid.status import Status
from histoslide.lesions import LesionSettings
from histoslide.scoring.lazy import make_heatmap
from histoslide.slide import open_slide
from histoslide.store import halve_probability, level_shapes, open_heatmap, store_heatmap
from histoslide.synthetic import decode_fiducial, fiducial_slide
from histoslide.tissue.masks import METHODS, find_tissue
from histoslide.viewer.cache import byte_cache
from histoslide.viewer.cells import TILE_CELLS, CellSource
from histoslide.viewer.deepzoom import DeepZoom, blank_tile, slide_tile
from histoslide.viewer.foci import describe_foci


@given(
    st.integers(1, 5000), st.integers(1, 5000), st.integers(2, 600), st.integers(0, 3), st.data()
)
def test_tiles_of_a_level_cover_it_exactly(
    width: int, height: int, tile: int, overlap: int, data: st.DataObject
) -> None:
    zoom = DeepZoom(size_l0=Size(width, height), tile_px=tile, overlap_px=min(overlap, tile - 1))
    assert zoom.level_size(0) == Size(1, 1)
    assert zoom.level_size(zoom.max_level) == Size(width, height)
    level = data.draw(st.integers(0, zoom.max_level))
    size, downsample = zoom.level_size(level), zoom.downsample(level)
    column = 0
    covered = 0.0
    while True:
        try:
            box, pixels = zoom.tile(level, column, 0)
        except IndexError:
            break
        assert box.width == pixels.width * downsample
        assert box.x <= covered, "a gap"
        # Both neighbours reach over their border by the overlap, but not beyond the picture.
        shared = min(2 * zoom.overlap_px, size.width - column * tile + zoom.overlap_px)
        assert covered == 0 or box.x == covered - shared * downsample
        covered = box.right
        column += 1
    assert covered == size.width * downsample
    assert covered - downsample < width <= covered


@pytest.mark.parametrize("downsamples", [(), (4.0,), (1.95, 7.7)])
def test_a_tile_shows_the_place_it_is_asked_for(
    tmp_path: Path, downsamples: tuple[float, ...]
) -> None:
    width, height = 2300, 1700
    path = fiducial_slide(
        tmp_path / "a.tif", width=width, height=height, mpp=0.5, downsamples=downsamples
    )
    with open_slide(path) as slide:
        zoom = DeepZoom(size_l0=slide.size_l0)
        for level in range(zoom.max_level - 3, zoom.max_level + 1):
            box, size = zoom.tile(level, 1 if level > zoom.max_level - 2 else 0, 0)
            with Image.open(
                io.BytesIO(
                    slide_tile(slide, zoom, level, 1 if level > zoom.max_level - 2 else 0, 0)
                )
            ) as image:
                pixels = np.asarray(image).astype(np.float64)
            assert pixels.shape == (size.height, size.width, 3)
            inside = pixels[:-2, :-2]  # the last pixels may reach beyond the slide
            x, y = decode_fiducial(inside.mean(axis=(0, 1)), width=width, height=height)
            side = zoom.downsample(level)
            # JPEG may shift a mean by a grey level's part; a tile beside would be 500 px away.
            assert x == pytest.approx(box.x + inside.shape[1] / 2 * side, abs=6)
            assert y == pytest.approx(box.y + inside.shape[0] / 2 * side, abs=6)


def test_tiles_that_do_not_exist_are_refused() -> None:
    zoom = DeepZoom(size_l0=Size(1200, 700))
    for where in ((12, 0, 0), (-1, 0, 0), (11, 3, 0), (11, 0, 2), (11, -1, 0), (11, 0, -1)):
        with pytest.raises(IndexError):
            zoom.tile(*where)
        with pytest.raises(IndexError):
            blank_tile(zoom, *where)


def test_what_cannot_be_read_never_looks_like_tissue_or_glass() -> None:
    slide = FakeSlide([np.full((900, 900, 3), 240, np.uint8)], rotten=Box(0, 0, 100, 100))
    zoom = DeepZoom(size_l0=slide.size_l0)
    rotten = np.asarray(Image.open(io.BytesIO(slide_tile(slide, zoom, zoom.max_level, 0, 0))))
    sound = np.asarray(Image.open(io.BytesIO(slide_tile(slide, zoom, zoom.max_level, 1, 1))))
    assert np.ptp(sound) <= 4
    red = (rotten[..., 0].astype(int) - rotten[..., 1]) > 80
    assert 0.05 < red.mean() < 0.5


def decode(body: bytes, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    count = shape[0] * shape[1]
    assert len(body) == 5 * count
    values = np.frombuffer(body, "<f4", count).reshape(shape)
    return values, np.frombuffer(body, np.uint8, offset=4 * count).reshape(shape)


def numbered(rows: int, cols: int) -> np.ndarray:
    """Every cell holds its own number, scaled to 0-1; every seventh was not scored."""
    values = (np.arange(rows * cols, dtype=np.float32) / (rows * cols)).reshape(rows, cols)
    values[np.arange(rows * cols).reshape(rows, cols) % 7 == 0] = np.nan
    return values


def test_tiles_of_cells_are_the_pyramid(tmp_path: Path) -> None:
    rows, cols = 150, 270
    values = numbered(rows, cols)
    stored_heatmap(tmp_path / "h.zarr", values)
    source = CellSource(tmp_path / "h.zarr")
    for level, (high, wide) in enumerate(level_shapes((rows, cols))):
        seen = np.full((high, wide), -1, np.float32)
        for row in range(-(-high // TILE_CELLS)):
            for col in range(-(-wide // TILE_CELLS)):
                where = np.s_[
                    row * TILE_CELLS : (row + 1) * TILE_CELLS,
                    col * TILE_CELLS : (col + 1) * TILE_CELLS,
                ]
                shape = seen[where].shape
                seen[where], status = decode(source.tile(level, row, col), shape)
                scored = status == Status.SCORED
                np.testing.assert_array_equal(np.isfinite(seen[where]), scored)
        np.testing.assert_array_equal(seen, values)
        values = halve_probability(values)
    for bad in ((0, 2, 0), (0, 0, 3), (9, 0, 0), (-1, 0, 0), (0, -1, 0), (0, 0, 0, 1)):
        with pytest.raises(IndexError):
            source.tile(*bad)


def test_every_class_has_its_own_tiles(tmp_path: Path) -> None:
    pixels = np.full((400, 500, 3), (30, 60, 90), np.uint8)
    slide = FakeSlide([pixels], mpp=Mpp(value=0.972, source="--mpp"))
    tissue = find_tissue(slide, METHODS["none"])
    lazy = make_heatmap(slide, three_class_model(), tissue=tissue, tissue_threshold=0)
    heat = store_heatmap(lazy, tmp_path / "h.zarr")
    source = CellSource(tmp_path / "h.zarr")
    for channel, share in enumerate((1 / 6, 2 / 6, 3 / 6)):
        values, _ = decode(source.tile(0, 0, 0, channel), heat.grid.shape)
        assert values[5, 5] == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("damage", ["lost", "all lost", "altered", "garbled"])
def test_damage_never_looks_like_normal_tissue(tmp_path: Path, damage: str) -> None:
    stored_heatmap(tmp_path / "h.zarr", np.full((150, 200), 0.25, np.float32))
    chunk = tmp_path / "h.zarr" / "0" / "c" / "1" / "2"
    if damage == "all lost":
        (tmp_path / "h.zarr/labels/status/0/c/1/2").unlink()
    if damage in ("lost", "all lost"):
        chunk.unlink()
    elif damage == "garbled":
        chunk.write_bytes(b"not what was written")
    else:
        values: Any = zarr.open_group(tmp_path / "h.zarr", mode="r+")["0"]
        values[32:64, 64:96] = 7
    source = CellSource(tmp_path / "h.zarr")
    values, status = decode(source.tile(0, 0, 0), (TILE_CELLS, TILE_CELLS))
    where = np.s_[:, :] if damage == "garbled" else np.s_[32:64, 64:96]  # or its whole tile
    assert (status[where] == Status.UNREADABLE).all()
    assert np.isnan(values[where]).all()
    assert (status == Status.UNREADABLE).sum() == status[where].size
    with pytest.raises(StoreError, match="is damaged"):
        describe_foci(source.heat, LesionSettings(), LesionSettings(), None)
    values, status = decode(source.tile(0, 0, 1), (TILE_CELLS, 200 - TILE_CELLS))
    assert (values == 0.25).all()
    assert (status == Status.SCORED).all()


def test_a_store_being_written_fills_in(tmp_path: Path) -> None:
    """Blocks show up as they come, on every level, and the finished store is what was promised."""
    path = tmp_path / "h.zarr"
    slide = open_slide(fiducial_slide(tmp_path / "a.tif", width=1100, height=900, mpp=0.972))
    lazy = make_heatmap(
        slide, colour_model(), stride_px=8, tissue=find_tissue(slide, METHODS["none"]),
        tissue_threshold=0, block_cells=32,
    )  # fmt: skip
    shapes = level_shapes(lazy.grid.shape)
    seen: list[tuple[int, bool]] = []
    sources: list[CellSource] = []

    def look(done: int, total: int, scored: int) -> None:
        if not sources:
            sources.append(CellSource(path))
        sources[0]._next_look = 0  # no waiting in a test
        state = sources[0].state()
        fine, status = decode(sources[0].tile(0, 0, 0), tuple(np.minimum(shapes[0], TILE_CELLS)))
        coarse, _ = decode(sources[0].tile(1, 0, 0), shapes[1])
        assert np.isfinite(coarse).sum() * 4 >= (status == Status.SCORED).sum()
        np.testing.assert_array_equal(np.isfinite(fine), status == Status.SCORED)
        np.testing.assert_array_equal(
            np.isfinite(coarse[:64, :64]), np.isfinite(halve_probability(fine))[:64, :64]
        )
        seen.append((state.decided, state.complete))
        assert state.decided > 0  # which block is first is for the threads to decide

    store_heatmap(lazy, path, on_block=look)
    slide.close()
    counts = [count for count, _ in seen]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    assert not any(complete for _, complete in seen)
    before = sources[0].state()
    assert before.complete
    assert before.decided == before.cells == lazy.grid.rows * lazy.grid.cols
    values, _ = decode(sources[0].tile(1, 0, 0), shapes[1])
    level1 = open_heatmap(path).levels()[1].probability[:]
    np.testing.assert_array_equal(values, np.asarray(level1))


def test_a_cache_forgets_what_was_used_longest_ago() -> None:
    cache, made = byte_cache(10), []

    def make(name: str) -> bytes:
        return cache(name, lambda: made.append(name) or name.encode() * 4)  # type: ignore[func-returns-value]

    for name in "ababcab":
        assert make(name) == name.encode() * 4
    assert made == ["a", "b", "c", "a", "b"]
