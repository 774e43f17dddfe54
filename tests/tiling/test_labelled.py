"""Labelled patches: labels as a slow twin gives them, the right pixels, splits, restart."""

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from histoslide_cli.main import main
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from histoslide.annotations.class_map import ClassMap
from histoslide.datasets import PatchFolder
from histoslide.errors import AnnotationError, HistoslideError, StoreError
from histoslide.geometry import Mpp
from histoslide.pipeline.options import TissueOptions
from histoslide.synthetic import decode_fiducial, fiducial_slide
from histoslide.tiling.labelled.cut import cut_labelled
from histoslide.tiling.labelled.label_rule import NORMAL, TUMOUR, LabelRule
from histoslide.tiling.labelled.patient_split import (
    PARTS,
    Fractions,
    read_patient_split,
    split_patients,
)
from histoslide.tiling.labelled.planning import CutOptions, plan_patches
from histoslide.tiling.labelled.sampling import fair_shares, spread
from histoslide.tiling.labelled.slide_list import LabelledSlide, find_labelled, read_labelled_list

Rectangle = tuple[float, float, float, float]

ALL = CutOptions(tissue=TissueOptions(method="none"), per_slide=None)
"""Every patch that has a label."""

LESIONS: Sequence[Rectangle] = (
    (205.5, 310, 460, 420.25),
    (700, 150, 703, 153),
    (900, 600, 1000, 700),
)
HOLES: Sequence[Rectangle] = ((300, 330, 380, 400),)
UNSURE: Sequence[Rectangle] = ((950, 580, 1100, 640), (100, 100, 140, 160))


def annotate(
    path: Path,
    lesions: Sequence[Rectangle] = LESIONS,
    normal: Sequence[Rectangle] = (),
    excluded: Sequence[Rectangle] = (),
) -> Path:
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": name}},
            "geometry": {
                "type": "Polygon",
                "coordinates": [
                    [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
                ],
            },
        }
        for name, rectangles in (("Tumor", lesions), ("Normal", normal), ("Excluded", excluded))
        for left, top, right, bottom in rectangles
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def overlap(one: Rectangle, other: Rectangle) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def slow_labels(
    mpp: float, width: int, height: int, options: CutOptions, *, exhaustive: bool
) -> dict[tuple[int, int], int]:
    """Every cell for itself; in each centre the area of what is tumour, hole or unsure."""
    scale = options.target_mpp / mpp
    stride, patch, label = (
        side * scale for side in (options.stride_px, options.input_px, options.label_px)
    )
    found = {}
    for row in range(int(np.ceil(height / stride))):
        for col in range(int(np.ceil(width / stride))):
            x, y = (col + 0.5) * stride, (row + 0.5) * stride
            if min(x, y) - patch / 2 < -scale / 2:
                continue
            if x + patch / 2 > width + scale / 2 or y + patch / 2 > height + scale / 2:
                continue
            box = (x - label / 2, y - label / 2, x + label / 2, y + label / 2)
            excluded = sum(overlap(box, each) for each in UNSURE)
            normal = sum(overlap(box, each) for each in HOLES)  # the three kinds' overlaps
            tumour = sum(overlap(box, each) for each in LESIONS) - normal
            for lesion in LESIONS:
                for unsure in UNSURE:
                    corner = (
                        max(lesion[0], unsure[0]), max(lesion[1], unsure[1]),
                        min(lesion[2], unsure[2]), min(lesion[3], unsure[3]),
                    )  # fmt: skip
                    if corner[0] < corner[2] and corner[1] < corner[3]:
                        tumour -= overlap(box, corner)
            unknown = excluded if exhaustive else label**2 - tumour - normal
            share = options.rule.share
            needed = 1e-6 if share is None else (share - 1e-9) * label**2  # float rounding
            if tumour >= needed:
                found[row, col] = TUMOUR
            elif tumour + max(0.0, unknown) < needed:
                found[row, col] = NORMAL
    return found


