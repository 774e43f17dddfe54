"""heat.zarr: what is in it, and that nothing can be lost or mixed."""

from __future__ import annotations

import dataclasses
import errno
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import zarr
from fakes import FakeSlide
from heatmaps import lazy_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from models import colour_model, three_class_model
from numpy.typing import NDArray
from ome_zarr_models.v04 import Image as ImageV04
from ome_zarr_models.v04.image_label import ImageLabel as ImageLabelV04
from ome_zarr_models.v05 import Image as ImageV05
from ome_zarr_models.v05.image_label import ImageLabel as ImageLabelV05

from histoslide.errors import SettingsDifferError, StoreError
from histoslide.geometry import Box, Mpp
from histoslide.grid.status import Status
from histoslide.model.engine import Engine
from histoslide.model.openvino_extra import has_openvino
from histoslide.scoring.lazy import LazyHeatmap, make_heatmap
from histoslide.slide import OpenSlideSlide, Slide
from histoslide.storage.location import Location
from histoslide.storage.records import to_builtins, to_json
from histoslide.store import (
    BlockTarget,
    Heatmap,
    NgffVersion,
    convert_heatmap,
    halve_probability,
    halve_status,
    level_shapes,
    metadata_schema,
    open_heatmap,
    store_heatmap,
)
from histoslide.synthetic import fiducial_slide
from histoslide.tissue.masks import METHODS, TissueMask, find_tissue


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> OpenSlideSlide:
    path = tmp_path_factory.mktemp("slides") / "fiducial.tif"
    return OpenSlideSlide(
        fiducial_slide(path, width=1301, height=843, mpp=0.5, downsamples=(1.95,))
    )


def half_tissue(slide: Slide) -> TissueMask:
    mask = np.zeros((43, 65), dtype=bool)
    mask[:, 20:] = True
    return TissueMask(mask=mask, method="file", settings={"file": "half.png"})


def lazy_heatmap(slide: Slide, **options: Any) -> LazyHeatmap:
    settings: dict[str, Any] = {"tissue": half_tissue(slide), "block_cells": 4} | options
    return make_heatmap(slide, colour_model(), **settings)


def all_bytes(folder: Location) -> dict[str, bytes]:
    """Every file of a store except the root metadata, which hold times."""
    return {
        str(p).removeprefix(f"{folder}/"): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.parent != folder
    }


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_public_reader_validates_and_reads_what_was_written(
    tmp_path: Path, slide: OpenSlideSlide, ngff: NgffVersion
) -> None:
    heat = store_heatmap(lazy_heatmap(slide, stride_px=7), tmp_path / "h.zarr", ngff=ngff)
    group = zarr.open_group(heat.path, mode="r")
    labels = zarr.open_group(heat.path / "labels" / "status", mode="r")
    multiscales: Any
    if ngff == "0.5":
        multiscales = ImageV05.from_zarr(group).attributes.ome.multiscales
        ImageLabelV05.from_zarr(labels)
        window = group.attrs["ome"]["omero"]["channels"][0]["window"]  # type: ignore[index,call-overload]
    else:
        multiscales = ImageV04.from_zarr(group).attributes.multiscales
        ImageLabelV04.from_zarr(labels)
        window = group.attrs["omero"]["channels"][0]["window"]  # type: ignore[index,call-overload]
    assert window == {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0}
    assert group.metadata.zarr_format == (3 if ngff == "0.5" else 2)
    datasets = multiscales[0].datasets
    assert len(datasets) == len(level_shapes(heat.grid.shape)) >= 2
    finer = np.asarray(heat.array)
    for level, dataset in enumerate(datasets):
        (scale,) = dataset.coordinateTransformations
        assert scale.type == "scale"
        assert scale.scale == pytest.approx([7 * 0.972 * 2**level] * 2)
        stored = np.asarray(group[dataset.path][:])  # type: ignore[index]
        assert stored.shape == level_shapes(heat.grid.shape)[level]
        assert np.asarray(labels[dataset.path][:]).shape == stored.shape  # type: ignore[index]
        if level:
            np.testing.assert_array_equal(stored, halve_probability(finer))
        finer = stored
    np.testing.assert_array_equal(heat.probability(), np.asarray(heat.array))


