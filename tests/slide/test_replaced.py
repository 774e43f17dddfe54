"""A slide's file is replaced while it is read: that is an error, never a mixture of two slides."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from models import colour_model

from histoslide.errors import SettingsDifferError, SlideReplacedError
from histoslide.geometry import Region
from histoslide.pipeline import ScoreOptions, TissueOptions, score_slide
from histoslide.slide.access import SlideAccess
from histoslide.store import open_heatmap
from histoslide.synthetic import fiducial_slide

EVERYWHERE = Region(0, 0, 0, 300, 200)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("slides")
    first = fiducial_slide(folder / "first.tif", width=300, height=200, mpp=0.5)
    second = fiducial_slide(folder / "second.tif", width=310, height=200, mpp=0.5)
    return first, second


@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize("how", ["rename", "write", "remove", "touch"])
def test_it_is_noticed(tmp_path: Path, two: tuple[Path, Path], how: str, *, isolate: bool) -> None:
    path = Path(shutil.copy(two[0], tmp_path / "s.tif"))
    other = Path(shutil.copy(two[1], tmp_path / "o.tif"))
    with SlideAccess(isolate=isolate).open(path) as slide:
        assert slide.read(EVERYWHERE).shape == (200, 300, 3)
        if how == "rename":
            other.replace(path)
        elif how == "write":
            path.write_bytes(other.read_bytes())
        elif how == "remove":
            path.unlink()
        else:
            os.utime(path, ns=(1, 1))
        with pytest.raises(SlideReplacedError, match=r"s\.tif") as caught:
            slide.read(EVERYWHERE)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("isolate", [True, False])
def test_another_process_that_opens_it_notices(
    tmp_path: Path, two: tuple[Path, Path], *, isolate: bool
) -> None:
    path = Path(shutil.copy(two[0], tmp_path / "s.tif"))
    with SlideAccess(isolate=isolate).open(path) as slide:
        sent = pickle.dumps(slide)
    os.utime(path, ns=(1, 1))  # a copy on another machine may have other times
    with pickle.loads(sent) as copy:
        assert copy.read(EVERYWHERE).shape == (200, 300, 3)
    shutil.copy(two[1], path)
    with pickle.loads(sent) as copy, pytest.raises(SlideReplacedError, match=r"s\.tif"):
        copy.read(EVERYWHERE)


def test_a_slide_that_is_replaced_while_it_is_scored_fails(tmp_path: Path) -> None:
    """Not two slides in one heatmap; and once the first one is back, the run goes on."""
    path = fiducial_slide(tmp_path / "s.tif", width=900, height=700, mpp=0.972)
    other = fiducial_slide(tmp_path / "o.tif", width=900, height=700, mpp=0.972, downsamples=(2,))
    before = path.with_name("before.tif")
    options = ScoreOptions(
        stride_px=8, tissue=TissueOptions(method="none", threshold=0), overlay=False
    )

    def replace(done: int, _total: int, _scored: int) -> None:
        if done == 1:
            path.rename(before)
            other.rename(path)

    with pytest.raises(SlideReplacedError, match=r"s\.tif"):
        score_slide(path, tmp_path / "h.zarr", colour_model(), options, on_block=replace)
    assert not open_heatmap(tmp_path / "h.zarr", allow_incomplete=True).complete
    with pytest.raises(SettingsDifferError, match="quickhash"):
        score_slide(path, tmp_path / "h.zarr", colour_model(), options)
    before.replace(path)
    score_slide(path, tmp_path / "h.zarr", colour_model(), options)
    score_slide(path, tmp_path / "whole.zarr", colour_model(), options)
    found, whole = (open_heatmap(tmp_path / name) for name in ("h.zarr", "whole.zarr"))
    np.testing.assert_array_equal(found.probability(), whole.probability())