@pytest.mark.parametrize("mpp", [0.243, 0.5, 0.61, 0.972])
@pytest.mark.parametrize(("stride", "rule"), [(32, "any"), (17, "any"), (48, "0.3"), (32, "1")])
@pytest.mark.parametrize("exhaustive", [True, False])
def test_labels_equal_a_slow_twin(
    mpp: float, stride: int, rule: str, exhaustive: bool, tmp_path: Path
) -> None:
    path = fiducial_slide(
        tmp_path / "a.tif", width=1230, height=811, mpp=mpp, downsamples=(3.3, 7.0)
    )
    annotate(tmp_path / "a.geojson", normal=HOLES, excluded=UNSURE)
    options = replace(ALL, stride_px=stride, rule=LabelRule.parse(rule))
    slide = LabelledSlide(path=path, exhaustive=exhaustive)
    planned = plan_patches(slide, tmp_path, options)
    found = {
        (row, col): label
        for (row, col), label in zip(planned.cells.tolist(), planned.labels.tolist(), strict=True)
    }
    wanted = slow_labels(mpp, 1230, 811, options, exhaustive=exhaustive)
    assert found == wanted
    if rule == "any" and exhaustive:
        assert set(found.values()) == {TUMOUR, NORMAL}
    assert planned.possible == planned.counts


