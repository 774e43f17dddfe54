"""The tiles of slides as a torch dataset: each once, from where it says, in a known order."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from histoslide.errors import HistoslideError
from histoslide.geometry import Mpp
from histoslide.pipeline.options import TissueOptions
from histoslide.slide.access import SlideAccess
from histoslide.synthetic import decode_fiducial, fiducial_slide, scene_slide
from histoslide.tiling.dataset import SlideTiles, TileBatch
from histoslide.tiling.planned import tile_spec

SIZES = {"a.tif": (1900, 1300), "b.tif": (700, 900), "c.tif": (500, 500)}
SPEC = tile_spec(input_px=32, mpp=1.0)
EVERYTHING = TissueOptions(method="none")
HERE = SlideAccess(isolate=False)
CRASHING = SlideAccess(opener="crashing:open_crashing")

Where = tuple[int, int, int]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    for name, (width, height) in SIZES.items():
        fiducial_slide(folder / name, width=width, height=height, mpp=0.5)
    return folder


def tiles_of(folder: Path, **options: object) -> SlideTiles:
    settings = {"tissue": EVERYTHING, "access": HERE, "batch_size": 50, **options}
    return SlideTiles([folder], SPEC, **settings)  # type: ignore[arg-type]


def where(batches: Iterable[TileBatch]) -> list[Where]:
    """Slide, row and column of every tile, in the order in which they come."""
    return [
        (slide, *cell)
        for batch in batches
        for slide, cell in zip(batch.slide.tolist(), batch.cell.tolist(), strict=True)
    ]


def all_places(tiles: SlideTiles) -> set[Where]:
    return {
        (i, row, col)
        for i, slide in enumerate(tiles.slides)
        for row, col in np.argwhere(slide.wanted).tolist()
    }


def test_every_tile_comes_once_with_the_pixels_of_its_place(folder: Path) -> None:
    tiles = tiles_of(folder)
    found: list[Where] = []
    for batch in tiles:
        assert batch.pixels.dtype == torch.uint8
        assert batch.pixels.shape == (len(batch), 3, 32, 32)
        for pixels, place in zip(batch.pixels.numpy(), where([batch]), strict=True):
            index, row, col = place
            grid = tiles.slides[index].grid
            width, height = SIZES[tiles.slides[index].path.name]
            box = grid.tile_box_l0(row, col)
            if box.right <= width and box.bottom <= height:
                mean = pixels.reshape(3, -1).mean(axis=1)
                x, y = decode_fiducial(mean, width=width, height=height)
                assert x == pytest.approx(box.x + box.width / 2, abs=2)
                assert y == pytest.approx(box.y + box.height / 2, abs=2)
        found += where([batch])
    assert found == sorted(found)  # each of these slides is one window
    assert len(found) == len(set(found)) == tiles.tiles
    assert set(found) == all_places(tiles)
    assert tiles.unreadable == (0, 0, 0)
    assert not tiles.failed


def test_only_tissue_comes(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    scene_slide(path, width=1200, height=900, mpp=1.0, seed=1)
    tiles = SlideTiles([path], SPEC, access=HERE)
    (slide,) = tiles.slides
    assert 0 < tiles.tiles < slide.wanted.size
    assert set(where(tiles)) == all_places(tiles)


def test_overlapping_tiles_lie_a_stride_apart(folder: Path) -> None:
    side_by_side, closer = tiles_of(folder), tiles_of(folder, stride_px=16)
    assert closer.tiles == pytest.approx(4 * side_by_side.tiles, rel=0.1)
    assert len(set(where(closer))) == closer.tiles


def test_batches_have_the_size_that_was_asked_for(folder: Path) -> None:
    total = tiles_of(folder).tiles
    sizes = [len(batch) for batch in tiles_of(folder, batch_size=64)]
    assert sizes == [64] * (total // 64) + [total % 64]
    for shuffle in (False, True):
        tiles = tiles_of(folder, batch_size=64, drop_last=True, shuffle=shuffle)
        assert [len(batch) for batch in tiles] == [64] * (total // 64)


def test_the_order_is_decided_by_seed_and_epoch_alone(folder: Path) -> None:
    tiles = tiles_of(folder, shuffle=True, seed=5, mixed_tiles=100, readers=1)
    first = where(tiles)
    assert len(first) == len(set(first)) == tiles.tiles
    assert where(tiles) == first
    assert where(tiles_of(folder, shuffle=True, seed=5, mixed_tiles=100, readers=4)) == first
    assert where(tiles_of(folder, shuffle=True, seed=6, mixed_tiles=100)) != first
    tiles.set_epoch(1)
    second = where(tiles)
    assert second != first
    assert set(second) == set(first)


def test_shuffling_mixes_slides_and_places(folder: Path) -> None:
    """In the first quarter of an epoch every slide occurs, and no window stays together."""
    tiles = tiles_of(folder, shuffle=True)
    quarter = where(tiles)[: tiles.tiles // 4]
    assert len({index for index, _, _ in quarter}) == 3
    steps = Counter((b[1] - a[1], b[2] - a[2]) for a, b in pairwise(quarter))
    assert steps[0, 1] < 0.1 * len(quarter)


@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_share_the_tiles(folder: Path, shuffle: bool) -> None:
    options = {"shuffle": shuffle, "stride_px": 8, "mixed_tiles": 100}
    parts = [where(tiles_of(folder, rank=rank, ranks=3, **options)) for rank in range(3)]
    whole = tiles_of(folder, **options)
    assert sum(map(len, parts)) == whole.tiles
    assert set().union(*parts) == all_places(whole)
    assert min(map(len, parts)) > 0


@pytest.mark.filterwarnings("ignore:warned by the worker")
def test_workers_of_a_loader_share_the_tiles_and_count_together(tmp_path: Path) -> None:
    for name in ("refuse", "fine"):
        fiducial_slide(tmp_path / f"{name}.tif", width=900, height=700, mpp=0.5)
    tiles = tiles_of(tmp_path, access=CRASHING, shuffle=True, mixed_tiles=50, stride_px=8)
    loader = DataLoader(
        tiles,
        batch_size=None,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    first = where(loader)
    lost = tiles.unreadable
    assert lost[0] == 0  # fine.tif
    assert lost[1] > 0
    assert len(first) == len(set(first)) == tiles.tiles - sum(lost)
    tiles.set_epoch(3)
    second = where(loader)
    assert second != first
    assert set(second) == set(first)
    assert tiles.unreadable == lost


@pytest.mark.filterwarnings("ignore:warned by the worker")
def test_tiles_that_kill_their_reader_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = fiducial_slide(tmp_path / "segv.tif", width=900, height=700, mpp=0.5)
    tiles = SlideTiles([path], SPEC, tissue=EVERYTHING, access=CRASHING)
    found = set(where(tiles))
    (slide,), missing = tiles.slides, all_places(tiles) - found
    assert tiles.unreadable == (len(missing),)
    centres = {
        (box.x + box.width / 2, box.y + box.height / 2)
        for _, row, col in missing
        for box in [slide.grid.tile_box_l0(row, col)]
    }
    assert 1 <= len(centres) <= 9
    assert all(abs(x - 410) < 100 and abs(y - 310) < 100 for x, y in centres)
    where(tiles)
    assert tiles.unreadable == (len(missing),)  # of an epoch, not of all


def test_a_slide_that_cannot_be_used_is_left_out(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(folder / "c.tif", tmp_path / "c.tif")
    (tmp_path / "broken.svs").write_text("no slide")
    told: list[tuple[int, int]] = []
    tiles = tiles_of(tmp_path, on_planned=lambda done, total: told.append((done, total)))
    assert [slide.path.name for slide in tiles.slides] == ["c.tif"]
    assert [path.name for path in tiles.failed] == ["broken.svs"]
    assert "broken.svs is left out" in caplog.text
    assert told == [(1, 2), (2, 2)]
    assert len(where(tiles)) == tiles.tiles
    with pytest.raises(HistoslideError, match="none of 1 slides can be used: "):
        SlideTiles([tmp_path / "broken.svs"], SPEC, access=HERE)
    with pytest.raises(HistoslideError, match="does not exist"):
        SlideTiles([tmp_path / "nowhere.svs"], SPEC, access=HERE)


def test_a_slide_that_goes_away_costs_its_own_tiles(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b.tif", "c.tif"):
        shutil.copy(folder / name, tmp_path / name)
    tiles = tiles_of(tmp_path, stride_px=8)
    (tmp_path / "b.tif").unlink()
    caplog.set_level(logging.WARNING)
    assert {index for index, _, _ in where(tiles)} == {1}
    assert tiles.unreadable == (tiles.slides[0].tiles, 0)
    assert caplog.text.count("the rest of its tiles is left out") == 1


def test_resolutions_are_given_by_name(folder: Path) -> None:
    doubled = {"a.tif": Mpp(value=1.0, source="test")}
    once, twice = tiles_of(folder), tiles_of(folder, mpp_by_name=doubled)
    assert twice.slides[0].tiles > 3 * once.slides[0].tiles
    assert [slide.tiles for slide in twice.slides[1:]] == [slide.tiles for slide in once.slides[1:]]
    with pytest.raises(HistoslideError, match="correct the name"):
        tiles_of(folder, mpp_by_name={"a.svs": Mpp(value=1.0, source="test")})


def test_stopping_early_closes_what_is_open(folder: Path) -> None:
    batches = iter(tiles_of(folder, access=SlideAccess(), readers=2))
    assert len(next(batches)) == 50
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"mixed_tiles": 0}, "mixed_tiles must be at least 1"),
        ({"rank": 1}, "give both"),
        ({"rank": 2, "ranks": 2}, "rank 2 is not one of 2"),
    ],
)
def test_numbers_out_of_range_are_refused(folder: Path, options: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiles_of(folder, **options)
