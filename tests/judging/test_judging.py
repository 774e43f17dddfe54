"""Heatmaps judged against annotations: by hand, end to end, and with bad input."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heatmaps import stored_heatmap
from histoslide_cli.main import main
from numpy.typing import NDArray

from histoslide.errors import DataError, HistoslideError
from histoslide.evaluation.bootstrap import FEWEST_PATIENTS
from histoslide.grid.status import Status
from histoslide.judging.assessment import assess
from histoslide.judging.choice import Aim, candidates, choose, same_slides
from histoslide.judging.cohort import JudgedCohort, cases_of, judge_cohort
from histoslide.judging.options import JudgeOptions
from histoslide.judging.page import warnings_of
from histoslide.judging.reference import read_reference
from histoslide.lesions import LesionClass, LesionSettings, find_lesions
from histoslide.lesions.many_settings import peaks_under
from histoslide.lesions.peaks import lesion_peaks, local_maxima
from histoslide.lesions.settings_file import read_settings
from histoslide.viewer.catalogue import Catalogue

CELL_L0, CELL_UM = 128, 32.0
ROWS, COLS = 64, 80
SQUARE = tuple[int, int, int]
"""Row, column and side of a square of cells."""


def squares(values: Sequence[tuple[SQUARE, float]], low: float = 0.1) -> NDArray[np.float32]:
    cells = np.full((ROWS, COLS), low, dtype=np.float32)
    for (row, col, side), value in values:
        cells[row : row + side, col : col + side] = value
    return cells


def draw(path: Path, drawn: Sequence[SQUARE], name: str = "tumour") -> None:
    features = []
    for row, col, side in drawn:
        left, top = col * CELL_L0, row * CELL_L0
        right, bottom = left + side * CELL_L0, top + side * CELL_L0
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        features.append(
            {
                "type": "Feature",
                "properties": {"classification": {"name": name}},
                "geometry": {"type": "Polygon", "coordinates": [ring]},
            }
        )
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def make(
    folder: Path,
    name: str,
    values: Sequence[tuple[SQUARE, float]],
    drawn: Sequence[SQUARE] = (),
    *,
    status: NDArray[np.uint8] | None = None,
) -> None:
    (folder / "heat").mkdir(exist_ok=True)
    (folder / "drawn").mkdir(exist_ok=True)
    cells = squares(values)
    if status is not None:
        cells = np.where(status == Status.SCORED, cells, np.nan)
    stored_heatmap(
        folder / "heat" / f"{name}.zarr", cells, status=status, name=f"{name}.tif", quickhash=name
    )
    if drawn:
        draw(folder / "drawn" / f"{name}.geojson", drawn)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two slides with tumour, two without.

    a: a lesion of 320 µm found at 0.95 and one of 640 µm missed, and a false detection at 0.9.
    b: a lesion of 2.24 mm found at 0.9; isolated cells of 64 µm, hit at 0.99. c: nothing.
    d: false detections at 0.85 and 0.92.
    """
    make(
        tmp_path, "a",
        [((10, 10, 10), 0.95), ((40, 60, 4), 0.9)],
        [(10, 10, 10), (40, 10, 20)],
    )  # fmt: skip
    make(tmp_path, "b", [((0, 0, 50), 0.9), ((60, 70, 2), 0.99)], [(0, 0, 50), (60, 70, 2)])
    make(tmp_path, "c", [])
    make(tmp_path, "d", [((5, 5, 3), 0.85), ((50, 50, 3), 0.92)])
    return tmp_path


def judge(folder: Path, options: JudgeOptions | None = None, **reference: bool) -> JudgedCohort:
    paths = sorted((folder / "heat").iterdir())
    known = read_reference(folder / "drawn", **(reference or {"others_negative": True}))
    return judge_cohort(paths, known, options or JudgeOptions(), workers=1)


