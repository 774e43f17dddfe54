"""A cohort: every slide is tried, nothing is lost, and the records say what happened."""

import csv
import dataclasses
import json
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import histoslide_cli.console as console_module
import numpy as np
import pytest
from crashing import BAD
from histoslide_cli.console import Progress, duration
from histoslide_cli.main import main
from histoslide_cli.outcomes import exit_code
from histoslide_cli.score import outcome
from models import colour_model
from PIL import Image

import histoslide.cohort.records as cohort_module
import histoslide.cohort.run as cohort_run_module
import histoslide.pipeline.preparation as preparation_module
from histoslide.cohort.dry_run import network_speed, plan_slides, tiles_per_second
from histoslide.cohort.jobs import SlideJob, find_jobs, name_outputs, order_jobs, read_slide_list
from histoslide.cohort.records import read_run, write_run
from histoslide.cohort.run import CohortProgress, score_slides
from histoslide.errors import (
    HistoslideError,
    ResolutionError,
    SlideListError,
)
from histoslide.geometry import Mpp
from histoslide.grid.status import Status
from histoslide.lesions import LesionSettings
from histoslide.model.work import Glances, Tiles
from histoslide.pipeline import (
    PreparedSlide,
    ScoreOptions,
    TissueOptions,
    prepare_slide,
    score_slide,
    store_slide,
)
from histoslide.pipeline.result import SlideResult
from histoslide.scoring.cascade import Cascade
from histoslide.scoring.mode import EXACT
from histoslide.slide.access import SlideAccess
from histoslide.slide.isolated.time_limit import TimeLimit
from histoslide.storage.location import parse_location
from histoslide.store import open_heatmap
from histoslide.synthetic import fiducial_slide, write_slide

EVERYTHING = TissueOptions(method="none", threshold=0)

COARSE = ScoreOptions(tissue=EVERYTHING, overlay=False, lesions=None, stride_px=96)

CRASHING = dataclasses.replace(COARSE, access=SlideAccess(opener="crashing:open_crashing"))

pytestmark = pytest.mark.filterwarnings("ignore:warned by the worker")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    return fiducial_slide(folder / "good.tif", width=900, height=700, mpp=0.972, downsamples=(4,))


