"""Slides to heatmaps: what goes wrong stays where it went wrong."""

import csv
import dataclasses
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import openslide
import pytest
import torch
from models import CentreColour, colour_model
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import histoslide.cohort.run as cohort_run_module
import histoslide.slide.resampling as resampling_module
from histoslide.cohort.records import output_names, read_run, write_run
from histoslide.cohort.run import score_slides
from histoslide.errors import (
    BundleError,
    HistoslideError,
    OutputExistsError,
    SettingsDifferError,
    SlideOpenError,
    SlideReadError,
    StoreError,
)
from histoslide.geometry import Region
from histoslide.grid.status import Status
from histoslide.lesions import LesionSettings, find_lesions
from histoslide.model import Model
from histoslide.pipeline import (
    PreparedSlide,
    ScoreOptions,
    TissueOptions,
    prepare_slide,
    score_slide,
)
from histoslide.pipeline.result import SlideResult
from histoslide.slide import OpenSlideSlide, TiffSlide
from histoslide.slide.access import SlideAccess
from histoslide.store import BlockTarget, open_heatmap
from histoslide.synthetic import fiducial_slide, write_slide
from histoslide.tissue.ruler import WINDOWS

EVERYTHING = TissueOptions(method="none", threshold=0)
IN_PROCESS = SlideAccess(isolate=False)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    return fiducial_slide(folder / "a.tif", width=900, height=700, mpp=0.972)