def test_a_cohort_by_hand(cohort: Path) -> None:
    judged = judge(cohort)
    a, b, _, d = judged.slides
    assert [it.tumour for it in judged.slides] == [True, True, False, False]
    assert [(it.found, it.isolated) for it in a.lesions] == [(True, False), (False, False)]
    assert a.lesions[0].score == pytest.approx(0.95)
    assert a.lesions[0].longest_um == pytest.approx(10 * CELL_UM * 2**0.5)
    assert a.lesions[0].area_mm2 == pytest.approx((10 * CELL_UM / 1000) ** 2)
    assert a.lesions[1].highest_probability == pytest.approx(0.1)
    assert [it.kind for it in b.lesions] == [
        LesionClass.MACROMETASTASIS, LesionClass.ISOLATED_TUMOUR_CELLS,
    ]  # fmt: skip
    assert [it.isolated for it in b.lesions] == [False, True]
    assert b.lesions[1].score == pytest.approx(0.99)  # told, though it counts for nothing
    assert [len(it.hits.false) for it in judged.slides if it.hits] == [1, 0, 0, 2]
    false = d.highest_false[0]
    assert (false.x_l0, false.y_l0) == (50.5 * CELL_L0, 50.5 * CELL_L0)

    figures = assess(judged, read_reference(cohort / "drawn", others_negative=True), JudgeOptions())
    level = figures.lesions
    assert level is not None
    assert (level.lesions, level.found, level.isolated, level.negative) == (3, 2, 1, 2)
    # Scores: found 0.95 and 0.9, false 0.92, 0.9, 0.85; over four slides.
    np.testing.assert_allclose(level.curve.false_per_slide, [0.75, 0.5, 0.25, 0, 0])
    np.testing.assert_allclose(level.curve.sensitivity, np.array([2, 2, 1, 1, 0]) / 3)
    assert level.score == pytest.approx((1 / 3 + 5 * 2 / 3) / 6)
    assert level.false_per_negative == 1
    assert level.score_interval is None
    assert figures.resamples == 0
    assert not figures.patients_known
    # Slide scores are what four cells reach: 0.95, 0.99, 0.1, 0.92: three of four pairs are right.
    assert figures.slide_level is not None
    assert figures.slide_level.auc == 1.0
    assert [(it.kind.value, it.found, it.lesions) for it in figures.by_size] == [
        ("macrometastasis", 1, 1), ("micrometastasis", 1, 2),
    ]  # fmt: skip


def test_a_lesion_that_could_not_be_read_is_missed_and_told(tmp_path: Path) -> None:
    status = np.full((ROWS, COLS), Status.SCORED, dtype=np.uint8)
    status[10:20, 10:20] = Status.UNREADABLE
    status[40:60, 10:15] = Status.BACKGROUND
    make(tmp_path, "a", [], [(10, 10, 10), (40, 10, 20)], status=status)
    (slide,) = judge(tmp_path).slides
    first, second = slide.lesions
    assert (first.found, first.unreadable_share, first.highest_probability) == (False, 1.0, None)
    assert first.remark == "100 % unreadable"
    assert second.outside_share == pytest.approx(0.25)
    assert slide.unreadable_cells == 100


def test_what_is_excluded_is_not_false(tmp_path: Path) -> None:
    make(tmp_path, "a", [((10, 10, 10), 0.95), ((40, 60, 4), 0.9)], [(10, 10, 10)])
    path = tmp_path / "drawn" / "a.geojson"
    draw(tmp_path / "excluded", [(38, 58, 10)], name="excluded")
    both = json.loads(path.read_text())
    both["features"] += json.loads((tmp_path / "excluded").read_text())["features"]
    path.write_text(json.dumps(both))
    (slide,) = judge(tmp_path).slides
    assert slide.hits is not None
    assert len(slide.hits.false) == 0


