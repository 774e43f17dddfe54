"""Patches that heatmaps got wrong: which, how many, from where, and what is recorded of them."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapely
import torch
from heatmaps import stored_heatmap
from histoslide_cli.main import main
from histoslide_cli.model import as_text, describe
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from patch_files import write_split
from PIL import Image

from histoslide.annotations.class_map import Role
from histoslide.datasets import PatchFolder
from histoslide.datasets.mined import MinedRecord, mining_facts, read_mined
from histoslide.datasets.patches import PatchData
from histoslide.errors import DataError, HistoslideError, OutputExistsError, SettingsDifferError
from histoslide.geometry import Size
from histoslide.mining.mine import MiningOptions, mine, sheet_path
from histoslide.mining.reference import Reference, read_reference
from histoslide.mining.spreading import spread_by_look
from histoslide.mining.wrong import wrong_cells
from histoslide.model import ModelSpec, save_bundle
from histoslide.model.architectures import build_network
from histoslide.model.features import load_features
from histoslide.model.graphs import TileGraph
from histoslide.review import FocusOrigin, ReviewedSlide, ReviewFile, ReviewObject
from histoslide.slide import open_slide
from histoslide.synthetic import decode_fiducial, fiducial_slide
from histoslide.tiling.labelled.label_rule import LabelRule
from histoslide.training.fit import _training_facts
from histoslide.training.recipe import RECIPES
from histoslide.viewer.catalogue import Catalogue

ROWS, COLS = 24, 30
WIDTH, HEIGHT = COLS * 32, ROWS * 32
"""Level-0 pixels; a cell is 32 of them."""

HOT = {1: (3, 4, 3, 6), 2: (14, 10, 2, 2)}
"""Row, column, rows, columns of two foci of 0.9 and 0.8."""


def values() -> NDArray[np.float32]:
    found = np.full((ROWS, COLS), 0.1, np.float32)
    for number, (row, col, rows, cols) in HOT.items():
        found[row : row + rows, col : col + cols] = 1 - number / 10
    found[:, -1] = np.nan
    return found


def box(row: int, col: int, rows: int, cols: int) -> shapely.Polygon:
    return shapely.box(32 * col, 32 * row, 32 * (col + cols), 32 * (row + rows))


def slide_and_heatmap(folder: Path, name: str, *, stored: Any = None) -> ReviewedSlide:
    folder.mkdir(exist_ok=True)
    slide = folder / f"{name}.tif"
    fiducial_slide(slide, width=WIDTH, height=HEIGHT + 32 * len(name), mpp=1.0)
    with open_slide(slide) as opened:
        quickhash = opened.quickhash
    found = values() if stored is None else stored
    more = np.full((len(name), COLS), 0.1, np.float32)
    size = Size(WIDTH, HEIGHT + 32 * len(name))
    stored_heatmap(
        folder / f"{name}.zarr", np.vstack([found, more]), mpp=1.0, model_mpp=1.0, stride_px=32,
        size_l0=size, quickhash=quickhash, name=slide.name,
    )  # fmt: skip
    return ReviewedSlide(name=slide.name, quickhash=quickhash, size_l0=(size.width, size.height))


@pytest.fixture
def slide(tmp_path: Path) -> ReviewedSlide:
    return slide_and_heatmap(tmp_path / "in", "a")


def colours(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What tiles look like: their mean colours, which tell a fiducial slide's places apart."""
    return tiles.reshape(len(tiles), -1, 3).mean(axis=1).astype(np.float32)


def mined(
    folder: Path, reference: Reference, out: Path, *, features: Any = colours, **options: Any
) -> MinedRecord:
    again = {name: options.pop(name) for name in ("overwrite", "model_sha256") if name in options}
    catalogue = Catalogue([folder])
    try:
        return mine(
            catalogue, reference, lambda: features, out, MiningOptions(**options),
            **{"model_sha256": "made", **again},
        )  # fmt: skip
    finally:
        catalogue.close()


def cells(record: MinedRecord, why: str) -> set[tuple[int, int]]:
    return {(it.row, it.col) for it in record.patches if it.why == why}


def within(number: int) -> set[tuple[int, int]]:
    row, col, rows, cols = HOT[number]
    return {(r, c) for r in range(row, row + rows) for c in range(col, col + cols)}