@pytest.mark.skipif(not has_openvino(), reason="the extra openvino is missing")
def test_the_version_of_what_computed_is_recorded(tmp_path: Path, slide: OpenSlideSlide) -> None:
    lazy = lazy_heatmap(slide)
    assert "openvino" not in store_heatmap(lazy, tmp_path / "torch.zarr").record.versions
    lazy = dataclasses.replace(lazy, engine=Engine(backend="openvino", precision="int8"))
    recorded = store_heatmap(lazy, tmp_path / "openvino.zarr").record.versions
    assert recorded["openvino"] == version("openvino")


def test_metadata_fit_the_schema_and_name_no_place(tmp_path: Path, slide: OpenSlideSlide) -> None:
    heat = store_heatmap(
        lazy_heatmap(slide), tmp_path / "h.zarr", command="histoslide score s.tif --out h.zarr"
    )
    metadata = json.loads(to_json(heat.record))
    jsonschema.validate(metadata, metadata_schema())
    text = json.dumps(metadata)
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    assert sum(metadata["counts"].values()) == heat.status.size
    assert metadata["counts"]["scored"] == (heat.status == Status.SCORED).sum() > 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(metadata | {"complete": "yes"}, metadata_schema())


def test_only_scored_cells_have_probabilities(tmp_path: Path, slide: OpenSlideSlide) -> None:
    lazy = lazy_heatmap(slide)
    heat = store_heatmap(lazy, tmp_path / "h.zarr")
    np.testing.assert_array_equal(np.isfinite(heat.probability()), heat.status == Status.SCORED)
    np.testing.assert_array_equal(heat.status == Status.BACKGROUND, lazy.plan == Status.BACKGROUND)
    assert (lazy.plan == Status.BACKGROUND).any()


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, slide: OpenSlideSlide) -> None:
    whole = store_heatmap(lazy_heatmap(slide), tmp_path / "whole.zarr")

    class StopError(Exception):
        pass

    def stop_after_five(done: int, total: int, scored: int) -> None:
        assert 0 < done <= total
        if done >= 5:
            raise StopError

    killed = tmp_path / "killed.zarr"
    with pytest.raises(StopError):
        store_heatmap(lazy_heatmap(slide), killed, on_block=stop_after_five)
    with pytest.raises(StoreError, match="incomplete"):
        open_heatmap(killed)
    begun = open_heatmap(killed, allow_incomplete=True)
    assert (begun.status == Status.PENDING).any()
    blocks: list[int] = []
    store_heatmap(lazy_heatmap(slide), killed, on_block=lambda done, *_: blocks.append(done))
    down, across = whole.grid.block_shape
    assert blocks[0] > 5  # blocks that were done are not done again
    assert blocks[-1] == down * across
    assert all_bytes(killed) == all_bytes(whole.path)


