"""FROC against a slow twin of CAMELYON16's evaluation, and against cases worked out by hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from histoslide.errors import DataError, HistoslideError
from histoslide.evaluation.bootstrap import FEWEST_PATIENTS, patient_weights
from histoslide.evaluation.slides.detections import Detections, read_detections
from histoslide.evaluation.slides.froc import Froc
from histoslide.evaluation.slides.hits import SlideHits, match
from histoslide.evaluation.slides.lesion_truth import LesionTruth, lesion_truth
from histoslide.evaluation.slides.rules import FrocRules, Over
from histoslide.evaluation.slides.tally import Tally, most_read
from histoslide.geometry import Size

CAMELYON16 = FrocRules()
MPP, DOWNSAMPLE = 0.243, 32
ONE = tuple[float, float, float]


class Twin:
    """CAMELYON16's evaluation the long way: whole masks, one detection, one threshold a time."""

    def __init__(self, tumour: NDArray[np.bool_] | None, detections: Sequence[ONE]) -> None:
        self.false: list[float] = []
        self.best: list[float] = []
        self.required = 0
        if tumour is None:
            self.false = [score for score, _, _ in detections]
            return
        um = MPP * DOWNSAMPLE
        distance = ndimage.distance_transform_edt(~tumour)
        grown = (distance < 75 / (um * 2)) & tumour.any()  # of no tumour SciPy gives any distance
        self.labels = measure.label(ndimage.binary_fill_holes(grown), connectivity=2)
        regions = measure.regionprops(self.labels)
        self.isolated = {r.label for r in regions if r.axis_major_length < 275 / um}
        self.best, self.required = [0.0] * len(regions), len(regions) - len(self.isolated)
        for score, x, y in detections:
            hit = self.labels[int(y / DOWNSAMPLE), int(x / DOWNSAMPLE)]
            if hit == 0:
                self.false.append(score)
            elif hit not in self.isolated:
                self.best[hit - 1] = max(self.best[hit - 1], score)


def twin_curve(twins: Sequence[Twin]) -> tuple[list[float], list[float]]:
    false = [score for twin in twins for score in twin.false]
    best = [score for twin in twins for score in twin.best]
    required = sum(twin.required for twin in twins)
    xs, ys = [], []
    for threshold in sorted({*false, *best})[1:]:
        xs.append(sum(score >= threshold for score in false) / len(twins))
        ys.append(sum(score >= threshold for score in best) / required)
    return [*xs, 0.0], [*ys, 0.0]


def truth_of(tumour: NDArray[np.bool_], rules: FrocRules = CAMELYON16) -> LesionTruth:
    return lesion_truth(tumour, downsample=DOWNSAMPLE, mpp=MPP, rules=rules)


