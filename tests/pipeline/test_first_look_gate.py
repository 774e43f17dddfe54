"""May a lighter model look first? What is measured of it, and when score takes it unasked."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from histoslide_cli.main import main
from histoslide_cli.model_calibrate import first_look_lines
from hypothesis import given
from hypothesis import strategies as st
from models import colour_model
from PIL import Image
from red_patches import red_patches

from histoslide.errors import DataError, HistoslideError
from histoslide.geometry import Mpp
from histoslide.model import Model, ModelSpec, save_bundle
from histoslide.model.architectures import build_network
from histoslide.model.bundle import file_sha256
from histoslide.model.choosing_first_look import choose_first_look
from histoslide.model.fast_paths import (
    FastPaths,
    FirstLookGate,
    SlideGate,
    read_fast_paths,
    write_fast_paths,
)
from histoslide.model.first_look import ONE_SCALE, Scale, together
from histoslide.pipeline import ScoreOptions, score_slide
from histoslide.pipeline.first_look_gate import (
    Doubt,
    GateSlide,
    choose_weight,
    fit_scale,
    highest_threshold,
    looked_twice,
    lowest_certain,
    measure_first_look,
)
from histoslide.scoring.cascade import load_cascade
from histoslide.store import open_heatmap
from histoslide.synthetic import fiducial_slide

SLIDE = SlideGate(
    slide="a.tif", cells=100, again=0.2, positive=10, lost=0, lesions=1, lesions_alike=True
)
GATE = FirstLookGate(
    name="light",
    file="light.safetensors",
    weights_sha256="0",
    threshold=0.1,
    certain=None,
    scale=ONE_SCALE,
    weight=0,
    engines=("torch fp32", "torch fp32"),
    data="test",
    patches=100,
    auc=0.95,
    auc_alone=0.95,
    auc_everywhere=0.95,
    positive=1990,
    lost=1,
    slides=(SLIDE,),
)
CLASSES = np.array([0, 1])
SQUARED = Scale(slope=2, shift=3)


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"auc": 0.99}, True),  # a first look may rank better
        ({"auc": 0.9479}, False),
        ({"auc_everywhere": 0.953}, False),  # too much of what both would find is gone
        ({"auc_everywhere": 0.93}, True),
        ({"lost": 2}, False),  # of 2,000: not less than 1 in 1,000
        ({"slides": ()}, False),
        ({"slides": (dataclasses.replace(SLIDE, lesions=0),)}, False),
        ({"slides": (SLIDE, dataclasses.replace(SLIDE, lesions=0))}, True),
        ({"slides": (SLIDE, dataclasses.replace(SLIDE, lesions_alike=False))}, False),
        ({"slides": (SLIDE, dataclasses.replace(SLIDE, lost=1))}, True),
        ({"slides": (SLIDE, dataclasses.replace(SLIDE, lost=2))}, False),
        ({"sure": 1001, "changed": 1}, True),
        ({"sure": 1000, "changed": 1}, False),  # not less than 1 in 1,000 of what it is certain of
        ({"slides": (dataclasses.replace(SLIDE, sure=9, changed=1),)}, False),
        ({"sure": 1000, "slides": (dataclasses.replace(SLIDE, sure=9, changed=1),)}, True),
    ],
)
def test_what_a_first_look_must_pass(changes: dict[str, object], passed: bool) -> None:
    assert dataclasses.replace(GATE, **changes).passed is passed  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), max_size=60))
def test_the_threshold_is_the_highest_that_loses_next_to_nothing(
    pairs: list[tuple[float, float]],
) -> None:
    first, alone = (np.array([p[i] for p in pairs], dtype=np.float32) for i in (0, 1))
    threshold = highest_threshold(first, alone)
    both = looked_twice(first, alone, Doubt(threshold=threshold, certain=None))
    positive = alone >= 0.5
    lost = int((positive & (both < 0.5) & (first < threshold)).sum())
    assert lost == 0  # of so few
    assert 0 <= threshold <= 0.5
    if positive.any() and first[positive].min() < 0.5:
        assert threshold > first[positive].min() - 2e-4


def test_one_in_two_thousand_may_go_where_there_are_more() -> None:
    first = np.linspace(0.1, 0.4, 4001, dtype=np.float32)
    found = highest_threshold(first, np.ones(4001, dtype=np.float32))
    assert (first < found).sum() == 2
    assert highest_threshold(first, np.zeros(4001, dtype=np.float32)) == 0


def test_the_first_look_is_certain_only_where_the_other_would_change_next_to_nothing() -> None:
    first = np.linspace(0.5, 0.98, 8001, dtype=np.float32)
    everywhere = first.copy()
    assert lowest_certain(first, everywhere) == 0.5
    everywhere[: int((first < 0.8).sum()) : 500] -= 0.06
    found = lowest_certain(first, everywhere)
    assert found is not None
    sure = first >= found
    changed = sure & (np.abs(first - everywhere) > 0.05)
    assert 0.7 < found < 0.78  # one in two thousand may be changed
    assert 0 < changed.sum() < sure.sum() / 2000
    kept = looked_twice(first, everywhere, Doubt(threshold=0.1, certain=found))
    np.testing.assert_array_equal(kept, np.where(sure, first, everywhere))


@pytest.mark.parametrize("changed_by", [0.04, 0.06])
def test_of_few_tiles_nothing_is_certain(changed_by: float) -> None:
    few = np.linspace(0.9, 0.97, 1999, dtype=np.float32)
    assert lowest_certain(few, few - changed_by) is None
    more = np.append(few, np.float32(0.98))
    found = lowest_certain(more, more - changed_by)
    assert found == (0.9 if changed_by < 0.05 else None)
    assert lowest_certain(more[:0], more[:0]) is None


def test_tiles_of_one_probability_are_judged_together() -> None:
    first = np.repeat(np.array([0.9, 0.7], dtype=np.float32), (2100, 4000))
    everywhere = first.copy()
    everywhere[-1000:] = 0.4
    found = lowest_certain(first, everywhere)
    assert found is not None
    assert 0.7 < found <= 0.9


def test_what_is_said_of_the_threshold_holds_of_it_rounded() -> None:
    few = np.full(2000, 0.90001, dtype=np.float32)
    found = lowest_certain(few, few)
    assert found is not None
    assert (few >= found).sum() == 2000
    first = np.repeat(np.array([0.97, 0.95002], dtype=np.float32), (2000, 2500))
    everywhere = first.copy()
    everywhere[:2] -= 0.06  # of 4,500 no more than one in two thousand, of 2,000 more
    found = lowest_certain(first, everywhere)
    assert found is not None
    assert (first >= found).all()


def test_the_scale_is_found_again() -> None:
    generator = np.random.default_rng(0)
    first = generator.uniform(0.01, 0.99, 4000).astype(np.float32)
    found = fit_scale(first, Scale(slope=0.6, shift=-0.8).apply(first))
    assert found.slope == pytest.approx(0.6, abs=0.002)
    assert found.shift == pytest.approx(-0.8, abs=0.002)


def test_the_first_look_has_a_say_only_where_both_rank_better() -> None:
    generator = np.random.default_rng(0)
    labels = generator.random(2000) < 0.5
    signal = np.where(labels, 1.0, -1.0)
    one, other = (signal + generator.normal(0, 1.5, 2000) for _ in range(2))
    alone, first = ((1 / (1 + np.exp(-it))).astype(np.float32) for it in (one, other))
    assert choose_weight(first, alone, labels) == 0.5  # they err by themselves
    assert choose_weight(alone, alone, labels) == 0
    noise = generator.random(2000).astype(np.float32)
    assert choose_weight(noise, alone, labels) == 0


def test_both_together_are_the_mean_of_their_log_odds() -> None:
    first = np.array([0.5, 0.9, 0, np.nan, 0.3], dtype=np.float32)
    again = np.array([0.8, 0.9, 1, 0.5, np.nan], dtype=np.float32)
    found = together(first, again, 0.5)
    np.testing.assert_allclose(found, [2 / 3, 0.9, 0.5, np.nan, np.nan], atol=1e-6)
    assert together(first, again, 0) is again
    np.testing.assert_allclose(together(first, again, 1)[:2], first[:2], atol=1e-6)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    return fiducial_slide(path, width=900, height=700, mpp=0.972)


def small(channel: int, name: str, temperature: float = 1) -> Model:
    made = colour_model(channel, input_px=48, label_px=32)
    spec = dataclasses.replace(made.spec, name=name, temperature=temperature)
    return Model(spec, made._network(), sha256=name)


def measured(slide: Path, first: Model, values: list[int] | None = None) -> FirstLookGate:
    shown = list(range(0, 250, 2)) if values is None else values
    labels = [int(value > 100 + 20 * math.sin(value)) for value in shown]
    return measure_first_look(
        small(0, "model"),
        first,
        red_patches(shown, labels),
        [GateSlide(path=slide, mpp=Mpp(value=0.972, source="test"))],
        data="red",
        file="light.safetensors",
        class_map=CLASSES,
    )


def test_a_gate_is_measured_and_passes_where_nothing_is_lost(slide: Path) -> None:
    gate = measured(slide, small(0, "light", temperature=2))
    assert gate.scale.slope == pytest.approx(2, abs=0.02)  # the temperature, undone
    assert gate.scale.shift == pytest.approx(0, abs=0.02)
    assert 0.45 < gate.threshold <= 0.5
    assert gate.auc == pytest.approx(gate.auc_alone, abs=0.002)
    assert gate.patches == 63
    (found,) = gate.slides
    assert found.cells > 100
    assert found.lesions > 0
    assert 0 < found.again < 1
    assert found.lost == 0
    assert gate.passed


def test_where_much_is_plainly_tumour_the_first_look_is_enough(slide: Path) -> None:
    many = [*([250] * 4400), *range(0, 250, 2)]
    gate = measured(slide, small(0, "light"), many)
    assert gate.certain is not None
    assert 0.5 <= gate.certain < 0.98
    assert gate.sure > 2000
    assert (gate.changed, gate.changed_share) == (0, 0)
    assert gate.slides[0].sure > 0
    assert gate.slides[0].again < measured(slide, small(0, "light")).slides[0].again
    assert f"on, below {gate.certain:g} the model again" in first_look_lines(gate)[0]


def test_a_first_look_that_sees_another_thing_looks_everywhere_or_fails(slide: Path) -> None:
    """Green says nothing of red: next to everything must be looked at again."""
    gate = measured(slide, small(1, "light"))
    assert gate.slides[0].again > 0.9 or not gate.passed


def test_patches_of_one_class_judge_nothing(slide: Path) -> None:
    with pytest.raises(DataError, match="red: the patches to judge on are all of one class"):
        measured(slide, small(0, "light"), values=[0] * 20)


@pytest.fixture
def bundles(tmp_path: Path) -> tuple[Path, Path]:
    """Two bundles of the same weights, so that nothing is lost, and patches beside them."""
    torch.manual_seed(0)
    state = build_network("resnet18", 2).state_dict()
    made = []
    for name in ("heavy", "light"):
        spec = ModelSpec(
            name=name,
            architecture="resnet18",
            classes=("normal", "tumour"),
            tumour_class="tumour",
            mpp=0.972,
            input_px=64,
            label_px=32,
        )
        made.append(tmp_path / f"{name}.safetensors")
        save_bundle(made[-1], spec, state)
    for label, seed in (("normal", 0), ("tumour", 100)):
        folder = tmp_path / "data" / label
        folder.mkdir(parents=True)
        generator = np.random.default_rng(seed)
        for number in range(12):
            pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return made[0], made[1]


def passing(light: Path) -> FirstLookGate:
    return dataclasses.replace(GATE, weights_sha256=file_sha256(light), threshold=0.5)


def test_score_takes_what_passed_unasked_and_says_so(
    bundles: tuple[Path, Path], slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heavy, light = bundles
    paths = FastPaths(weights_sha256=file_sha256(heavy), data="test", first_look=passing(light))
    write_fast_paths(heavy, paths)
    out = tmp_path / "h.zarr"
    command = ["score", str(slide), "--model", str(heavy), "--backend", "torch", "--no-overlay"]
    assert main([*command, "--out", str(out)]) == 0
    assert "light, torch fp32, looks first (--mode exact does without)" in capsys.readouterr().err
    heat = open_heatmap(out)
    assert heat.record.mode.value.first_look is not None
    assert heat.record.mode.value.first_look.sha256 == file_sha256(light)
    assert heat.looks is not None
    replay = ["replay", str(out), "--slide", str(slide), "--model", str(heavy)]
    assert main(replay) == 0
    both = load_cascade(heavy, backend="torch")
    score_slide(slide, tmp_path / "python.zarr", both, ScoreOptions(overlay=False))
    same = open_heatmap(tmp_path / "python.zarr")
    assert same.record.mode == heat.record.mode
    np.testing.assert_array_equal(same.probability(), heat.probability())
    shutil.move(light, tmp_path / "elsewhere.safetensors")
    assert isinstance(load_cascade(heavy, backend="torch"), Model)
    capsys.readouterr()
    assert main(replay) == 2
    assert "light (sha256" in capsys.readouterr().err
    assert main([*replay, "--first-look", str(tmp_path / "elsewhere.safetensors")]) == 0
    exact = tmp_path / "exact.zarr"
    assert main([*command, "--out", str(exact)]) == 0  # what is not there is not taken
    assert open_heatmap(exact).record.mode.mode == "exact"


def test_what_the_first_look_is_certain_of_is_recorded_and_replayed(
    bundles: tuple[Path, Path], slide: Path, tmp_path: Path
) -> None:
    heavy, light = bundles
    gate = dataclasses.replace(passing(light), threshold=0, certain=0.5, scale=SQUARED)
    write_fast_paths(
        heavy, FastPaths(weights_sha256=file_sha256(heavy), data="test", first_look=gate)
    )
    out = str(tmp_path / "h.zarr")
    score = ["score", str(slide), "--model", str(heavy), "--backend", "torch", "--no-overlay"]
    assert main([*score, "--out", out]) == 0
    heat = open_heatmap(tmp_path / "h.zarr")
    mode = heat.record.mode.value
    assert mode.first_look is not None
    assert mode.first_look.certain == 0.5
    assert heat.looks is not None
    sure = heat.probability()[heat.looks == 1]
    assert len(sure)
    assert sure.min() >= 0.5
    replay = ["replay", out, "--slide", str(slide), "--model", str(heavy)]
    assert main(replay) == 0
    assert main(["report", out, "--slide", str(slide), "--out", str(tmp_path / "r.html")]) == 0
    assert "stand below 0 and from 0.5 on" in (tmp_path / "r.html").read_text()


def test_patches_are_judged_as_score_does_where_it_is_asked_for(
    bundles: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heavy, light = bundles
    data = str(tmp_path / "data")
    command = ["evaluate", "patches", data, "--model", str(heavy), "--quiet", "--json"]

    def judged(*more: str) -> dict[str, Any]:
        assert main([*command, *more]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    alone = judged()
    assert alone["first_look"] is None
    assert judged("--mode", "auto")["figures"] == alone["figures"]  # nothing was calibrated
    # Of equal weights on another scale, from which the other never looks again: its own word.
    gate = dataclasses.replace(passing(light), threshold=0, certain=0, scale=SQUARED)
    write_fast_paths(
        heavy, FastPaths(weights_sha256=file_sha256(heavy), data="test", first_look=gate)
    )
    after = judged("--mode", "auto", "--out", str(tmp_path / "report"))
    assert after["first_look"]["sha256"] == file_sha256(light)
    assert (after["first_look"]["threshold"], after["first_look"]["certain"]) == (0, 0)
    assert after["figures"]["auc"] == pytest.approx(alone["figures"]["auc"])  # the same order
    assert after["figures"]["loss"] > alone["figures"]["loss"]
    page = (tmp_path / "report/report.html").read_text()
    assert "after a first look by light" in page
    assert "before scaling" not in page  # there is no one temperature of both
    assert judged()["figures"] == alone["figures"]
    assert main([*command, "--mode", "auto", "--tta"]) == 2
    assert "--tta turns the tiles of one model" in capsys.readouterr().err


def test_calibrate_measures_a_first_look(
    bundles: tuple[Path, Path], slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heavy, light = bundles
    command = ["model", "calibrate", str(tmp_path / "data"), "--model", str(heavy), "--quiet"]
    command += ["--part", "all", "--first-look", str(light)]
    assert main([*command, "--slides", str(slide), "--stride", "64", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = read_fast_paths(heavy, sha256=file_sha256(heavy))
    assert found is not None
    assert isinstance(found.first_look, FirstLookGate)
    assert found.first_look.slides[0].lost == 0
    assert printed["threshold"] == found.first_look.threshold
    assert main(command) == 2
    assert "has a first look by light already: pass --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert "FAILED: only with --mode cascade" in capsys.readouterr().out  # for want of slides
    assert main([*command[:6], "--slides", str(slide)]) == 2
    assert "--slides goes with --first-look" in capsys.readouterr().err


def test_what_is_asked_for_must_be_there_and_measured(bundles: tuple[Path, Path]) -> None:
    heavy, light = bundles
    sha256 = file_sha256(heavy)
    assert choose_first_look(heavy, sha256=sha256) is None
    with pytest.raises(HistoslideError, match=r"nothing was measured of a first look by light\.s"):
        choose_first_look(heavy, sha256=sha256, first=light)
    plain = choose_first_look(heavy, sha256=sha256, first=light, threshold=0.2)
    assert plain is not None
    assert (plain.threshold, plain.scale) == (0.2, ONE_SCALE)
    failed = dataclasses.replace(
        passing(light), auc=0.5, scale=Scale(slope=2, shift=1), certain=0.9
    )
    write_fast_paths(heavy, FastPaths(weights_sha256=sha256, data="test", first_look=failed))
    assert choose_first_look(heavy, sha256=sha256, unasked=True) is None
    asked = choose_first_look(heavy, sha256=sha256)
    assert asked is not None
    assert (asked.bundle, asked.threshold, asked.scale.slope) == (light, 0.5, 2)
    assert asked.certain == 0.9
    given_by_hand = choose_first_look(heavy, sha256=sha256, threshold=0.2)
    assert given_by_hand is not None
    assert (given_by_hand.threshold, given_by_hand.certain) == (0.2, None)
    light.unlink()
    with pytest.raises(HistoslideError, match="is neither beside it nor ships: name it"):
        choose_first_look(heavy, sha256=sha256)