def table(path: Path, rows: Sequence[str]) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def test_intervals_over_patients_groups_and_stages(tmp_path: Path) -> None:
    rows = ["slide,label,patient,centre,scanner,annotation,node"]
    for i in range(FEWEST_PATIENTS + 2):
        found = 0.95 if i % 3 else 0.2
        make(tmp_path, f"t{i}", [((10, 10, 10), found)], [(10, 10, 10)])
        make(tmp_path, f"n{i}", [((5, 5, 3), 0.9)] if i % 4 == 0 else [])
        centre = "one" if i % 2 else "two"
        rows += [
            f"t{i}.tif,tumour,p{i},{centre},,drawn,micro",
            f"n{i}.tif,0,p{i},{centre},,,negative",
        ]
    known = read_reference(table(tmp_path / "ref.csv", rows))
    paths = sorted((tmp_path / "heat").iterdir())
    judged = judge_cohort(paths, known, JudgeOptions(), workers=1)
    figures = assess(judged, known, JudgeOptions(resamples=200))
    assert figures.patients_known
    assert figures.resamples == 200
    level, slides, patients = figures.lesions, figures.slide_level, figures.patient_level
    assert level is not None
    assert slides is not None
    assert patients is not None
    assert level.score_interval is not None
    assert level.score_interval.low < level.score < level.score_interval.high
    assert level.band is not None
    assert (level.band[0] <= level.band[1]).all()
    assert slides.auc_interval is not None
    # Every third lesion is missed; a false one of 136 µm makes pN0(i+) of the first of them.
    wrong = [it.patient for it in patients.patients if it.said != it.truth]
    assert wrong == ["p0", "p3", "p6", "p9"]
    assert patients.patients[0].said == "pN0(i+)"
    assert [it.name for it in figures.by_centre] == ["one", "two"]
    assert sum(it.slides for it in figures.by_centre) == figures.slides
    assert figures.by_scanner == ()
    for group in figures.by_centre:  # five patients each
        assert group.lesions is not None
        assert group.lesions.score_interval is None


def test_a_patient_whose_node_is_missing_is_not_staged(tmp_path: Path) -> None:
    make(tmp_path, "patient_001_node_0", [])
    make(tmp_path, "patient_002_node_0", [((0, 0, 50), 0.9)])
    rows = [
        "patient,stage", "patient_001.zip,pN0", "patient_001_node_0.tif,negative",
        "patient_001_node_1.tif,negative", "patient_002.zip,pN1", "patient_002_node_0.tif,macro",
    ]  # fmt: skip
    known = read_reference(table(tmp_path / "stages.csv", rows))
    paths = sorted((tmp_path / "heat").iterdir())
    judged = judge_cohort(paths, known, JudgeOptions(), workers=1)
    level = assess(judged, known, JudgeOptions()).patient_level
    assert judged.missing == ("patient_001_node_1.tif",)
    assert level is not None
    assert level.left_out == ("patient_001",)
    assert [(it.patient, it.truth.value, it.said.value) for it in level.patients] == [
        ("patient_002", "pN1", "pN1")
    ]
    assert all(it.not_judged for it in judged.slides if it.tumour)  # lesions are not annotated


def test_processes_say_what_this_one_says(cohort: Path) -> None:
    paths = sorted((cohort / "heat").iterdir())
    known = read_reference(cohort / "drawn", others_negative=True)
    several = judge_cohort(paths, known, JudgeOptions(), workers=2)
    alone = judge_cohort(paths, known, JudgeOptions(), workers=1)
    assert [it.lesions for it in several.slides] == [it.lesions for it in alone.slides]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["name,label", "a.tif,1"], "has the columns name,label: need slide"),
        (["slide,label", "a.tif,maybe"], "line 2: label 'maybe' is neither"),
        (["slide,label,node", "a.tif,normal,macro"], "line 2: label normal and node macro"),
        (["slide,patient", "a.tif,p"], "nothing says whether a.tif holds tumour"),
        (["slide,label", "a.tif,1", "A.svs,0"], "line 3: A.svs is listed twice"),
        (["slide,label,node", "a.tif,,big"], "line 2: node 'big' is none of negative, itc"),
        (["slide,label,annotation", "a.tif,1,nowhere"], "line 2: .*nowhere does not exist"),
        (["slide,label,stage", "a.tif,1,pN1"], "a stage is a patient's"),
        (["slide,label"], "lists no slide"),
        (["patient,stage", "patient_1.tif,micro"], "is no patient_NNN_node_N.tif"),
        (["slide,label", "z.tif,1"], "says nothing of a.tif"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path: Path, rows: list[str], said: str) -> None:
    make(tmp_path, "a", [])
    path = table(tmp_path / "ref.csv", rows)
    with pytest.raises(HistoslideError, match=said):
        cases_of([tmp_path / "heat" / "a.zarr"], read_reference(path))