def fail_reads(monkeypatch: pytest.MonkeyPatch, error: Exception, *, after: int = 0) -> None:
    """Let every read of level 0 fail, after some that work."""
    read = TiffSlide.read
    calls: list[int] = []

    def broken(self: TiffSlide, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        calls.append(1)
        if len(calls) > after:
            raise error
        return read(self, region, shrink)

    monkeypatch.setattr(TiffSlide, "read", broken)


def test_a_slide_that_cannot_be_read_at_all_has_failed(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail_reads(monkeypatch, SlideReadError("a.tif: rotten"))
    options = ScoreOptions(tissue=EVERYTHING, overlay=False, access=IN_PROCESS)
    result = score_slide(slide, tmp_path / "h.zarr", colour_model(), options)
    assert result.state == "failed"
    assert "none of its" in str(result.error)
    assert result.highest is None
    assert "no tissue" not in caplog.text
    assert len(caplog.records) < 10  # not one line a cell
    assert (open_heatmap(tmp_path / "h.zarr").status == Status.UNREADABLE).all()


def test_a_slide_that_vanishes_midway_can_be_finished_later(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "h.zarr"
    options = ScoreOptions(tissue=EVERYTHING, overlay=False, stride_px=8, access=IN_PROCESS)
    with monkeypatch.context() as patch:
        fail_reads(patch, SlideOpenError("a.tif does not exist"), after=WINDOWS + 4)
        with pytest.raises(SlideOpenError):
            score_slide(slide, out, colour_model(), options)
    status = open_heatmap(out, allow_incomplete=True).status
    assert not (status == Status.UNREADABLE).any()
    assert (status == Status.PENDING).any()
    assert score_slide(slide, out, colour_model(), options).state == "done"


def test_an_error_leaves_no_thread_writing(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When score_slide has raised, the store is at rest and the process is alive."""

    class Slow(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            time.sleep(0.05)
            return CentreColour(32, 0)(images)

    model = Model(colour_model().spec, Slow(), device="cpu", sha256="slow")
    write = BlockTarget.__setitem__
    calls: list[float] = []

    def full(self: BlockTarget, where: tuple[slice, slice], block: NDArray[np.void]) -> None:
        calls.append(time.monotonic())
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        write(self, where, block)

    monkeypatch.setattr(BlockTarget, "__setitem__", full)
    options = ScoreOptions(tissue=EVERYTHING, overlay=False, stride_px=8)
    before = set(threading.enumerate())
    with pytest.raises(StoreError, match="the disk is full"):
        score_slide(slide, tmp_path / "h.zarr", model, options)
    raised = time.monotonic()
    time.sleep(0.3)
    assert max(calls) <= raised
    # Dask's own idle pool may be there from earlier; the thread of the network writes nothing.
    left = {thread for thread in threading.enumerate() if thread.name != "network"}
    assert left <= before


def test_what_could_not_be_read_of_the_overview_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drive that is away for a while: tissue is not known there, and must not be forgotten."""
    folder = tmp_path / "s"
    folder.mkdir()
    pixels = np.full((600, 1400, 3), 245, np.uint8)
    pixels[100:500, 100:700] = (170, 90, 160)
    path = write_slide(folder / "a.tif", pixels, mpp=0.972)
    read, away = TiffSlide.read, [True]

    def flaky(self: TiffSlide, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        if away and region.right * self.level_downsamples[region.level] > 900:
            raise SlideReadError("the drive is away")
        return read(self, region, shrink)

    monkeypatch.setattr(TiffSlide, "read", flaky)
    monkeypatch.setattr(
        resampling_module, "_OVERVIEW_READ_PX", 40
    )  # in pieces, as of a large slide
    out, options = tmp_path / "h.zarr", ScoreOptions(overlay=False, access=IN_PROCESS)
    first = score_slide(path, out, colour_model(), options)
    assert first.counts["unreadable"] > 0
    before = open_heatmap(out).status
    away.clear()
    again = dataclasses.replace(options, retry_unreadable=True)
    second = score_slide(path, out, colour_model(), again)
    assert second.counts["unreadable"] == 0
    assert second.counts["scored"] == first.counts["scored"] + first.counts["unreadable"]
    # Only now does the overview say that there is glass: a new heatmap scores less.
    new = score_slide(path, tmp_path / "new.zarr", colour_model(), options)
    assert new.counts["scored"] < second.counts["scored"]
    assert (before == Status.UNREADABLE).sum() == first.counts["unreadable"]
    stricter = dataclasses.replace(again, tissue=TissueOptions(threshold=0.9))
    with pytest.raises(SettingsDifferError, match=r"mask\.threshold was 0\.1, is 0\.9"):
        score_slide(path, out, colour_model(), stricter)


def test_a_name_that_is_no_text_is_shown_as_well_as_can_be(slide: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(slide.parent) + b"/sch\xe4fer.tif"))
    try:
        odd.write_bytes(slide.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    out = tmp_path / "o"
    results = score_slides([slide, odd], out, colour_model(), ScoreOptions(tissue=EVERYTHING))
    assert [(r.slide, r.state) for r in results] == [
        ("a.tif", "done"),
        ("sch\ufffdfer.tif", "done"),
    ]
    assert {r.slide for r in read_run(out)} == {"a.tif", "sch\ufffdfer.tif"}
    assert "sch\ufffdfer.tif" in (out / "summary.csv").read_text(encoding="utf-8")
    assert len(list(out.glob("*.png"))) == 2


def test_one_bug_does_not_stop_the_cohort(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = fiducial_slide(slide.with_name("b.tif"), width=400, height=400, mpp=0.972)
    prepare = prepare_slide

    def buggy(path: Path, *args: object, **kwargs: object) -> PreparedSlide:
        if path == slide:
            raise ZeroDivisionError("oops")
        return prepare(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(cohort_run_module, "prepare_slide", buggy)
    options = ScoreOptions(tissue=EVERYTHING, overlay=False)
    results = score_slides([slide, second], tmp_path / "o", colour_model(), options)
    assert [r.state for r in results] == ["failed", "done"]
    assert results[0].cause == "bug"
    assert results[0].positive is None
    run = json.loads((tmp_path / "o" / "run.json").read_text())
    assert "ZeroDivisionError" in run["slides"][0]["error"]


def test_a_second_run_keeps_the_records_of_the_first(slide: Path, tmp_path: Path) -> None:
    second = fiducial_slide(slide.with_name("b.tif"), width=400, height=400, mpp=0.972)
    options, out = ScoreOptions(tissue=EVERYTHING, overlay=False), tmp_path / "o"
    score_slides([slide], out, colour_model(), options)
    score_slides([second], out, colour_model(), options)
    assert [r.slide for r in read_run(out)] == ["a.tif", "b.tif"]
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["slide"] for row in rows] == ["a.tif", "b.tif"]
    assert {row["shown_class"] for row in rows} == {"tumour"}
    (out / "run.json").write_text('{"my": "notes"}')
    with pytest.raises(OutputExistsError, match="not written by histoslide"):
        score_slides([slide], out, colour_model(), options)
    (out / "run.json").unlink()
    with pytest.raises(OutputExistsError, match=r"summary\.csv exists"):
        score_slides([slide], out, colour_model(), options)


def test_names_of_outputs() -> None:
    paths = [Path("x/a.svs"), Path("x/b.svs"), Path("x/b.tif")]
    assert list(output_names(paths).values()) == ["a.zarr", "b.svs.zarr", "b.tif.zarr"]
    with pytest.raises(HistoslideError, match="would both be written to"):
        output_names([Path(name) for name in ["a.svs", "a.tif", "a.svs.tif"]])


def test_slides_of_one_name_are_told_apart_by_their_folders() -> None:
    paths = [Path(name) for name in ("x/1/a.svs", "x/2/a.svs", "y/1/a.svs", "y/1/b.svs")]
    assert list(output_names(paths).values()) == [
        "x-1-a.zarr", "2-a.zarr", "y-1-a.zarr", "b.zarr",
    ]  # fmt: skip
    kinds = [Path(name) for name in ("x/a.svs", "y/a.svs", "y/a.tif")]
    assert list(output_names(kinds).values()) == ["x-a.svs.zarr", "y-a.svs.zarr", "a.tif.zarr"]
    assert output_names([Path("/a.svs"), Path("/a.svs")]) == {Path("/a.svs"): "a.zarr"}


def test_records_survive_their_file(tmp_path: Path) -> None:
    results = [
        SlideResult(slide="a", state="done", counts={"scored": 3}, warnings=("x",), positive=1),
        SlideResult(slide="b", state="failed", error="e", cause="resolution unknown"),
    ]
    write_run(tmp_path, "model", results, total=2)
    assert read_run(tmp_path) == results


def test_the_summary_tells_resolution_and_warnings(tmp_path: Path) -> None:
    done = SlideResult(
        slide="a", state="done", mpp=0.25, mpp_source="--mpp", warnings=("faint", "off by three")
    )
    write_run(tmp_path, "model", [done, SlideResult(slide="b", state="failed", error="e")], total=2)
    with (tmp_path / "summary.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["mpp"], first["mpp_source"]) == ("0.25", "'--mpp")
    # A spreadsheet shall not take it for a formula.
    assert first["warnings"] == "faint; off by three"
    assert second["mpp"] == second["warnings"] == ""


def test_the_overlay_follows_its_threshold_and_spares_others_pictures(
    slide: Path, tmp_path: Path
) -> None:
    out, picture = tmp_path / "h.zarr", tmp_path / "h.png"
    model = colour_model()
    score_slide(slide, out, model, ScoreOptions(tissue=EVERYTHING))
    first = picture.read_bytes()
    score_slide(slide, out, model, ScoreOptions(tissue=EVERYTHING))
    assert picture.read_bytes() == first
    score_slide(slide, out, model, ScoreOptions(tissue=EVERYTHING, overlay_threshold=0.8))
    assert picture.read_bytes() != first
    Image.new("RGB", (3, 3)).save(picture)
    with pytest.raises(OutputExistsError, match=r"h\.png exists"):
        score_slide(slide, out, model, ScoreOptions(tissue=EVERYTHING))
    with Image.open(picture) as image:
        assert image.size == (3, 3)


def test_lesions_are_listed_beside_the_heatmap_and_others_files_spared(
    slide: Path, tmp_path: Path
) -> None:
    out, table = tmp_path / "h.zarr", tmp_path / "h-lesions.csv"
    model = colour_model()
    score_slide(slide, out, model, ScoreOptions(tissue=EVERYTHING, lesions=None))
    assert not table.exists()
    low = LesionSettings(seed_probability=0.5, extend_probability=0.5)
    score_slide(slide, out, model, ScoreOptions(tissue=EVERYTHING, lesions=low))
    document = json.loads((tmp_path / "h-lesions.json").read_text(encoding="utf-8"))
    expected = find_lesions(open_heatmap(out), low)
    assert document["summary"]["tumour_area_mm2"] == pytest.approx(
        expected.summary.tumour_area_mm2, abs=1e-6
    )
    assert len(table.read_text().splitlines()) == 1 + len(expected.lesions) > 1
    score_slide(slide, out, model, ScoreOptions(tissue=EVERYTHING))  # ours are written anew
    changed = json.loads((tmp_path / "h-lesions.json").read_text(encoding="utf-8"))
    assert changed["settings"]["seed_probability"] == LesionSettings().seed_probability
    (tmp_path / "h-lesions.json").write_text("{}")
    with pytest.raises(OutputExistsError, match=r"h-lesions\.csv exists"):
        score_slide(slide, out, model, ScoreOptions(tissue=EVERYTHING))
    assert (tmp_path / "h-lesions.json").read_text() == "{}"


def test_what_lies_beside_a_replaced_heatmap_goes_with_it(slide: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "h.zarr", colour_model()
    names = ("h.png", "h-mask.png", "h-lesions.csv", "h-lesions.json")
    everything = ScoreOptions(tissue=EVERYTHING, mask_png=True, access=IN_PROCESS)
    score_slide(slide, out, model, everything)
    bare = dataclasses.replace(everything, overlay=False, mask_png=False, lesions=None)
    score_slide(slide, out, model, bare)
    assert all((tmp_path / name).exists() for name in names), "they are of this heatmap"
    score_slide(slide, out, model, dataclasses.replace(bare, stride_px=64, overwrite=True))
    assert not any((tmp_path / name).exists() for name in names)
    score_slide(slide, out, model, dataclasses.replace(everything, overwrite=True))
    for name in names:
        (tmp_path / name).write_bytes(b"somebody else's")
    score_slide(slide, out, model, dataclasses.replace(bare, stride_px=64, overwrite=True))
    assert all((tmp_path / name).read_bytes() == b"somebody else's" for name in names)


def test_a_refused_run_draws_no_mask(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "h.zarr"
    score_slide(slide, out, colour_model(), ScoreOptions(tissue=EVERYTHING, mask_png=True))
    before = (tmp_path / "h-mask.png").read_bytes()
    with pytest.raises(SettingsDifferError):
        score_slide(
            slide,
            out,
            colour_model(),
            ScoreOptions(tissue=EVERYTHING, mask_png=True, stride_px=64),
        )
    assert (tmp_path / "h-mask.png").read_bytes() == before


def test_overwriting_an_unfinished_run_continues_it(slide: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "h.zarr", colour_model()
    options = ScoreOptions(tissue=EVERYTHING, overlay=False, stride_px=8, overwrite=True)

    class StopError(Exception):
        pass

    def stop(done: int, *_: int) -> None:
        if done == 3:
            raise StopError

    with pytest.raises(StopError):
        score_slide(slide, out, model, options, on_block=stop)
    seen: list[int] = []
    score_slide(slide, out, model, options, on_block=lambda done, *_: seen.append(done))
    assert seen[0] > 3
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_swap_killed_between_its_renames_is_undone(slide: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "h.zarr", colour_model()
    options = ScoreOptions(tissue=EVERYTHING, overlay=False)
    score_slide(slide, out, model, options)
    out.rename(tmp_path / ".h.zarr.old")

    def fail(*_: int) -> None:
        pytest.fail("scored again what was there")

    score_slide(slide, out, model, options, on_block=fail)
    assert open_heatmap(out).complete


def test_a_network_that_puts_out_nan_is_refused(slide: Path, tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 2), torch.nan)

    model = Model(colour_model().spec, Broken(), device="cpu", sha256="nan")
    with pytest.raises(BundleError, match="no numbers"):
        score_slide(slide, tmp_path / "h.zarr", model, ScoreOptions(tissue=EVERYTHING))


def test_slides_without_quickhash_are_told_apart(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = fiducial_slide(tmp_path / "other.tif", width=900, height=700, mpp=0.972)
    data = bytearray(other.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    monkeypatch.setattr(openslide, "PROPERTY_NAME_QUICKHASH1", "recorded by none")
    first, second = OpenSlideSlide(slide), OpenSlideSlide(other)
    assert first.quickhash != second.quickhash
    assert first.quickhash == OpenSlideSlide(slide).quickhash
    assert len(first.quickhash) == 64


@pytest.mark.parametrize(
    "attributes",
    [
        {"histoslide": {"schema_version": 1}},
        {"histoslide": [1]},
        {"histoslide": None},
        {},
    ],
)
def test_damaged_metadata_are_one_line(tmp_path: Path, attributes: dict[str, object]) -> None:
    path = tmp_path / "h.zarr"
    path.mkdir()
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"damaged metadata|not a heatmap"):
        open_heatmap(path)
    for text in ("[]", "{", ""):
        (path / "zarr.json").write_text(text)
        with pytest.raises(StoreError, match="not a heatmap"):
            open_heatmap(path)