def review(file: Path, slide: ReviewedSlide, *objects: tuple[str, shapely.Polygon, bool]) -> None:
    owner = ReviewFile(file, slide)
    for number, (name, outline, is_focus) in enumerate(objects, start=1):
        origin = FocusOrigin(number=number) if is_focus else None
        kept = ReviewObject(id=f"{number:032}", class_name=name, outline_l0=outline, origin=origin)
        owner.change(kept.id, base=None, to=kept)


def test_a_negative_slide_gives_its_hot_cells(tmp_path: Path, slide: ReviewedSlide) -> None:
    out = tmp_path / "hard"
    record = mined(tmp_path / "in", read_reference(None, negative=["all"]), out)
    assert cells(record, "false positive") == within(1) | within(2)
    assert not cells(record, "miss")
    assert [it.truth for it in record.settings.heatmaps] == ["negative"]
    assert read_mined(out) == record
    assert sheet_path(out).exists()
    for patch in record.patches:
        assert patch.probability == pytest.approx(0.9 if patch.focus == 1 else 0.8)
        with Image.open(out / patch.file) as image:
            pixels = np.asarray(image)
        assert pixels.shape == (96, 96, 3)
        middle = pixels[40:56, 40:56].mean(axis=(0, 1))
        place = decode_fiducial(middle, width=slide.size_l0[0], height=slide.size_l0[1])
        assert place == pytest.approx(((patch.col + 0.5) * 32, (patch.row + 0.5) * 32), abs=6)
    assert {it.name for it in tmp_path.iterdir()} == {"in", "hard", "hard.png"}
    assert {it.name for it in out.iterdir()} == {"0", "mined.json"}


def test_no_slide_and_no_focus_gives_more_than_its_share(
    tmp_path: Path, slide: ReviewedSlide
) -> None:
    reference = read_reference(None, negative=["a"])
    few = mined(tmp_path / "in", reference, tmp_path / "few", per_lesion=3)
    assert len(cells(few, "false positive") & within(1)) == 3
    assert len(cells(few, "false positive") & within(2)) == 3
    assert few.slides[0].false_positives == len(within(1) | within(2))
    fewer = mined(tmp_path / "in", reference, tmp_path / "fewer", per_lesion=3, per_slide=4)
    assert len(fewer.patches) == 4
    assert fewer.patches[0].probability == pytest.approx(0.9), "the most wrong comes first"


def test_a_review_tells_what_is_wrong(tmp_path: Path, slide: ReviewedSlide) -> None:
    missed = (18, 20, 2, 3)
    review(
        tmp_path / "reviews" / "a.tif.geojson",
        slide,
        ("Normal", box(*HOT[1]), True),
        ("Tumor", box(*HOT[2]), True),
        ("Tumor", box(*missed), False),
        ("Tumor", box(4, 5, 1, 1), False),  # within the focus that was rejected
    )
    record = mined(tmp_path / "in", read_reference(tmp_path / "reviews"), tmp_path / "hard")
    assert cells(record, "false positive") == within(1) - {(4, 5)}
    assert cells(record, "miss") == {(r, c) for r in (18, 19) for c in (20, 21, 22)}
    (heatmap,) = record.settings.heatmaps
    assert (heatmap.truth, heatmap.truth_file) == ("review", "a.tif.geojson")
    assert not heatmap.exhaustive
    assert all(it.file.startswith("1/" if it.why == "miss" else "0/") for it in record.patches)


def test_annotations_say_that_all_else_is_normal_unless_told_otherwise(
    tmp_path: Path, slide: ReviewedSlide
) -> None:
    tumour = shapely.geometry.mapping(box(*HOT[2]))
    feature = {
        "type": "Feature", "geometry": tumour, "properties": {"classification": {"name": "Tumor"}}
    }  # fmt: skip
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "a.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": [feature]})
    )
    record = mined(tmp_path / "in", read_reference(folder), tmp_path / "hard")
    assert cells(record, "false positive") == within(1)
    unknown = mined(tmp_path / "in", read_reference(folder, exhaustive=False), tmp_path / "none")
    assert unknown.patches == []
    with pytest.raises(DataError, match=r"a\.tif is said to be negative, but a\.geojson shows"):
        mined(tmp_path / "in", read_reference(folder, negative=["all"]), tmp_path / "no")