def test_the_table_of_tile_is_one(cohort: Path) -> None:
    rows = [
        "slide,mpp,patient,annotations,exhaustive,part",
        "slides/a.tif,0.25,A,drawn/a.geojson,no,train",
        "slides/c.tif,0.25,B,none,,valid",
    ]
    known = read_reference(table(cohort / "slides.csv", rows))
    paths = [cohort / "heat" / "a.zarr", cohort / "heat" / "c.zarr"]
    a, c = judge_cohort(paths, known, JudgeOptions(), workers=1).slides
    assert (a.tumour, a.not_judged) == (True, "not all of its tumour is annotated")
    assert (c.tumour, c.not_judged) == (False, "")
    assert len(a.lesions) == 2  # told all the same
    judged = judge_cohort(paths, known, JudgeOptions(), workers=1)
    said = warnings_of(judged, assess(judged, known, JudgeOptions()), None, [])
    assert said[0].startswith("1 of these slides are marked for training: a.tif.")


def test_what_contradicts_itself_fails_for_its_slide_alone(cohort: Path) -> None:
    rows = ["slide,label,annotation", "a.tif,0,drawn", "b.tif,1,drawn", "c.tif,0,", "d.tif,0,"]
    known = read_reference(table(cohort / "ref.csv", rows))
    paths = sorted((cohort / "heat").iterdir())
    judged = judge_cohort(paths, known, JudgeOptions(), workers=1)
    assert [it.name for it in judged.failed] == ["a.tif"]
    assert "is listed with no tumour, and a.geojson has some" in judged.failed[0].reason
    with pytest.raises(DataError, match=r"holds no annotation of c\.tif: pass --others-negative"):
        judge(cohort, others_negative=False)