@st.composite
def slides(draw: st.DrawFn) -> tuple[NDArray[np.bool_] | None, list[ONE]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, cols = draw(st.integers(20, 260)), draw(st.integers(20, 260))
    tumour = np.zeros((rows, cols), dtype=np.bool_)
    y, x = np.mgrid[:rows, :cols]
    for _ in range(draw(st.integers(0, 6))):
        r = rng.uniform(0.5, 40)
        distance = np.hypot(y - rng.uniform(0, rows), x - rng.uniform(0, cols))
        tumour |= (distance < r) & (distance >= r * rng.choice([0, 0, 0.7]))
    some = [
        (
            float(rng.integers(1, 12) / 12),
            float(rng.uniform(0, cols * 32)),
            float(rng.uniform(0, rows * 32)),
        )
        for _ in range(draw(st.integers(0, 15)))
    ]
    return (tumour if draw(st.booleans()) else None), some


@settings(max_examples=120, deadline=None)
@given(st.lists(slides(), min_size=1, max_size=5))
def test_froc_is_that_of_the_twin(cohort: list[tuple[NDArray[np.bool_] | None, list[ONE]]]) -> None:
    twins, hits = [], []
    for tumour, detections in cohort:
        twin = Twin(tumour, detections)
        truth = None if tumour is None else truth_of(tumour)
        found = match(Detections.of(detections), truth)
        if truth is not None:
            whole = np.zeros(tumour.shape, dtype=int)  # type: ignore[union-attr]
            for lesion in truth.lesions:
                whole[lesion.window][lesion.inside] = lesion.number
            np.testing.assert_array_equal(whole, twin.labels)
            assert {it.number for it in truth.lesions if it.isolated} == twin.isolated
        assert found.best.tolist() == twin.best
        assert found.required == twin.required
        assert sorted(found.false.score) == sorted(twin.false)
        twins.append(twin)
        hits.append(found)
    curve = Froc(hits).curve()
    if not sum(twin.required for twin in twins):
        assert curve is None
        return
    assert curve is not None
    xs, ys = twin_curve(twins)
    np.testing.assert_allclose(curve.false_per_slide, xs)
    np.testing.assert_allclose(curve.sensitivity, ys)
    at = np.interp([0.25, 0.5, 1, 2, 4, 8], xs[::-1], ys[::-1])
    np.testing.assert_allclose(curve.sensitivities, at)
    assert curve.score == pytest.approx(at.mean())


def disc(shape: tuple[int, int], row: float, col: float, radius: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(y - row, x - col) <= radius


def hits(
    best: Sequence[float], false: Sequence[float], *, required: int | None = None
) -> SlideHits:
    return SlideHits(
        best=np.array(best, dtype=float),
        reached=np.array(best, dtype=float),
        required=len(best) if required is None else required,
        false=Detections.of([(score, 0, 0) for score in false]),
        negative=not best,
    )


def test_a_curve_by_hand() -> None:
    # Two slides. Lesions: found at 0.9, found at 0.6, missed. False: 0.8 and 0.5 and 0.5.
    curve = Froc([hits([0.9, 0.6, 0.0], [0.5]), hits([], [0.8, 0.5])]).curve()
    assert curve is not None
    # Thresholds 0.5, 0.6, 0.8, 0.9 and above; 0, of the missed lesion, is the lowest and none.
    assert curve.false_per_slide.tolist() == [1.5, 0.5, 0.5, 0.0, 0.0]
    np.testing.assert_allclose(curve.sensitivity, [2 / 3, 2 / 3, 1 / 3, 1 / 3, 0])
    # At 1/4, halfway between (0, 1/3) and (1/2, 1/3); from 1/2 on two of three.
    np.testing.assert_allclose(curve.sensitivities, [1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert curve.score == pytest.approx((1 / 3 + 5 * 2 / 3) / 6)


def test_the_lowest_score_is_no_threshold_as_in_camelyon16() -> None:
    # Every lesion is found, so the lowest score is that of the second, which is lost by it.
    curve = Froc([hits([0.9, 0.6], [])]).curve()
    assert curve is not None
    assert curve.sensitivity.tolist() == [0.5, 0.0]
    assert curve.score == 0.5


def test_false_positives_over_negative_slides_only() -> None:
    cohort = [hits([0.9, 0.0], [0.95, 0.95]), hits([], [0.8]), hits([], [])]
    every, negative = Froc(cohort).curve(), Froc(cohort, over="negative").curve()
    assert every is not None
    assert negative is not None
    assert every.false_per_slide.tolist() == [1.0, 2 / 3, 2 / 3, 0.0]
    assert negative.false_per_slide.tolist() == [0.5, 0.0, 0.0]
    assert Froc([hits([0.9], [0.5])], over="negative").curve() is None


def test_drawing_a_slide_twice_is_having_it_twice() -> None:
    cohort = [hits([0.9, 0.3], [0.5]), hits([], [0.8]), hits([0.7], [0.2, 0.1])]
    weighted = Froc(cohort).curve(np.array([2, 0, 1]))
    repeated = Froc([cohort[0], cohort[0], cohort[2]]).curve()
    assert weighted is not None
    assert repeated is not None
    np.testing.assert_allclose(weighted.sensitivities, repeated.sensitivities)
    assert Froc(cohort).curve(np.array([0, 3, 0])) is None


def test_lesions_up_to_75_um_apart_are_one() -> None:
    # 37.5 µm are 4.82 pixels of 7.776 µm: pixels up to 4 away grow, so 9 between is one too many.
    for gap, count in ((8, 1), (9, 2)):
        tumour = np.zeros((60, 200), dtype=np.bool_)
        tumour[10:50, 10:60] = tumour[10:50, 60 + gap : 120 + gap] = True
        assert len(truth_of(tumour).lesions) == count
    full = truth_of(tumour, FrocRules(grow_um=75))
    assert len(full.lesions) == 1


def test_holes_are_filled_and_what_lies_in_them_belongs_to_the_lesion() -> None:
    shape = (400, 400)
    ring = disc(shape, 200, 200, 150) & ~disc(shape, 200, 200, 120)
    truth = truth_of(ring | disc(shape, 200, 200, 3))
    assert len(truth.lesions) == 1
    (lesion,) = truth.lesions
    assert truth.at(np.array([200.0 * 32]), np.array([240.0 * 32])).tolist() == [1]
    # Measured is what was annotated: twice 150 µm of pixels, with their corners.
    assert lesion.longest_um == pytest.approx(2 * 150 * 7.776, rel=0.02)
    assert lesion.area_mm2 == pytest.approx((ring.sum() + 29) * 7.776**2 / 1e6)


def test_isolated_cells_are_neither_required_nor_false() -> None:
    shape = (200, 200)
    tumour = disc(shape, 40, 40, 6) | disc(shape, 140, 140, 30)
    truth = truth_of(tumour)
    assert [lesion.isolated for lesion in truth.lesions] == [True, False]
    # A disc of 6 + 4.8 pixels: its axis is nearly its diameter, 168 µm, under 275 µm.
    assert truth.lesions[0].major_axis_um == pytest.approx(168, abs=8)
    found = match(
        Detections.of([(0.9, 40 * 32, 40 * 32), (0.8, 140 * 32, 140 * 32), (0.7, 0, 0)]), truth
    )
    assert found.best.tolist() == [0, 0.8]
    assert found.required == 1
    assert found.false.score.tolist() == [0.7]


def test_the_mask_is_level_5_of_camelyon_and_as_fine_elsewhere() -> None:
    assert [CAMELYON16.downsample(mpp) for mpp in (0.226, 0.243, 0.25, 0.5, 1.0, 8.0, 16.0)] == [
        32, 32, 32, 16, 8, 1, 1,
    ]  # fmt: skip


def test_variants_are_told_and_nonsense_is_refused() -> None:
    assert not list(CAMELYON16.variants())
    changed = FrocRules(
        grow_um=75, isolated_um=200, mask_um=4, assumed_mpp=0.25, over="negative", at=(1,)
    )
    assert len(list(changed.variants())) == 6
    for wrong in ({"grow_um": -1}, {"mask_um": 0}, {"at": ()}, {"at": (0.0,)}, {"assumed_mpp": 0}):
        with pytest.raises(HistoslideError, match="not"):
            FrocRules(**wrong)


def test_foreign_detections(tmp_path: Path) -> None:
    path, size = tmp_path / "a.csv", Size(1000, 500)
    path.write_text("0.5, 10, 20\n1e-3,999,499.5\n\n")
    found = read_detections(path, size)
    assert found.score.tolist() == [0.5, 0.001]
    assert found.x_l0.tolist() == [10, 999]
    path.write_text("Probability,X,Y\n0.5,10,20\n")
    assert len(read_detections(path, size)) == 1
    path.write_text("")
    assert len(read_detections(path, size)) == 0
    for text, said in (
        ("x,y,probability\n10,20,0.5\n", "is not probability,x,y"),
        ("0.5,10\n", "line 1: '0.5,10' is not"),
        ("0.5,10,20\n0.5,1000,20\n", r"line 2: the point \(1000, 20\) is not on the slide"),
        ("nan,10,20\n", "a probability from 0 on"),
        ("-1,10,20\n", "a probability from 0 on"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            read_detections(path, size)
    with pytest.raises(DataError, match="cannot be read"):
        read_detections(path / "none", size)


def test_patients_are_drawn_whole_and_few_are_not_drawn() -> None:
    patients = [f"p{i // 2}" for i in range(2 * FEWEST_PATIENTS)]
    weights = patient_weights(patients, resamples=50)
    assert weights is not None
    assert (weights[:, ::2] == weights[:, 1::2]).all()
    assert (weights.sum(axis=1) == len(patients)).all()
    assert patient_weights(patients[:-2]) is None


@pytest.mark.parametrize("over", ["all", "negative"])
@pytest.mark.parametrize("seed", range(20))
def test_a_tally_reads_the_same_off_fewer_scores(seed: int, over: Over) -> None:
    """Also with many equal scores, of which a kept one has all its equals, or none of them."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.beta(1, 2, size=2000), 1 if seed % 2 else 7)
    cohort = [
        hits(
            rng.choice([0.0, *scores[:50]], size=rng.integers(0, 4)).tolist(),
            rng.choice(scores, size=rng.integers(0, 400)).tolist(),
        )
        for _ in range(12)
    ] + [hits([0.3], [])]
    at = (0.25, 1.0, 8.0)
    most = most_read(at, len(cohort))
    parts = [Tally.of(it, over=over, most=most) for it in cohort]
    together = Tally.sum([Tally.sum(parts[5:]), *parts[:5]])
    assert len(together.scores) < most + 3
    ours, wanted = together.curve(at), Froc(cohort, over=over, at=at).curve()
    assert (ours is None) == (wanted is None)
    if ours is not None and wanted is not None:
        np.testing.assert_array_equal(ours.sensitivities, wanted.sensitivities)
    negatives = [it for it in cohort if it.negative]
    assert (together.false, together.slides) == (sum(len(it.false) for it in cohort), len(cohort))
    assert together.negative_false == sum(len(it.false) for it in negatives)
    assert (together.negative_slides, together.required) == (
        len(negatives), sum(it.required for it in cohort)
    )  # fmt: skip