def test_killed_between_probability_and_status(
    tmp_path: Path, slide: OpenSlideSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block counts as done only by its status, which is written last."""
    whole = store_heatmap(lazy_heatmap(slide), tmp_path / "whole.zarr")
    order: list[str] = []

    class KilledError(Exception):
        """An error, not Ctrl-C: after Ctrl-C the other reader may still finish its block."""

    write = zarr.Array.__setitem__

    def watch(self: Any, where: Any, value: Any) -> None:
        order.append(self.path)
        if self.path == "labels/status/0" and (np.asarray(value) == Status.SCORED).any():
            raise KilledError
        write(self, where, value)

    path = tmp_path / "h.zarr"
    lazy = lazy_heatmap(slide)
    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__setitem__", watch)
        with pytest.raises(KilledError):
            store_heatmap(lazy, path)
    assert order.index("0") < len(order) - 1
    status = open_heatmap(path, allow_incomplete=True).status
    assert (status[whole.status == Status.SCORED] == Status.PENDING).all()
    store_heatmap(lazy_heatmap(slide), path)
    assert all_bytes(path) == all_bytes(whole.path)


def test_a_complete_store_is_left_alone(tmp_path: Path, slide: OpenSlideSlide) -> None:
    path = tmp_path / "h.zarr"
    store_heatmap(lazy_heatmap(slide), path)
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}

    def fail(*_: int) -> None:
        pytest.fail("a block was scored again")

    store_heatmap(lazy_heatmap(slide), path, on_block=fail)
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"stride_px": 40}, r"grid\.stride_px was 32, is 40"),
        ({"block_cells": 8}, r"grid\.block_cells was 4, is 8"),
        ({"tissue_threshold": 0.9}, r"mask\.threshold was 0\.1, is 0\.9"),
    ],
)
def test_other_settings_are_refused_by_name(
    tmp_path: Path, slide: OpenSlideSlide, change: dict[str, Any], named: str
) -> None:
    path = tmp_path / "h.zarr"
    store_heatmap(lazy_heatmap(slide), path)
    before = all_bytes(path)
    with pytest.raises(SettingsDifferError, match=named):
        store_heatmap(lazy_heatmap(slide, **change), path)
    assert all_bytes(path) == before


def test_a_link_to_a_heatmap_is_replaced_and_what_it_led_to_stays(tmp_path: Path) -> None:
    real, link = tmp_path / "elsewhere" / "h.zarr", tmp_path / "h.zarr"
    store_heatmap(lazy_of(np.zeros((40, 40))), real)
    before = all_bytes(real)
    link.symlink_to(real)
    for value in (0.25, 0.75):
        new = store_heatmap(lazy_of(np.full((40, 40), value)), link, overwrite=True)
        assert float(new.probability().max()) == value
    assert all_bytes(real) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "h.zarr"]


def test_unreadable_cells_are_tried_again_when_asked(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(60, 200, (420, 640, 3), np.uint8)

    def lazy(rotten: Box | None) -> LazyHeatmap:
        slide = FakeSlide([pixels], mpp=Mpp(value=0.972, source="test"), rotten=rotten)
        everywhere = TissueMask(mask=np.ones((4, 4), dtype=bool), method="none", settings={})
        return lazy_heatmap(slide, tissue=everywhere)

    def done_blocks(rotten: Box | None, *, retry: bool = True) -> list[int]:
        done: list[int] = []
        heat = store_heatmap(
            lazy(rotten), path, retry_unreadable=retry, on_block=lambda n, *_: done.append(n)
        )
        assert heat.complete
        return done

    whole = store_heatmap(lazy(None), tmp_path / "whole.zarr")
    path, rotten = tmp_path / "h.zarr", Box(300, 200, 90, 20)
    assert store_heatmap(lazy(rotten), path).counts.unreadable > 0
    assert done_blocks(None, retry=False) == []  # complete is complete, unless asked
    before = all_bytes(path)
    down, across = whole.grid.block_shape
    again = done_blocks(rotten)
    assert 1 < len(again) < down * across / 2  # the blocks around the hole, and no others
    assert all_bytes(path) == before

    def kill(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_heatmap(lazy(None), path, retry_unreadable=True, on_block=kill)
    assert not open_heatmap(path, allow_incomplete=True).complete
    assert len(done_blocks(None)) < len(again)
    assert all_bytes(path) == all_bytes(whole.path)
    assert done_blocks(None) == []

    holed = store_heatmap(lazy(rotten), tmp_path / "holed.zarr")
    packed = convert_heatmap(holed, tmp_path / "packed.zarr", ngff="0.5", packed=True)
    with pytest.raises(StoreError, match="is packed and cannot be changed"):
        store_heatmap(lazy(None), packed.path, retry_unreadable=True)
    assert open_heatmap(packed.path).counts.unreadable > 0


def test_another_model_is_refused(tmp_path: Path, slide: OpenSlideSlide) -> None:
    path = tmp_path / "h.zarr"
    store_heatmap(lazy_heatmap(slide), path)
    other = make_heatmap(slide, colour_model(1), tissue=half_tissue(slide), block_cells=4)
    with pytest.raises(SettingsDifferError, match=r"model\.name was colour-0, is colour-1"):
        store_heatmap(other, path)


def test_overwriting_keeps_the_old_until_the_new_is_whole(
    tmp_path: Path, slide: OpenSlideSlide
) -> None:
    path = tmp_path / "h.zarr"
    old = store_heatmap(lazy_heatmap(slide), path)
    old_bytes = all_bytes(path)

    class StopError(Exception):
        pass

    def stop(done: int, *_: int) -> None:
        raise StopError

    with pytest.raises(StopError):
        store_heatmap(lazy_heatmap(slide, stride_px=40), path, overwrite=True, on_block=stop)
    assert all_bytes(path) == old_bytes
    assert open_heatmap(path).grid == old.grid
    new = store_heatmap(lazy_heatmap(slide, stride_px=40), path, overwrite=True)
    assert new.grid.stride_px == 40
    assert [p.name for p in tmp_path.iterdir()] == ["h.zarr"]


def test_a_packed_copy_has_few_files_and_the_same_values(
    tmp_path: Path, slide: OpenSlideSlide
) -> None:
    heat = store_heatmap(lazy_heatmap(slide, stride_px=7), tmp_path / "h.zarr")
    packed = convert_heatmap(heat, tmp_path / "p.zarr", ngff="0.5", packed=True)
    np.testing.assert_array_equal(packed.probability(), heat.probability())
    np.testing.assert_array_equal(packed.status, heat.status)
    ImageV05.from_zarr(zarr.open_group(packed.path, mode="r"))
    count, few = (sum(p.is_file() for p in h.path.rglob("*")) for h in (heat, packed))
    assert few < 20 < count
    with pytest.raises(StoreError, match=r"0\.4 cannot be packed"):
        convert_heatmap(heat, tmp_path / "q.zarr", ngff="0.4", packed=True)


def test_something_else_is_never_overwritten(tmp_path: Path, slide: OpenSlideSlide) -> None:
    path = tmp_path / "h.zarr"
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="not a heatmap"):
            store_heatmap(lazy_heatmap(slide), path, overwrite=overwrite)
    assert (path / "thesis.txt").read_text() == "years of work"


def test_full_disk_is_one_line_and_resumes(
    tmp_path: Path, slide: OpenSlideSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = store_heatmap(lazy_heatmap(slide), tmp_path / "whole.zarr")
    write = BlockTarget.__setitem__
    written: list[object] = []

    def fill_up(self: BlockTarget, where: tuple[slice, slice], block: NDArray[np.void]) -> None:
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(where)
        write(self, where, block)

    path = tmp_path / "h.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(BlockTarget, "__setitem__", fill_up)
        with pytest.raises(
            StoreError, match=r"h\.zarr cannot be written: the disk is full; .* kept"
        ):
            store_heatmap(lazy_heatmap(slide), path)
    store_heatmap(lazy_heatmap(slide), path)
    assert all_bytes(path) == all_bytes(whole.path)


def test_more_than_two_classes_have_a_channel_axis(tmp_path: Path, slide: OpenSlideSlide) -> None:
    tissue = find_tissue(slide, METHODS["none"])
    lazy = make_heatmap(slide, three_class_model(), tissue=tissue)
    heat = store_heatmap(lazy, tmp_path / "h.zarr")
    assert heat.array.shape == (3, *heat.grid.shape)
    ImageV05.from_zarr(zarr.open_group(heat.path, mode="r"))
    total = sum(heat.probability(name) for name in ("red", "green", "blue"))
    np.testing.assert_allclose(np.asarray(total), 1, atol=1e-5)
    with pytest.raises(StoreError, match="choose from red, green, blue"):
        heat.probability()


def test_the_other_class_of_two(tmp_path: Path, slide: OpenSlideSlide) -> None:
    heat = store_heatmap(lazy_heatmap(slide), tmp_path / "h.zarr")
    np.testing.assert_allclose(heat.probability("normal"), 1 - heat.probability("tumour"))


def test_stores_that_cannot_be_opened(tmp_path: Path, slide: OpenSlideSlide) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        open_heatmap(tmp_path / "none.zarr")
    (tmp_path / "text.zarr").write_text("text")
    with pytest.raises(StoreError, match="not a heatmap"):
        open_heatmap(tmp_path / "text.zarr")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(StoreError, match="not a heatmap"):
        open_heatmap(tmp_path / "other.zarr")
    heat = store_heatmap(lazy_heatmap(slide), tmp_path / "h.zarr")
    group = zarr.open_group(heat.path, mode="r+")
    group.attrs["histoslide"] = to_builtins(heat.record) | {"schema_version": 99}
    with pytest.raises(StoreError, match="schema 99"):
        open_heatmap(heat.path)


def test_no_tissue_is_a_result(tmp_path: Path, slide: OpenSlideSlide) -> None:
    nothing = TissueMask(mask=np.zeros((10, 10), dtype=bool), method="file")
    heat = store_heatmap(lazy_heatmap(slide, tissue=nothing), tmp_path / "h.zarr")
    assert heat.complete
    assert (heat.status == Status.BACKGROUND).all()
    assert np.isnan(heat.probability()).all()


floats = st.one_of(st.just(np.nan), st.floats(0, 1, width=32))


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=floats)
)
def test_halving_keeps_every_maximum(values: NDArray[np.float32]) -> None:
    halved = halve_probability(values)
    assert halved.shape == (-(-values.shape[0] // 2), -(-values.shape[1] // 2))
    for i in range(halved.shape[0]):
        for j in range(halved.shape[1]):
            part = values[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            finite = part[np.isfinite(part)]
            if finite.size:
                assert halved[i, j] == finite.max()
            else:
                assert np.isnan(halved[i, j])


@given(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.integers(0, 4),
    )
)
def test_halving_never_hides_a_failed_read(status: NDArray[np.uint8]) -> None:
    halved = halve_status(status)
    importance = [Status.PENDING, Status.BACKGROUND, Status.EXCLUDED, Status.SCORED]
    importance.append(Status.UNREADABLE)
    for i in range(halved.shape[0]):
        for j in range(halved.shape[1]):
            part = status[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].ravel()
            assert halved[i, j] == max(part.tolist(), key=lambda s: importance.index(Status(s)))


def test_what_is_no_heatmap_names_what_was_meant(tmp_path: Path, slide: OpenSlideSlide) -> None:
    file = tmp_path / "slide.tif"
    file.write_bytes(b"II")
    with pytest.raises(StoreError, match=r"not a heatmap .*: make one of a slide with histoslide"):
        open_heatmap(file)
    with pytest.raises(StoreError, match=r"made by histoslide$"):
        open_heatmap(tmp_path)
    store_heatmap(lazy_heatmap(slide), tmp_path / "b.zarr")
    with pytest.raises(StoreError, match=r"a folder of heatmaps, pass .*/b\.zarr$"):
        open_heatmap(tmp_path)


def test_partial_files_of_a_killed_run_are_removed(tmp_path: Path, slide: OpenSlideSlide) -> None:
    path = tmp_path / "h.zarr"
    store_heatmap(lazy_heatmap(slide), path)
    group = zarr.open_group(path, mode="r+")
    group.attrs["histoslide"] = to_builtins(open_heatmap(path).record) | {"complete": False}
    leftover = path / "0" / "c" / "0.deadbeef.partial"
    leftover.write_bytes(b"half")
    store_heatmap(lazy_heatmap(slide), path)
    assert not leftover.exists()


def test_a_block_that_is_written_meanwhile_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.full((4, 64), 0.25, np.float32)
    path = store_heatmap(lazy_of(values), tmp_path / "h.zarr").path
    group: Any = zarr.open_group(path, mode="r+")
    group.attrs["histoslide"] = to_builtins(open_heatmap(path).record) | {"complete": False}
    late = np.s_[:, 32:]
    group["0"][late], group["labels/status/0"][late] = np.nan, Status.PENDING
    read = Heatmap._read

    def read_while_a_run_writes(heat: Heatmap, array: zarr.Array[Any], where: Any) -> NDArray[Any]:
        found = read(heat, array, where)
        group["0"][late], group["labels/status/0"][late] = 0.25, Status.SCORED
        return found

    monkeypatch.setattr(Heatmap, "_read", read_while_a_run_writes)
    heat = open_heatmap(path, allow_incomplete=True)
    assert (heat.probability()[:, :32] == 0.25).all()