def test_peaks_are_those_of_find_lesions(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    cells = rng.beta(0.4, 1.5, size=(60, 70)).astype(np.float32)
    cells[rng.random(cells.shape) < 0.1] = np.nan
    heat = stored_heatmap(tmp_path / "h.zarr", cells)
    for settings in (
        LesionSettings(seed_probability=0.8),
        LesionSettings(smoothing_um=40, seed_probability=0.4, extend_probability=0.3),
        LesionSettings(min_cells=5, join_gap_um=0, seed_probability=0.7, extend_probability=0.4),
    ):
        found = find_lesions(heat, settings).lesions
        peaks = lesion_peaks(heat.grid, heat.probability(), settings)
        ours = sorted(zip(peaks.score, peaks.x_l0, peaks.y_l0, strict=True))
        assert len(ours) > 3
        assert ours == sorted((it.peak_probability, *it.peak_l0) for it in found)


@pytest.mark.parametrize("seed", range(4))
def test_many_settings_give_what_each_gives(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.beta(0.4, 1.5, size=(40, 50)).astype(np.float32)
    if seed % 2:
        cells = np.round(cells, 1)  # with many equal ones
    cells[rng.random(cells.shape) < 0.1] = np.nan
    cells[:, :7], cells[:9] = np.nan, np.nan  # nothing was scored at two edges
    heat = stored_heatmap(tmp_path / "h.zarr", cells)
    tried = candidates(LesionSettings(min_cells=1 + 2 * (seed // 2)), [])
    tried = [tried[i] for i in rng.permutation(len(tried))[:60]]
    every = peaks_under(heat.grid, cells, tried)
    for settings, ours in zip(tried, every, strict=True):
        wanted = lesion_peaks(heat.grid, cells, settings)
        for name in ("score", "x_l0", "y_l0"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(wanted, name))
    assert sum(map(len, every)) > 50
    empty = peaks_under(heat.grid, np.full_like(cells, np.nan), tried[:5])
    assert [len(it) for it in empty] == [0] * 5


def test_local_maxima_are_those_of_a_slow_twin(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    cells = np.round(rng.beta(0.5, 1, size=(40, 50)), 2).astype(np.float32)  # with equal ones
    cells[5:9, 10:20] = np.nan
    heat = stored_heatmap(tmp_path / "h.zarr", cells)
    for radius_um in (0, 40, 100):
        kept: list[tuple[int, int]] = []
        order = sorted(
            zip(*np.nonzero(cells >= np.float32(0.6)), strict=True), key=lambda it: -cells[it]
        )
        # A maximum is the highest of its disc; of equal ones the first.
        for row, col in order:
            near = [
                cells[r, c]
                for r in range(40)
                for c in range(50)
                if np.hypot(r - row, c - col) * CELL_UM <= radius_um and np.isfinite(cells[r, c])
            ]
            taken = any(np.hypot(r - row, c - col) * CELL_UM <= radius_um for r, c in kept)
            if cells[row, col] >= max(near) and not taken:
                kept.append((int(row), int(col)))
        found = local_maxima(heat.grid, cells, above=0.6, radius_um=radius_um)
        ours = sorted(
            (y / CELL_L0 - 0.5, x / CELL_L0 - 0.5)
            for x, y in zip(found.x_l0, found.y_l0, strict=True)
        )
        assert ours == sorted(kept)


def test_settings_are_chosen_for_an_aim(tmp_path: Path) -> None:
    # The lesion is found from 0.6 down. The negative slide has false ones of 0.9 and 0.65.
    make(tmp_path, "a", [((10, 10, 10), 0.62)], [(10, 10, 10)])
    make(tmp_path, "b", [((5, 5, 3), 0.9), ((50, 50, 3), 0.65)])
    known = read_reference(tmp_path / "drawn", others_negative=True)
    paths = sorted((tmp_path / "heat").iterdir())

    def chosen(aim: str, *fixed: str, base: LesionSettings = LesionSettings()) -> object:  # noqa: B008
        tried = candidates(base, ("smoothing_um", "join_gap_um", *fixed))
        return choose(paths, known, JudgeOptions(), Aim.parse(aim), tried, workers=1).best

    best = choose(
        paths, known, JudgeOptions(), Aim.parse("false=2"),
        candidates(LesionSettings(), ("smoothing_um", "join_gap_um")), workers=1,
    )  # fmt: skip
    assert best.best.settings.seed_probability == 0.6
    assert best.best.settings.extend_probability == 0.5  # of equals, the usual
    assert (best.best.sensitivity, best.best.false_per_negative) == (1.0, 2.0)
    assert [it.slide for it in best.file.chosen_on] == ["a.tif", "b.tif"]
    # One false lesion is only reached where the lesion is lost.
    one = chosen("false=1")
    assert (one.sensitivity, one.false_per_negative) == (0.0, 0.0)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"none of \d+ settings has at most 0 false"):
        chosen("false=0", "seed_probability", base=replace(LesionSettings(), seed_probability=0.8))
    for wrong in ("best", "false", "false=-1", "false=x", "froc=1"):
        with pytest.raises(HistoslideError, match="the aim is froc, or false=N"):
            Aim.parse(wrong)
    judged = judge(tmp_path)
    assert same_slides(best.file, judged.slides) == ["a.tif", "b.tif"]


def run(*words: object) -> int:
    return main([str(word) for word in words])


def judging(cohort: Path) -> tuple[object, ...]:
    """The command that judges the cohort, on one processor."""
    reference = ("--reference", cohort / "drawn", "--others-negative")
    return ("evaluate", "slides", cohort / "heat", *reference, "--workers", 1)


def test_the_command_writes_a_report(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = cohort / "out"
    judge_it = judging(cohort)
    assert run(*judge_it, "--out", out, "--port", 9000, "--token", "word") == 0
    said = capsys.readouterr().out
    assert "FROC score              0.6111" in said
    assert "lesions found           2 of 3" in said
    page = (out / "report.html").read_text()
    assert "histoslide view" in page
    keys = {it.key for it in Catalogue([cohort / "heat"]).entries()}
    assert keys == {"a", "b", "c", "d"}
    # The missed lesion, a pixel in the middle of its square: row 40, column 10, side 20.
    assert "http://127.0.0.1:9000/word/view#heat=a&amp;x=2544&amp;y=6384&amp;mpp=1.0" in page
    assert f"heat=d&amp;x={50.5 * CELL_L0:.0f}&amp;y={50.5 * CELL_L0:.0f}" in page
    assert "too few to be resampled" in page
    assert "as CAMELYON16" in page
    assert 'src="http' not in page
    rows = list(csv.DictReader((out / "lesions.csv").read_text().splitlines()))
    assert [row["found"] for row in rows] == ["True", "False", "True", "True"]
    assert json.loads((out / "figures.json").read_text())["lesions"]["found"] == 2
    assert run(*judge_it, "--out", out) == 2  # never over an earlier one unasked
    assert run(*judge_it, "--out", out, "--overwrite", "--grow", 75, "--json") == 0
    captured = capsys.readouterr()
    assert "grown by 75 µm" in json.loads(captured.out)["rules"][0]
    assert "is not CAMELYON16" in (out / "report.html").read_text()


def test_chosen_settings_go_round(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = cohort / "choice"
    judge_it = judging(cohort)
    assert run(*judge_it, "--choose", "froc", "--gap", 50, "--smooth", 0, "--out", out) == 0
    file = out / "lesion-settings.json"
    assert read_settings(file).settings.join_gap_um == 50
    capsys.readouterr()
    assert run(*judge_it, "--lesion-settings", file) == 2
    assert "was chosen on 4 of these slides" in capsys.readouterr().err
    there = cohort / "evaluation"
    assert run(*judge_it, "--lesion-settings", file, "--same-slides", "--out", there) == 0
    assert "too good to be reported" in (there / "report.html").read_text()
    capsys.readouterr()
    assert run("lesions", cohort / "heat" / "a.zarr", "--lesion-settings", file, "--json") == 0
    assert json.loads(capsys.readouterr().out)["settings"]["join_gap_um"] == 50
    for wrong in ("{}", "[", '{"kind": "other"}'):
        file.write_text(wrong)
        assert run("lesions", cohort / "heat" / "a.zarr", "--lesion-settings", file) == 2
        error = capsys.readouterr().err
        assert "cannot be read" in error
        assert error.count("\n") == 1


def test_foreign_detections_are_judged_beside(
    cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = cohort / "found"
    found.mkdir()
    for name in "abcd":
        (found / f"{name}.csv").write_text("")
    (found / "a.csv").write_text(f"0.7,{20 * CELL_L0},{50 * CELL_L0}\n0.5,1,1\n")
    judge_it = (*judging(cohort), "--detections", found)
    assert run(*judge_it, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["lesions"]["found"] == 1
    assert figures["lesions"]["false_per_slide"] == 0.25
    (found / "c.csv").unlink()
    assert run(*judge_it) == 3
    assert "could not be judged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--workers", 0), "--workers must be at least 1"),
        (("--maxima-above", 0.5), "says nothing without --detections maxima"),
        (("--detections", "nowhere"), "nowhere does not exist"),
        (("--choose", "best"), "the aim is froc"),
        (("--choose", "froc", "--detections", "maxima"), "leave --detections out"),
        (("--lesion-settings", "nowhere"), "nowhere does not exist"),
        (("--specificity", 1.5), "--specificity must lie"),
        (("--grow", -1), "--grow must be a length"),
        (("--classes", "a=b"), "write NAME=ROLE"),
        (("--out", "a.html"), "ends like a file"),
    ],
)
def test_a_wrong_option_is_one_line(
    cohort: Path, capsys: pytest.CaptureFixture[str], words: tuple[object, ...], said: str
) -> None:
    assert run(*judging(cohort), *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