def copies(good: Path, folder: Path, *stems: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{stem}.tif" for stem in stems]
    for path in paths:
        path.write_bytes(good.read_bytes())
    return paths


def values(path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    return open_heatmap(path).probability()


def records(out: Path) -> dict[str, dict[str, Any]]:
    return {it["slide"]: it for it in json.loads((out / "run.json").read_text())["slides"]}


def test_a_crash_and_a_broken_file_leave_the_others_whole(good: Path, tmp_path: Path) -> None:
    paths = copies(good, tmp_path / "s", "a", "segv", "open-segv", "z")
    broken = tmp_path / "s" / "broken.tif"
    broken.write_text("no slide")
    out = tmp_path / "out"
    results = score_slides([*paths, broken], out, colour_model(), CRASHING)
    assert [(r.slide, r.state, r.cause) for r in results] == [
        ("a.tif", "done", None),
        ("segv.tif", "partly unreadable", None),
        ("open-segv.tif", "failed", "crashed"),
        ("z.tif", "done", None),
        ("broken.tif", "failed", None),
    ]
    assert "SIGSEGV" in str(results[2].error)
    assert str(results[4].error).startswith("broken.tif is not a slide"), "no folder of the user's"
    score_slide(good, tmp_path / "whole.zarr", colour_model(), COARSE)
    whole = values(tmp_path / "whole.zarr")
    for name in ("a", "z"):
        assert np.array_equal(values(out / f"{name}.zarr"), whole)
    heat = open_heatmap(out / "segv.zarr")
    lost = heat.status == Status.UNREADABLE
    assert np.array_equal(heat.probability()[~lost], whole[~lost])
    # at this stride tiles do not overlap: the bad pixels lie in the tile of one cell
    row, col = int(BAD.y // 96), int(BAD.x // 96)
    assert BAD.right <= (col + 1) * 96
    assert BAD.bottom <= (row + 1) * 96
    assert np.argwhere(lost).tolist() == [[row, col]]


def test_a_slide_that_hangs_is_timed_out_and_continued(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, last = copies(good, tmp_path / "s", "hang", "last")
    out = tmp_path / "out"
    fine = dataclasses.replace(CRASHING, stride_px=8, timeout_s=10)
    # A busy machine may need long for the other one.
    monkeypatch.setattr(
        preparation_module,
        "TimeLimit",
        lambda name, seconds: TimeLimit(name, seconds if name == "hang.tif" else None),
    )
    jobs = [SlideJob(path=hanging), SlideJob(path=last)]
    results = score_slides(jobs, out, colour_model(), fine, order="given")
    assert [(r.state, r.cause) for r in results] == [("failed", "timed out"), ("done", None)]
    assert "timed out after 10 s" in str(results[0].error)
    status = open_heatmap(out / "hang.zarr", allow_incomplete=True).status
    assert (status == Status.SCORED).any()
    assert (status == Status.PENDING).any()
    assert not (status == Status.UNREADABLE).any()
    mended = dataclasses.replace(fine, access=COARSE.access, timeout_s=None)
    results = score_slides(jobs, out, colour_model(), mended)
    assert [r.state for r in results] == ["done", "done"]
    assert np.array_equal(values(out / "hang.zarr"), values(out / "last.zarr"))
    assert {it["state"] for it in records(out).values()} == {"done"}


def test_a_timeout_between_blocks_keeps_what_is_scored(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "h.zarr"
    options = dataclasses.replace(
        COARSE, stride_px=8, timeout_s=1000, access=SlideAccess(isolate=False)
    )
    with prepare_slide(good, out, colour_model(), options) as prepared:

        def use_up(*_: int) -> None:
            prepared.limit._spent = 2000

        with pytest.raises(HistoslideError, match="timed out"):
            store_slide(prepared, options, on_block=use_up)
    status = open_heatmap(out, allow_incomplete=True).status
    assert (status == Status.SCORED).any()
    assert (status == Status.PENDING).any()


def test_fail_fast_stops_and_the_next_run_finishes(good: Path, tmp_path: Path) -> None:
    paths = copies(good, tmp_path / "s", "a", "b", "c", "d", "e")
    broken = tmp_path / "s" / "broken.tif"
    broken.write_text("no slide")
    out = tmp_path / "out"
    results = score_slides(
        [broken, *paths], out, colour_model(), COARSE, order="given", fail_fast=True
    )
    assert results[0].state == "failed"
    assert results[-1].state == "pending"
    assert records(out)["e.tif"]["state"] == "pending"
    assert exit_code(map(outcome, results)) in {3, 4}
    results = score_slides([broken, *paths], out, colour_model(), COARSE)
    assert [r.state for r in results] == ["failed"] + ["done"] * 5
    # a later run that stops before them does not forget them
    results = score_slides(
        [broken, *paths], out, colour_model(), COARSE, order="given", fail_fast=True
    )
    assert {records(out)[path.name]["state"] for path in paths} == {"done"}


def test_the_next_slide_is_prepared_while_one_is_scored(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = copies(good, tmp_path / "s", "a", "b", "c")
    seen = {"prepared": 0, "open": 0, "most open": 0, "in network": 0, "most in network": 0}
    lock, second = threading.Lock(), threading.Event()
    prepare, store = prepare_slide, store_slide
    leave = PreparedSlide.__exit__

    def count(name: str, by: int) -> int:
        with lock:
            seen[name] += by
            seen[f"most {name}"] = max(seen.get(f"most {name}", 0), seen[name])
            return seen[name]

    def prepared_(*args: Any, **kwargs: Any) -> PreparedSlide:
        prepared = prepare(*args, **kwargs)
        count("open", 1)
        if count("prepared", 1) == 2:
            second.set()
        return prepared

    def stored(*args: Any, **kwargs: Any) -> Any:
        count("in network", 1)
        assert second.wait(60), "no slide is prepared while this one is scored"
        result = store(*args, **kwargs)
        count("in network", -1)
        return result

    def left(self: PreparedSlide, *error: Any) -> None:
        count("open", -1)
        leave(self, *error)

    monkeypatch.setattr(cohort_run_module, "prepare_slide", prepared_)
    monkeypatch.setattr(cohort_run_module, "store_slide", stored)
    monkeypatch.setattr(PreparedSlide, "__exit__", left)
    results = score_slides(paths, tmp_path / "out", colour_model(), COARSE)
    assert [r.state for r in results] == ["done"] * 3
    assert seen["most in network"] == cohort_run_module.SLIDES_AT_ONCE
    assert seen["most open"] == cohort_run_module.SLIDES_AT_ONCE + 1
    assert seen["open"] == 0


def test_records_and_progress_while_it_runs(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort_module, "_WRITE_INTERVAL_S", 0)
    monkeypatch.setattr(cohort_module, "_WRITE_SHARE", 1e9)
    paths = copies(good, tmp_path / "s", "a", "b")
    out = tmp_path / "out"
    told: list[CohortProgress] = []
    states: list[tuple[str, ...]] = []

    def look(now: CohortProgress) -> None:
        told.append(now)
        states.append(tuple(it["state"] for it in records(out).values()))

    low = LesionSettings(seed_probability=0.5, extend_probability=0.5)
    options = dataclasses.replace(COARSE, lesions=low)
    results = score_slides(paths, out, colour_model(), options, on_progress=look)
    assert any("running" in now for now in states)
    assert any("pending" in now for now in states)
    scored = sum(r.counts["scored"] for r in results)
    assert (told[-1].slides_done, told[-1].slides) == (2, 2)
    assert told[-1].tiles_done == told[-1].tiles == scored
    assert told[0].tiles == scored  # the second slide is foreseen from the first
    assert all(a.tiles_done <= b.tiles_done for a, b in pairwise(told))
    document = json.loads((out / "run.json").read_text())
    assert document["started"] <= records(out)["a.tif"]["started"]
    assert records(out)["a.tif"]["ended"] <= document["ended"]
    assert records(out)["a.tif"]["tiles_per_second"] > 0
    with (out / "summary.csv").open() as file:
        row = next(csv.DictReader(file))
    table = json.loads((out / "a-lesions.json").read_text())["summary"]
    assert int(row["lesions"]) == table["lesions"] > 0
    assert float(row["largest_lesion_um"]) == pytest.approx(table["largest_diameter_um"], abs=0.05)
    assert row["largest_lesion_class"] == table["largest_kind"]
    assert float(row["tumour_area_mm2"]) == pytest.approx(table["tumour_area_mm2"], abs=1e-6)
    # once more: nothing to do
    again: list[CohortProgress] = []
    score_slides(paths, out, colour_model(), options, on_progress=again.append)
    assert again[-1].tiles_done == again[-1].tiles == 0


def test_an_interrupted_run_is_pending_again(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = copies(good, tmp_path / "s", "a")
    running, interrupted = threading.Event(), threading.Event()
    store = store_slide

    def slow(prepared: PreparedSlide, options: ScoreOptions, *, on_block: Any) -> Any:
        def then(done: int, total: int, scored: int) -> None:
            running.set()
            interrupted.wait(60)
            on_block(done, total, scored)

        return store(prepared, options, on_block=then)

    def ctrl_c(*_: Any, **__: Any) -> None:
        running.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(cohort_run_module, "store_slide", slow)
    monkeypatch.setattr(cohort_run_module, "wait", ctrl_c)
    options = dataclasses.replace(COARSE, stride_px=8)
    with pytest.raises(KeyboardInterrupt):
        score_slides([path], tmp_path / "out", colour_model(), options)
    (record,) = records(tmp_path / "out").values()
    assert record["state"] == "pending"
    interrupted.set()
    for thread in threading.enumerate():
        if thread.name.startswith("slide"):
            thread.join(60)
    monkeypatch.undo()
    assert records(tmp_path / "out")["a.tif"]["state"] == "pending"
    (result,) = score_slides([path], tmp_path / "out", colour_model(), options)
    assert result.state == "done"


def test_records_are_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort_module, "_WRITE_INTERVAL_S", 1e6)
    waiting = [SlideResult(slide=name, state="pending", output=name) for name in "ab"]
    record = cohort_module.RunRecord(tmp_path, "m", waiting)
    record.begin()

    def states() -> list[str]:
        return [it["state"] for it in records(tmp_path).values()]

    record.report(dataclasses.replace(waiting[0], state="running"))
    record.refresh()
    assert states() == ["pending", "pending"]
    monkeypatch.setattr(cohort_module, "_WRITE_INTERVAL_S", 0)
    monkeypatch.setattr(cohort_module, "_WRITE_SHARE", 1e9)
    record.refresh()
    assert states() == ["running", "pending"]
    monkeypatch.setattr(cohort_module, "_WRITE_INTERVAL_S", 1e6)
    record.report(dataclasses.replace(waiting[1], state="failed"), waited_for=True)
    assert states() == ["running", "failed"]
    # What a thread has to say that nobody waited for after Ctrl-C comes too late.
    record.finish([])
    record.report(waiting[0], waited_for=True)
    assert states() == ["running", "failed"]
    assert json.loads((tmp_path / "run.json").read_text())["ended"] is not None


def test_a_killed_run_left_a_slide_running(tmp_path: Path, good: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_run(
        out, "m", [SlideResult(slide="good.tif", state="running", output="good.zarr")], total=1
    )
    assert read_run(out)[0].state == "running"
    score_slides([good], out, colour_model(), COARSE)
    assert [r.state for r in read_run(out)] == ["done"]


def test_a_list_names_slides_resolutions_and_outputs(tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text(
        "slide,mpp,output\nx/a.svs,0.25,left\ny/a.svs,,right.zarr\n/abs/b.svs,,\ns3://c/d.svs,,\n"
    )
    jobs = read_slide_list(table)
    given = Mpp(value=0.25, source="cohort.csv")
    assert jobs == [
        SlideJob(path=tmp_path / "x" / "a.svs", mpp=given, output="left.zarr"),
        SlideJob(path=tmp_path / "y" / "a.svs", output="right.zarr"),
        SlideJob(path=Path("/abs/b.svs")),
        SlideJob(path=parse_location("s3://c/d.svs")),
    ]
    named, option = Mpp(value=0.5, source="--mpp-csv"), Mpp(value=1, source="--mpp")
    found = find_jobs([table], mpp=option, mpp_by_name={"a.svs": named})
    assert [job.mpp for job in found] == [given, named, option, option]
    outputs = ["left.zarr", "right.zarr", "b.zarr", "d.zarr"]
    assert [job.heatmap for job in name_outputs(found)] == outputs
    with pytest.raises(HistoslideError, match=r"would both be written to left\.zarr"):
        name_outputs([*found, SlideJob(path=Path("left.svs"))])


def test_the_table_of_annotated_slides_is_a_list_too(tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    table.write_text("slide,mpp,patient,annotations,exhaustive,part\na.tif,0.5,A,a.xml,no,train\n")
    (job,) = read_slide_list(table)
    assert job == SlideJob(path=tmp_path / "a.tif", mpp=Mpp(value=0.5, source="slides.csv"))


def test_a_list_gives_each_slide_its_mask_and_region(tmp_path: Path) -> None:
    """As masks of another program come: one file a slide."""
    pixels = np.full((640, 960, 3), 200, dtype=np.uint8)
    for name in ("a", "b"):
        write_slide(tmp_path / f"{name}.tif", pixels, mpp=0.972)
    left = np.zeros((20, 30), dtype=np.uint8)
    left[:, :15] = 255
    Image.fromarray(left).save(tmp_path / "a_mask.png")
    ring = [[0, 0], [960, 0], [960, 320], [0, 320], [0, 0]]
    region = {"type": "Polygon", "coordinates": [ring]}
    (tmp_path / "b.geojson").write_text(json.dumps(region))
    table = tmp_path / "list.csv"
    table.write_text("slide,mask,roi\na.tif,a_mask.png,\nb.tif,,b.geojson\n")
    options = ScoreOptions(
        tissue=TissueOptions(method="none", threshold=0.5), overlay=False, lesions=None,
        access=SlideAccess(isolate=False),
    )  # fmt: skip
    score_slides([str(table)], str(tmp_path / "out"), colour_model(), options)
    a, b = (open_heatmap(str(tmp_path / "out" / f"{name}.zarr")) for name in ("a", "b"))
    scored = [heat.status == Status.SCORED for heat in (a, b)]
    np.testing.assert_array_equal(scored[0], np.full((20, 1), True) & (np.arange(30) < 15))
    assert (a.record.mask.method, a.record.mask.roi) == ("file", None)
    assert a.record.mask.settings == {"file": "a_mask.png"}
    np.testing.assert_array_equal(scored[1], np.arange(20)[:, None] < np.full(30, 10))
    assert b.record.mask.method == "none"
    assert b.record.mask.roi == {"file": "b.geojson"}


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (
            "slides\na\n",
            SlideListError,
            "has the columns slides: need slide, and may have mpp, output",
        ),
        ("slide,mmp\na,1\n", SlideListError, "has the columns slide,mmp"),
        ("", SlideListError, r"has the columns \(none\)"),
        ("slide\n", SlideListError, "lists no slide"),
        ("slide,mpp\n,1\n", SlideListError, "line 2: names no slide"),
        ("slide,mpp\na,x\n", ResolutionError, "line 2: the mpp 'x' is not a positive number"),
        ("slide,mpp\na,-1\n", ResolutionError, "line 2: the mpp '-1'"),
        ("slide,output\na,../b\n", SlideListError, r"'\.\./b' must be a plain name"),
        ("slide,output\na,.hidden\n", SlideListError, "must be a plain name"),
        ("slide,output\na,b\0\n", SlideListError, "line 2: has a NUL byte"),
        ("slide\na\0b\n", SlideListError, "line 2: has a NUL byte"),
    ],
)
def test_a_wrong_list_is_one_line(
    tmp_path: Path, content: str, error: type[Exception], message: str
) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text(content)
    with pytest.raises(error, match=message):
        read_slide_list(table)
    with pytest.raises(SlideListError, match="cannot be read"):
        read_slide_list(tmp_path / "none.csv")


def test_order_is_by_size_of_file(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("small.svs", "large.svs", "folder.mrxs", "gone.svs")]
    for path, size in zip(paths, (10, 100, 1), strict=False):
        path.write_bytes(b"x" * size)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "Data.dat").write_bytes(b"x" * 50)
    jobs = [SlideJob(path=path) for path in paths]
    names: Callable[[list[SlideJob]], list[str]] = lambda js: [j.path.stem for j in js]  # noqa: E731
    assert names(order_jobs(jobs, "largest")) == ["large", "folder", "small", "gone"]
    assert names(order_jobs(jobs, "smallest")) == ["gone", "small", "folder", "large"]
    assert names(order_jobs(jobs, "given")) == ["small", "large", "folder", "gone"]


def test_a_dry_run_counts_what_a_run_scores_and_writes_nothing(good: Path, tmp_path: Path) -> None:
    paths = copies(good, tmp_path / "s", "a")
    jobs = name_outputs([*find_jobs(paths), SlideJob(path=tmp_path / "none.svs")])
    out, model = tmp_path / "out", colour_model()
    before, failing = plan_slides(jobs, out, model, COARSE)
    assert not out.exists()
    assert (before.state, failing.state) == ("to score", "failed")
    assert "does not exist" in str(failing.error)
    result = score_slides(paths, out, model, COARSE)[0]
    assert before.tiles == before.tiles_left == result.counts["scored"]
    assert before.cells == sum(result.counts.values())
    after = plan_slides(jobs[:1], out, model, COARSE)[0]
    assert (after.state, after.tiles_left, after.tiles) == ("complete", 0, before.tiles)


class Clock:
    """Each look at it finds a second gone."""

    def __init__(self) -> None:
        self.now = -1.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


def test_a_rate_is_work_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histoslide.cohort.dry_run.time", Clock())
    model = colour_model()
    # Two batches to warm up; then the clock is looked at before the third batch, after it and the
    # two that follow, and for the sum.
    rate = tiles_per_second(model, seconds=3)
    assert rate == 3 * model.batches(Tiles()).size / 4


def test_of_a_cascade_both_looks_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {Glances(): 300.0, Tiles(): 98.7}
    monkeypatch.setattr("histoslide.cohort.dry_run.tiles_per_second", lambda _, work: rates[work])
    model = colour_model()
    cascade = Cascade(model=model, first=model, threshold=0.5)
    speed = network_speed(cascade.here(), cascade.mode)
    assert speed.at_best == 300
    assert speed.at_worst == pytest.approx(1 / (1 / 300 + 1 / 98.7))
    alone = network_speed(model, EXACT)
    assert alone.at_best == alone.at_worst == 98.7


def test_the_command(
    good: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies(good, tmp_path / "s", "a", "b", "c")
    table = tmp_path / "s" / "cohort.csv"
    table.write_text("slide,output\na.tif,\nb.tif,other\nc.tif,\n")
    out = tmp_path / "out"
    command = ["score", str(table), "--out", str(out), "--model", str(small_bundle)]
    command += ["--tissue", "none", "--stride", "96", "--no-overlay", "--limit", "2"]
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "a.tif: 70 tiles in 1 block, 80 cells → a.zarr" in said.out
    assert "2 of 2 slides, 140 tiles to score at" in said.out
    assert not out.exists()
    assert main([*command, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tiles_left"] == 140
    assert main(command) == 0
    said = capsys.readouterr()
    assert "b.tif: 70 of 80 cells scored" in said.out
    assert "cohort: 140 of 140 tiles, 2 of 2 slides" in said.err
    assert sorted(p.name for p in out.glob("*.zarr")) == ["a.zarr", "other.zarr"]
    for wrong in (["--limit", "0"], ["--timeout", "0"], ["--timeout", "nan"]):
        assert main([*command, *wrong]) == 2
    command[3] = str(tmp_path / "one.zarr")
    assert main([*command, "--limit", "1"]) == 2
    assert "a CSV names its own outputs" in capsys.readouterr().err


def test_exit_codes_and_durations() -> None:
    def code(*states: str, cause: str | None = None) -> int:
        results = [
            SlideResult(slide="s", state=state, cause=cause if state == "failed" else None)  # type: ignore[arg-type]
            for state in states
        ]
        return exit_code(map(outcome, results))

    assert code("done", "done") == 0
    assert code("done", "pending") == code("done", "failed") == code("partly unreadable") == 3
    assert code("failed", "pending") == code("failed") == 4
    assert code("failed", "pending", cause="resolution unknown") == 5
    assert code("done", "failed", cause="resolution unknown") == 3
    assert code("done", "failed", cause="bug") == code("failed", cause="bug") == 1
    assert code("failed", cause="timed out") == 4
    assert [duration(s) for s in (5.2, 61, 3600, 3601, 86399, 90000)] == [
        "6 s", "2 min", "1 h 0 min", "1 h 1 min", "24 h 0 min", "1 d 1 h",
    ]  # fmt: skip


def test_time_left_counts_what_is_done_while_one_looks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(console_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(console_module, "PLAIN_INTERVAL_S", 0)
    with Progress("x", unit="tile", quiet=False) as progress:
        for seconds, done in ((60, 32), (1, 64), (1, 96), (300, 32), (1, 64)):
            now[0] += seconds
            progress.update(done, 320)
    with Progress("y", unit="slide", quiet=False) as progress:
        now[0] += 20
        progress.update(1, 3)
    said = [line.rpartition(", about ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said[1:3] == ["8 s left", "7 s left"]  # 32 in a second, wherever the first came from
    assert said[4:] == ["8 s left", "40 s left"]  # another count; the first of three slides
    assert not any("left" in said[index] for index in (0, 3))