def pixels_and_meta(folder: Path, part: str) -> tuple[Any, Any, list[dict[str, str]]]:
    stem = folder / f"camelyonpatch_level_2_split_{part}"
    with h5py.File(f"{stem}_x.h5") as x, h5py.File(f"{stem}_y.h5") as y:
        pixels, labels = np.asarray(x["x"]), np.asarray(y["y"]).reshape(-1)
    with Path(f"{stem}_meta.csv").open(newline="") as file:
        return pixels, labels, list(csv.DictReader(file))


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six slides of four patients, two without tumour; two are copies of each other."""
    folder = tmp_path_factory.mktemp("slides")
    drawn = folder / "drawn"
    for i, name in enumerate("abcde"):
        width, height = 900 + 10 * i, 700
        fiducial_slide(folder / f"{name}.tif", width=width, height=height, mpp=0.5)
        if name in "abc":
            annotate(drawn / f"{name}.geojson", [(300, 300, 420, 380), (600, 500, 620, 510 + i)])
    shutil.copy(folder / "e.tif", folder / "f.tif")
    (folder / "list.csv").write_text(
        "slide,patient,centre,annotations\na.tif,p1,north,\nb.tif,p2,south,\nc.tif,p1,north,\n"
        "d.tif,p3,north,none\ne.tif,p4,,none\nf.tif,p5,,none\n"
    )
    return folder


def cut(slides: Path, out: Path, *options: str) -> int:
    where = [str(slides / "list.csv"), "--annotations", str(slides / "drawn"), "--out", str(out)]
    return main(["tile", *where, "--tissue", "none", "--quiet", *options])


def test_patches_hold_the_pixels_of_their_place(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    assert cut(slides, out, "--split", "0.5,0.25,0.25") == 0
    found = Counter[str]()
    for part in PARTS:
        pixels, labels, meta = pixels_and_meta(out, part)
        assert len(pixels) == len(labels) == len(meta) > 0
        for patch, label, row in zip(pixels, labels, meta, strict=True):
            assert row["center_tumor_patch"] == str(bool(label))
            side = float(row["width_l0"])
            assert side == pytest.approx(96 * 0.972 / 0.5)
            x0, y0 = float(row["coord_x"]), float(row["coord_y"])
            width = 900 + 10 * "abcdee".index(row["wsi"][0]) if row["wsi"][0] != "f" else 940
            x, y = decode_fiducial(
                patch[8:-8, 8:-8].reshape(-1, 3).mean(axis=0), width=width, height=700
            )
            assert x == pytest.approx(x0 + side / 2, abs=2)
            assert y == pytest.approx(y0 + side / 2, abs=2)
            third = float(row["label_width_l0"]) / 2
            cx, cy = x0 + side / 2, y0 + side / 2
            centre = (cx - third, cy - third, cx + third, cy + third)
            drawn = [(300, 300, 420, 380), (600, 500, 620, 510 + "abc".find(row["wsi"][0]))]
            touched = row["wsi"][0] in "abc" and sum(overlap(centre, box) for box in drawn) > 1e-3
            assert bool(label) == touched
            assert (row["lesion"] != "") == touched
            whole = (x0, y0, x0 + side, y0 + side)
            anywhere = row["wsi"][0] in "abc" and sum(overlap(whole, box) for box in drawn) > 1e-3
            assert row["tumor_patch"] == str(anywhere)
            found[row["wsi"]] += 1
    record = json.loads((out / "patches.json").read_text())
    assert record["complete"]
    assert {s["slide"]: s["normal"] + s["tumour"] for s in record["slides"]} == dict(found) | {
        name: 0 for name in ("e.tif", "f.tif") if name not in found
    }
    names = {path.name for path in out.iterdir()}
    assert {"split.csv", "slides", "samples-normal.png", "samples-tumour.png"} <= names
    assert ".slides" not in names
    with Image.open(out / "slides" / "a.tif" / "patches.png") as picture:
        assert picture.size[0] > 400


def test_no_patient_and_no_equal_patch_is_in_two_parts(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    for seed in ("0", "1"):
        assert cut(slides, out, "--split", "0.4,0.3,0.3", "--seed", seed, "--overwrite") == 0
        part_of: dict[str, str] = {}
        seen: dict[bytes, str] = {}
        for part in PARTS:
            pixels, _, meta = pixels_and_meta(out, part)
            for patch, row in zip(pixels, meta, strict=True):
                assert part_of.setdefault(row["patient"], part) == part
                assert seen.setdefault(patch.tobytes(), part) == part
        owners = {row["patient"] for part in PARTS for row in pixels_and_meta(out, part)[2]}
        assert owners <= {"p1", "p2", "p3", "p4", "p5"}
        record = json.loads((out / "patches.json").read_text())
        parts = {s["slide"]: s["part"] for s in record["slides"]}
        equal = {s["slide"]: s["equal"] for s in record["slides"]}
        straddles = parts["e.tif"] != parts["f.tif"]
        assert bool(equal["e.tif"] or equal["f.tif"]) == straddles
        assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_train_and_evaluate_take_it_as_it_is(slides: Path, tmp_path: Path) -> None:
    assert cut(slides, tmp_path / "h5", "--split", "0.5,0.25,0.25") == 0
    assert cut(slides, tmp_path / "png", "--split", "0.5,0.25,0.25", "--format", "png") == 0
    one = PatchFolder(root=tmp_path / "h5").open()
    other = PatchFolder(root=tmp_path / "png", slides=tmp_path / "png" / "meta.csv").open()
    assert one.classes == other.classes == ("normal", "tumour")
    assert one.parts.keys() == other.parts.keys() == set(PARTS)
    for part in PARTS:
        a, b = one.parts[part], other.parts[part]
        assert a.slides is not None
        assert b.slides is not None
        pairs = [
            sorted(
                (patches.read(i).tobytes(), int(patches.labels[i]), slide)
                for i, slide in enumerate(patches.slides or ())
            )
            for patches in (a, b)
        ]
        assert pairs[0] == pairs[1]
    data = PatchFolder(root=tmp_path / "h5").divide()
    assert data.split is not None
    assert data.split.kind == "official"
    assert not data.left_out


def test_a_split_is_repeated_and_lists_may_say_it(slides: Path, tmp_path: Path) -> None:
    assert cut(slides, tmp_path / "one", "--split", "0.4,0.3,0.3", "--seed", "5") == 0
    saved = tmp_path / "one" / "split.csv"
    assert cut(slides, tmp_path / "two", "--split", str(saved), "--label-rule", "0.5") == 0
    assert (tmp_path / "two" / "split.csv").read_text() == saved.read_text()
    lines = saved.read_text().splitlines()
    saved.write_text(
        "\n".join([lines[0], *[x for x in lines[1:] if not x.startswith("p3")]]) + "\n"
    )
    assert cut(slides, tmp_path / "three", "--split", str(saved)) == 2
    (tmp_path / "list.csv").write_text(
        f"slide,patient,annotations,part\n{slides / 'a.tif'},p1,,valid\n{slides / 'b.tif'},p2,,\n"
        f"{slides / 'c.tif'},p1,,valid\n"
    )
    (tmp_path / "drawn").symlink_to(slides / "drawn")
    assert cut(tmp_path, tmp_path / "four") == 0
    assert read_patient_split(tmp_path / "four" / "split.csv") == {"p1": "valid", "p2": "train"}
    table = (tmp_path / "list.csv").read_text()
    (tmp_path / "list.csv").write_text(table.replace("c.tif,p1,,valid", "c.tif,p1,,test"))
    assert cut(tmp_path, tmp_path / "five") == 2


def run(slides: Path, out: Path, **more: Any) -> Any:
    found = find_labelled([slides / "list.csv"])
    return cut_labelled(found, slides / "drawn", out, replace(ALL, per_slide=9), **more)


def test_a_run_that_was_stopped_goes_on(slides: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(slides, whole)

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(slides, parts, on_patches=stop)
    left = {path: path.stat().st_mtime_ns for path in (parts / ".slides").glob("*.json")}
    assert len(left) == 2
    assert not json.loads((parts / "patches.json").read_text())["complete"]
    kept = {}

    def look(done: int, total: int) -> None:
        kept.update({path: path.stat().st_mtime_ns for path in left})

    run(slides, parts, on_patches=look)
    assert kept == left
    for part in ("train", "valid", "test"):
        if (whole / f"camelyonpatch_level_2_split_{part}_x.h5").exists():
            one, other = pixels_and_meta(whole, part), pixels_and_meta(parts, part)
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])
            assert one[2] == other[2]
    assert (whole / "patches.json").read_text() == (parts / "patches.json").read_text()
    read: list[int] = []
    run(slides, whole, on_patches=lambda done, total: read.append(done))
    assert not read  # it is complete


def test_other_settings_are_refused_and_foreign_folders_left_alone(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "data"
    assert cut(slides, out, "--per-slide", "5") == 0
    assert cut(slides, out, "--per-slide", "6") == 2
    assert "per_slide was 5, is 6" in capsys.readouterr().err
    assert cut(slides, out, "--per-slide", "6", "--overwrite") == 0
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    assert cut(slides, mine, "--overwrite") == 2
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]
    with pytest.raises(StoreError, match="not a folder of labelled patches"):
        run(slides, mine)


def test_one_bad_slide_does_not_stop_the_others(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abde":
        shutil.copy(slides / f"{name}.tif", tmp_path / f"{name}.tif")
    (tmp_path / "c.tif").write_bytes(b"no slide")
    shutil.copytree(slides / "drawn", tmp_path / "drawn")
    table = (slides / "list.csv").read_text().replace("f.tif,p5,,none\n", "")
    (tmp_path / "list.csv").write_text(table.replace("e.tif,p4,,none", "e.tif,p4,,"))
    out = tmp_path / "data"
    assert cut(tmp_path, out) == 3
    said = capsys.readouterr().err
    assert "c.tif" in said
    assert "has no annotations of it" in said
    record = json.loads((out / "patches.json").read_text())
    assert sorted(record["failed"]) == ["c.tif", "e.tif"]
    assert not record["complete"]
    before = read_patient_split(out / "split.csv")
    shutil.copy(slides / "c.tif", tmp_path / "c.tif")
    assert cut(tmp_path, out) == 3
    annotate(tmp_path / "drawn" / "e.json", [])
    assert cut(tmp_path, out) == 0
    after = read_patient_split(out / "split.csv")
    assert {name: after[name] for name in before} == before  # nobody changes sides
    assert json.loads((out / "patches.json").read_text())["complete"]


def test_lesions_share_what_is_taken_of_a_slide(slides: Path, tmp_path: Path) -> None:
    small = [(100 + 60 * i, 580, 110 + 60 * i, 590) for i in range(8)]
    annotate(tmp_path / "a.geojson", [(200, 150, 750, 500), *small])
    slide = LabelledSlide(path=slides / "a.tif")
    everything = plan_patches(slide, tmp_path, ALL)
    tumour = everything.labels == TUMOUR
    each = Counter(everything.lesions[tumour].tolist())
    assert len(each) == 9
    some = plan_patches(slide, tmp_path, replace(ALL, per_slide=18))
    taken = Counter(some.lesions[some.labels == TUMOUR].tolist())
    assert sum(taken.values()) == 18
    assert min(taken.values()) == 1
    assert max(taken.values()) <= 18 - sum(min(2, each[i]) for i in range(1, 9))
    again = plan_patches(slide, tmp_path, replace(ALL, per_slide=18))
    np.testing.assert_array_equal(some.cells, again.cells)
    other = plan_patches(slide, tmp_path, replace(ALL, per_slide=18, seed=1))
    assert some.cells.tolist() != other.cells.tolist()
    assert some.possible == everything.counts


def test_normal_patches_are_balanced_in_each_part(slides: Path, tmp_path: Path) -> None:
    assert cut(slides, tmp_path / "data", "--balance", "1.5", "--split", "0.5,0.5,0") == 0
    for part in ("train", "valid"):
        _, labels, meta = pixels_and_meta(tmp_path / "data", part)
        tumour = int(labels.sum())
        assert tumour
        assert len(labels) - tumour <= round(1.5 * tumour)
        if tumour > 10:
            normal = {row["wsi"] for row in meta if row["lesion"] == ""}
            assert len(normal) > 1


@given(available=st.lists(st.integers(0, 30), min_size=1, max_size=8), most=st.integers(0, 120))
def test_shares_are_as_equal_as_can_be(available: list[int], most: int) -> None:
    shares = fair_shares(available, most)
    assert sum(shares) == min(most, sum(available))
    assert all(0 <= share <= count for share, count in zip(shares, available, strict=True))
    short = [share for share, count in zip(shares, available, strict=True) if share < count]
    assert not short or max(shares) <= min(short) + 1


def test_patches_that_do_not_overlap_come_first() -> None:
    cells = np.argwhere(np.ones((9, 9), bool))
    taken = spread(cells, np.zeros(81, np.int64), most=9, step=3, rng=np.random.default_rng(0))
    chosen = cells[taken]
    apart = np.abs(chosen[:, None] - chosen[None]).max(axis=2)
    assert (apart[~np.eye(9, dtype=bool)] >= 3).all()


@settings(max_examples=60)
@given(
    patients=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), min_size=1, max_size=12),
    seed=st.integers(0, 99),
)
def test_every_part_gets_patients_where_there_are_enough(
    patients: list[tuple[int, int]], seed: int
) -> None:
    patches = {f"p{i}": counts for i, counts in enumerate(patients)}
    found = split_patients(patches, fixed={}, fractions=Fractions(), seed=seed)
    assert found.keys() == patches.keys()
    for with_tumour in (True, False):
        group = [name for name, counts in patches.items() if (counts[1] > 0) == with_tumour]
        parts = {found[name] for name in group}
        assert parts == set(PARTS[: len(group)])
    assert found == split_patients(patches, fixed={}, fractions=Fractions(), seed=seed)
    fixed = {"p0": "test", "nobody": "train"}
    assert split_patients(patches, fixed=fixed, fractions=Fractions(), seed=seed)["p0"] == "test"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("slide,lable\na.tif,1\n", "has the columns slide,lable"),
        ("slide,label\na.tif,1 mm\n", "line 2: label '1 mm' is neither"),
        (
            "slide,label,annotations\na.tif,tumour,none\n",
            "line 2: label tumour and annotations none",
        ),
        ("slide\n", "lists no slide"),
        ("slide,mpp\na.tif,x\n", "line 2: the mpp 'x'"),
        ("slide,exhaustive\na.tif,maybe\n", "line 2: exhaustive 'maybe' is neither yes nor no"),
        ("slide,part\na.tif,holdout\n", "line 2: the part is 'holdout'"),
        ("slide,part\n,train\n", "line 2: names no slide"),
    ],
)
def test_a_wrong_list_is_refused_by_line(table: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(table)
    with pytest.raises(HistoslideError, match=rf"list\.csv.*{message}"):
        read_labelled_list(path)


def test_a_list_says_all_of_a_slide(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        "slide, mpp, patient, centre, annotations, exhaustive, part\n"
        "a.svs, 0.25, p, c, drawn/x.xml, no, test\nb.svs,,,,NONE,,\n"
    )
    one, other = read_labelled_list(path)
    assert one == LabelledSlide(
        path=tmp_path / "a.svs",
        mpp=Mpp(value=0.25, source="list.csv"),
        patient="p",
        centre="c",
        annotations=tmp_path / "drawn" / "x.xml",
        exhaustive=False,
        part="test",
    )
    assert other == LabelledSlide(path=tmp_path / "b.svs", tumour=False)
    assert other.owner == "b.svs"


@pytest.mark.parametrize(
    "options",
    [
        ["--split", "0.5,0.5"],
        ["--split", "none.csv"],
        ["--label-rule", "0"],
        ["--label-rule", "most"],
        ["--per-slide", "0"],
        ["--per-slide", "few"],
        ["--balance", "0"],
        ["--stride", "0"],
        ["--label-size", "97"],
        ["--classes", "Tumor=cancer"],
    ],
)
def test_wrong_options_are_refused(options: list[str], slides: Path, tmp_path: Path) -> None:
    assert cut(slides, tmp_path / "data", *options) == 2
    assert not (tmp_path / "data").exists()


def test_labels_need_annotations(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ["tile", str(slides / "a.tif"), "--out", str(tmp_path / "t"), "--balance", "1"]
    assert main(plain) == 2
    assert "--balance says how patches are labelled: pass --annotations" in capsys.readouterr().err
    two = [str(slides / "a.tif"), str(slides / "b.tif"), "--out", str(tmp_path / "t")]
    assert main(["tile", *two, "--annotations", str(slides / "drawn" / "a.geojson")]) == 2
    assert "is one file for 2 slides" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    with pytest.raises(AnnotationError, match="--unannotated"):
        plan_patches(LabelledSlide(path=slides / "a.tif"), tmp_path / "none", ALL)
    free = replace(ALL, unannotated_normal=True)
    planned = plan_patches(LabelledSlide(path=slides / "a.tif"), tmp_path / "none", free)
    assert planned.counts[TUMOUR] == 0 < planned.counts[NORMAL]
    with pytest.raises(HistoslideError, match="two slides are called a"):
        find_labelled([slides / "a.tif", slides / "a.tif"])


def test_a_slide_has_its_own_mask_and_region(slides: Path, tmp_path: Path) -> None:
    """And a mask that lies among the annotations is not taken for one of them."""
    left = np.zeros((70, 90), dtype=np.uint8)
    left[:, :45] = 255
    shutil.copytree(slides / "drawn", tmp_path / "drawn")
    mask = tmp_path / "drawn" / "a_mask.png"
    Image.fromarray(left).save(mask)
    path = slides / "a.tif"
    with pytest.raises(AnnotationError, match=r"a\.geojson and a_mask\.png"):
        plan_patches(LabelledSlide(path=path), tmp_path / "drawn", ALL)
    everywhere = plan_patches(LabelledSlide(path=path), slides / "drawn", ALL)
    for own in (LabelledSlide(path=path, mask=mask), LabelledSlide(path=path, roi=mask)):
        planned = plan_patches(own, tmp_path / "drawn", ALL)
        middles = planned.boxes_l0(32).reshape(-1, 2, 2).mean(axis=1)
        assert 0 < len(middles) < len(everywhere.cells)
        assert (middles[:, 0] < 450 + 32).all()
    table = tmp_path / "list.csv"
    table.write_text(f"slide,mask,output\n{path},drawn/a_mask.png,x\n")
    assert cut(tmp_path, tmp_path / "data") == 0
    (kept,) = json.loads((tmp_path / "data" / "patches.json").read_text())["slides"]
    assert (kept["mask"], kept["roi"]) == ("a_mask.png", None)
    table.write_text(f"slide,output\n{path},x\n")
    mask.unlink()
    assert cut(tmp_path, tmp_path / "data") == 2  # other settings


def test_a_list_must_not_contradict_what_is_drawn(slides: Path, tmp_path: Path) -> None:
    path, drawn = slides / "a.tif", slides / "drawn"
    free = LabelledSlide(path=path, tumour=False, annotations=drawn)
    with pytest.raises(AnnotationError, match=r"listed with no tumour, and a\.geojson has some"):
        plan_patches(free, drawn, ALL)
    listed = LabelledSlide(path=slides / "d.tif", tumour=True)
    with pytest.raises(AnnotationError, match=r"d\.tif is listed with tumour, and .* draw them"):
        plan_patches(listed, drawn, replace(ALL, unannotated_normal=True))
    annotate(tmp_path / "d.geojson", [], normal=[(0, 0, 300, 300)])
    with pytest.raises(AnnotationError, match=r"listed with tumour, and d\.geojson has none"):
        plan_patches(listed, tmp_path, ALL)
    in_part = replace(listed, exhaustive=False)
    assert plan_patches(in_part, tmp_path, ALL).counts[TUMOUR] == 0


def test_classes_may_be_told(slides: Path, tmp_path: Path) -> None:
    annotate(tmp_path / "a.json")
    told = replace(ALL, classes=ClassMap.parse("Tumor=normal"))
    planned = plan_patches(LabelledSlide(path=slides / "a.tif"), tmp_path, told)
    assert planned.counts[TUMOUR] == 0


def test_patches_are_cut_without_torch(slides: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from histoslide_cli.main import main; "
        "code = main(sys.argv[1:]); sys.exit(code or 'torch' in sys.modules)"
    )
    words = ["tile", slides / "a.tif", "--annotations", slides / "drawn", "--out", tmp_path / "d"]
    subprocess.run([sys.executable, "-c", script, *map(str, words), "--quiet"], check=True)