@pytest.mark.parametrize(
    ("column", "told"), [("part", "test"), ("set", "evaluation"), ("split", "Validation")]
)
def test_what_is_judged_on_is_not_learnt_from(
    tmp_path: Path, slide: ReviewedSlide, column: str, told: str
) -> None:
    slide_and_heatmap(tmp_path / "in", "bb")
    table = tmp_path / "list.csv"
    table.write_text(f"slide,{column},annotations\na.tif,{told},none\nbb.tif,train,none\n")
    record = mined(tmp_path / "in", read_reference(table), tmp_path / "hard")
    assert [it.slide for it in record.settings.heatmaps] == ["bb.tif"]
    assert record.left_out == {
        "a.zarr": f"a.tif must not be learnt from: list.csv marks it as {told}"
    }
    table.write_text(f"slide,{column},annotations\na.tif,{told},none\nbb.tif,{told},none\n")
    with pytest.raises(DataError, match=r"nothing is left to mine: a\.tif must not be learnt from"):
        mined(tmp_path / "in", read_reference(table), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_split_refuses_slides_and_patients(tmp_path: Path, slide: ReviewedSlide) -> None:
    slide_and_heatmap(tmp_path / "in", "bb")
    slide_and_heatmap(tmp_path / "in", "ccc")
    split = tmp_path / "split.csv"
    split.write_text("patient,part,slide\np,test,a.tif\nq,valid,\n")
    table = tmp_path / "list.csv"
    table.write_text("slide,patient,annotations\na.tif,p,none\nbb.tif,q,none\nccc.tif,r,none\n")
    record = mined(tmp_path / "in", read_reference(table, split=split), tmp_path / "hard")
    assert [it.slide for it in record.settings.heatmaps] == ["ccc.tif"]
    assert record.left_out["bb.zarr"].endswith("the split has q in valid")


def test_a_killed_run_goes_on_and_comes_to_the_same(tmp_path: Path, slide: ReviewedSlide) -> None:
    slide_and_heatmap(tmp_path / "in", "bb")
    reference = read_reference(None, negative=["all"])
    whole = mined(tmp_path / "in", reference, tmp_path / "whole")
    calls = 0

    def dying(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal calls
        calls += 1
        if calls == 2:  # the second slide
            raise KeyboardInterrupt
        return colours(tiles)

    with pytest.raises(KeyboardInterrupt):
        mined(tmp_path / "in", reference, tmp_path / "hard", features=dying)
    assert not (tmp_path / "hard").exists()
    looked: list[int] = []

    def counted(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        looked.append(len(tiles))
        return colours(tiles)

    again = mined(tmp_path / "in", reference, tmp_path / "hard", features=counted)
    assert again == whole
    assert len(looked) == 1, "the first slide was not looked at again"
    for patch in whole.patches:
        assert (tmp_path / "hard" / patch.file).read_bytes() == (
            tmp_path / "whole" / patch.file
        ).read_bytes()
    names = {it.name for it in tmp_path.iterdir()}
    assert names == {"in", "hard", "hard.png", "whole", "whole.png"}


def test_what_is_there_is_replaced_only_when_told_to(tmp_path: Path, slide: ReviewedSlide) -> None:
    reference, out = read_reference(None, negative=["all"]), tmp_path / "hard"
    first = mined(tmp_path / "in", reference, out)
    assert mined(tmp_path / "in", reference, out, features=None) == first, "nothing is done twice"
    with pytest.raises(SettingsDifferError, match=r"per_lesion was 20, is 2: pass --overwrite"):
        mined(tmp_path / "in", reference, out, per_lesion=2)
    assert read_mined(out) == first
    second = mined(tmp_path / "in", reference, out, per_lesion=2, overwrite=True)
    assert len(second.patches) == 4
    assert len(list((out / "0").iterdir())) == 4
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputExistsError):
        mined(tmp_path / "in", reference, tmp_path / "mine")


def test_another_model_than_the_one_that_scored_is_refused(
    tmp_path: Path, slide: ReviewedSlide
) -> None:
    reference = read_reference(None, negative=["all"])
    with pytest.raises(
        DataError, match=r"was scored by made \(made\), not by this model \(other\)"
    ):
        mined(tmp_path / "in", reference, tmp_path / "hard", model_sha256="other")
    (tmp_path / "in" / "a.tif").unlink()
    with pytest.raises(DataError, match=r"a\.tif, which a\.zarr was made from, is not at hand"):
        mined(tmp_path / "in", reference, tmp_path / "hard")


def test_what_was_mined_is_known_to_who_trains_on_it(tmp_path: Path, slide: ReviewedSlide) -> None:
    out = tmp_path / "hard"
    record = mined(tmp_path / "in", read_reference(None, negative=["all"]), out)
    rng = np.random.default_rng(1)
    for part in ("train", "valid"):
        for name in "01":
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    data = PatchFolder(root=tmp_path / "data", extra=(out,), cache=tmp_path / "cache").divide()
    assert len(data.train) == 6 + len(record.patches)
    (facts,) = data.mined
    assert facts == mining_facts([out])[0]
    assert facts["folder"] == "hard"
    (heatmap,) = facts["heatmaps"]
    assert heatmap["slide"] == "a.tif"
    assert heatmap["quickhash"] == slide.quickhash
    assert heatmap["model_sha256"] == "made"
    assert heatmap["patches"] == {"false positive": len(record.patches)}
    assert mining_facts([tmp_path / "data"]) == []


def test_wrong_cells_are_those_of_a_slow_twin(tmp_path: Path, slide: ReviewedSlide) -> None:
    rng = np.random.default_rng(3)
    heat = stored_heatmap(
        tmp_path / "h.zarr", rng.random((ROWS, COLS), np.float32), mpp=0.5, model_mpp=1.0
    )
    side = heat.grid.cell_l0
    tumour = shapely.Point(10.3 * side, 11.6 * side).buffer(4.4 * side)
    file = tmp_path / "r.geojson"
    size = (heat.grid.size_l0.width, heat.grid.size_l0.height)
    mine_slide = ReviewedSlide(name="made.tif", quickhash="made", size_l0=size)
    normal = shapely.box(0, 0, size[0] / 2, 300)
    review(file, mine_slide, ("Tumor", tumour, False), ("Normal", normal, False))
    for exhaustive in (False, True):
        known = read_reference(file).find(mine_slide)
        assert known is not None
        hot, missed = wrong_cells(
            heat, known.truth, exhaustive=exhaustive, rule=LabelRule(), above=0.6, below=0.4
        )
        expected: tuple[set[Any], set[Any]] = (set(), set())
        probability = heat.probability("tumour")
        for row in range(ROWS):
            for col in range(COLS):
                it = heat.grid.label_box_l0(row, col)
                square = shapely.box(it.x, it.y, it.right, it.bottom)
                share = known.truth.tumour_in(np.array([square.bounds]))[0]
                normal = known.truth.share(Role.NORMAL, np.array([square.bounds]))[0]
                p = probability[row, col]
                surely = exhaustive or normal > 1 - 1e-9
                if share == 0 and surely and p >= np.float32(0.6):
                    expected[0].add((row, col))
                if share > 0 and p < np.float32(0.4):
                    expected[1].add((row, col))
        for wrong, cells_of in zip((hot, missed), expected, strict=True):
            assert {tuple(cell) for cell in wrong.cells.tolist()} == cells_of
            assert cells_of
        assert (np.diff(hot.probability) <= 0).all()
        assert (np.diff(missed.probability) >= 0).all()


@settings(deadline=None, max_examples=60)
@given(
    points=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25),
    seed=st.integers(0, 99),
    most=st.integers(1, 12),
    per_group=st.integers(1, 5),
)
def test_each_choice_is_the_farthest_from_those_before(
    points: list[tuple[int, int]], seed: int, most: int, per_group: int
) -> None:
    features = np.array(points, dtype=np.float32)
    groups = np.random.default_rng(seed).integers(0, 3, len(points))
    chosen = spread_by_look(features, groups, most=most, per_group=per_group).tolist()
    expected = [0]
    while len(expected) < most:
        free = [
            i for i in range(len(points))
            if sum(groups[j] == groups[i] for j in expected) < per_group
        ]  # fmt: skip
        away = {i: min(((features[i] - features[j]) ** 2).sum() for j in expected) for i in free}
        if not away or max(away.values()) == 0:
            break
        expected.append(max(away, key=lambda i: (away[i], -i)))
    assert chosen == expected


def test_features_are_what_the_last_layer_is_given(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build_network("resnet18", 2).eval()
    spec = ModelSpec(
        name="small",
        architecture="resnet18",
        classes=("normal", "tumour"),
        tumour_class="tumour",
        input_px=96,
        label_px=32,
        mpp=0.972,
    )
    save_bundle(tmp_path / "m.safetensors", spec, network.state_dict())
    tiles = np.random.default_rng(1).integers(0, 255, (5, 96, 96, 3), dtype=np.uint8)
    features = load_features(tmp_path / "m.safetensors")
    found = features(tiles)
    head: Any = network[1]
    with torch.inference_mode():
        logits = TileGraph(spec, network)(torch.from_numpy(tiles.transpose(0, 3, 1, 2).copy()))
        again = head[-1](torch.from_numpy(found))
    np.testing.assert_allclose(again.numpy(), logits.numpy(), atol=1e-4)
    assert features(tiles[:0]).shape == (0, found.shape[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing is known of the slides"),
        (["--negative", "all", "--above", "1.5"], "--above must lie in 0-1"),
        (["--negative", "all", "--per-slide", "0"], "--per-slide must be at least 1"),
        (["--negative", "all", "--folders", "a"], "--folders a"),
        (["--negative", "all", "--folders", "a/b,c"], "--folders a/b,c"),
        (["--reference", "missing"], "does not exist"),
        (["--negative", "all", "--split", "missing.csv"], "cannot be read"),
        (["--negative", "b"], "nothing is left to mine: nothing is known of a.tif"),
        (["--negative", "all"], "pass --model with the bundle that scored it"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    slide: ReviewedSlide,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["mine", "in", "--out", "hard", "--model", "light", *words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert said in errors[0]
    assert not any(it.name.startswith((".hard", "hard")) for it in tmp_path.iterdir())


def test_a_damaged_record_is_refused(tmp_path: Path, slide: ReviewedSlide) -> None:
    out = tmp_path / "hard"
    mined(tmp_path / "in", read_reference(None, negative=["all"]), out)
    (out / "mined.json").write_text('{"settings": 3}')
    with pytest.raises(HistoslideError, match=r"mined\.json cannot be read"):
        read_mined(out)


def test_training_takes_what_was_mined_and_the_bundle_says_so(
    tmp_path: Path, slide: ReviewedSlide, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside PatchCamelyon's files, whose classes have other names; slides held back are known."""
    slide_and_heatmap(tmp_path / "in", "bb")
    out = tmp_path / "hard"
    record = mined(tmp_path / "in", read_reference(None, negative=["all"]), out)
    write_split(tmp_path / "data", "train", [0, 1] * 4)
    write_split(tmp_path / "data", "valid", [0, 1], first=100, slides=["a.tif"] * 2)
    folder = PatchFolder(root=tmp_path / "data", extra=(out,), extra_repeat=(2,))
    extra = folder.open().parts["extra"]
    assert extra.slides is not None
    assert set(extra.slides) == {"a.tif", "bb.tif"}
    assert set(extra.labels.tolist()) == {0}  # false positives are normal
    data = folder.divide()
    assert "training and validation share 1 slides" in caplog.text
    assert len(data.train) == 8 + len(record.patches)
    (fact,) = data.mined
    assert fact["sha256"] == hashlib.sha256((out / "mined.json").read_bytes()).hexdigest()
    facts = spec_facts(tmp_path, data)
    told = " ".join(as_text(facts).split())
    count, (model,) = len(record.patches), {it.model_sha256 for it in record.settings.heatmaps}
    assert f"hard ({fact['sha256'][:12]}): false positive {count}, of 2 heatmaps of" in told
    assert model[:12] in told
    strange: Any = {"data": {"mined": [{"folder": 3}, 7]}}
    facts["spec"]["training"] = strange
    assert "mined" not in as_text(facts)


def spec_facts(folder: Path, data: PatchData) -> dict[str, Any]:
    """Of a bundle that was trained on data, as ``model info`` has them."""
    run: Any = SimpleNamespace(records=[])
    training = _training_facts(data, RECIPES["pcam"], run, 0, None)
    network = torch.nn.Linear(1, 2)
    spec = ModelSpec(
        name="x", architecture="none", classes=("normal", "tumour"), tumour_class="tumour",
        input_px=96, label_px=32, mpp=0.972, training=training,
    )  # fmt: skip
    save_bundle(folder / "x.safetensors", spec, network.state_dict())
    return describe(folder / "x.safetensors")
