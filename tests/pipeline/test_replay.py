"""A heatmap comes out again from its own metadata; what was altered since is found."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from histoslide_cli.main import main
from models import colour_model, three_class_model

from histoslide.errors import (
    BundleError,
    HistoslideError,
    MaskError,
    OutputExistsError,
    StoreError,
)
from histoslide.geometry import Mpp
from histoslide.grid.status import Status
from histoslide.model import Model
from histoslide.pipeline import TissueOptions
from histoslide.pipeline.replay import find_slide, replay_heatmap, replay_settings
from histoslide.scoring.lazy import make_heatmap
from histoslide.slide import open_slide
from histoslide.store import Heatmap, open_heatmap, store_heatmap
from histoslide.synthetic import fiducial_slide, scene_slide
from histoslide.tissue.masks import TissueMask

EVERYTHING = TissueOptions(method="none", threshold=0)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    return fiducial_slide(path, width=900, height=700, mpp=0.972)


def scored(
    slide: Path, out: Path, model: Model | None = None, tissue: TissueOptions = EVERYTHING
) -> Heatmap:
    """A heatmap of 22 × 29 cells in 3 × 4 blocks."""
    with open_slide(slide) as opened:
        mask, roi = tissue.find(opened)
        lazy = make_heatmap(
            opened,
            colour_model() if model is None else model,
            tissue=mask,
            tissue_threshold=tissue.threshold,
            roi=roi,
            block_cells=8,
        )
        return store_heatmap(lazy, out)


def alter(heat: Heatmap, row: int, col: int, value: float) -> None:
    group: Any = zarr.open_group(heat.path, mode="r+")
    group["0"][row, col] = value


def square(path: Path, first: int, last: int) -> Path:
    """A GeoJSON square from level-0 (first, first) to (last, last)."""
    ring = [[first, first], [last, first], [last, last], [first, last], [first, first]]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}), encoding="utf-8")
    return path


def test_every_recorded_setting_is_used_again(slide: Path, tmp_path: Path) -> None:
    """None of them is a default, so forgetting one would show."""
    roi = square(tmp_path / "roi.geojson", 100, 900)
    with open_slide(slide, mpp=Mpp(value=0.8, source="--mpp-csv")) as opened:
        tissue, region = TissueOptions(method="entropy", threshold=0.3, roi=roi).find(opened)
        lazy = make_heatmap(
            opened, colour_model(1), stride_px=20, tissue=tissue, tissue_threshold=0.3, roi=region,
            block_cells=8,
        )  # fmt: skip
        heat = store_heatmap(lazy, tmp_path / "heat.zarr", ngff="0.4")
    out = tmp_path / "again.zarr"
    comparison = replay_heatmap(heat, slide, colour_model(1), roi=roi, out=out)
    assert comparison.equal
    assert comparison.settings == comparison.origins == ()
    assert comparison.of().cells == heat.counts.scored > 0
    again = open_heatmap(out)
    assert again.record.fingerprint == heat.record.fingerprint
    assert again.record.slide == heat.record.slide
    assert again.record.mask == heat.record.mask
    np.testing.assert_array_equal(again.probability(), heat.probability())


def test_an_altered_cell_is_found(slide: Path, tmp_path: Path) -> None:
    heat = scored(slide, tmp_path / "heat.zarr")
    before = heat.probability()[10, 15]
    alter(heat, 10, 15, before / 2)
    (entry,) = replay_heatmap(heat, slide, colour_model()).classes
    assert (entry.cells - entry.equal, entry.largest_at) == (1, (10, 15))
    assert entry.largest == float(before) - float(before / 2)


def test_an_altered_status_is_found(slide: Path, tmp_path: Path) -> None:
    heat = scored(slide, tmp_path / "heat.zarr")
    alter(heat, 3, 4, np.nan)
    group: Any = zarr.open_group(heat.path, mode="r+")
    group["labels/status/0"][3, 4] = Status.UNREADABLE
    record = dict(group.attrs["histoslide"])  # else it passes for a heatmap that lost a block
    record["counts"] |= {"scored": record["counts"]["scored"] - 1, "unreadable": 1}
    group.attrs["histoslide"] = record
    comparison = replay_heatmap(open_heatmap(heat.path), slide, colour_model())
    assert comparison.statuses == {("unreadable", "scored"): 1}
    assert (comparison.only_b, comparison.equal) == (1, False)


def test_a_sample_looks_at_whole_blocks(slide: Path, tmp_path: Path) -> None:
    heat = scored(slide, tmp_path / "heat.zarr")
    blocks = {(cells.row, cells.col): cells for cells in heat.grid.blocks()}
    assert len(blocks) == 12
    drawn = []
    for seed in range(3):
        comparison = replay_heatmap(heat, slide, colour_model(), sample=2, seed=seed)
        assert comparison.equal
        inside = [c for c in blocks.values() if comparison.among[c.slices].all()]
        assert sum(c.rows * c.cols for c in inside) == comparison.among.sum()
        assert comparison.of().cells == comparison.among.sum()
        drawn.append(tuple((c.row, c.col) for c in inside))
        assert len(inside) == 2
    assert len(set(drawn)) > 1
    again = replay_heatmap(heat, slide, colour_model(), sample=2, seed=0)
    np.testing.assert_array_equal(
        again.among, replay_heatmap(heat, slide, colour_model(), sample=2, seed=0).among
    )
    assert {d.name for d in again.settings} == set()


def test_a_sample_finds_an_altered_cell_in_its_blocks_alone(slide: Path, tmp_path: Path) -> None:
    heat = scored(slide, tmp_path / "heat.zarr")
    alter(heat, 10, 15, 0.0)
    for seed in range(4):
        comparison = replay_heatmap(heat, slide, colour_model(), sample=6, seed=seed)
        assert comparison.equal == (not comparison.among[10, 15])
    everywhere = replay_heatmap(heat, slide, colour_model(), sample=100)
    assert everywhere.among.all()
    assert everywhere.of().cells - everywhere.of().equal == 1


def test_blocks_without_tissue_are_not_drawn(slide: Path, tmp_path: Path) -> None:
    roi = square(tmp_path / "roi.geojson", 0, 100)
    heat = scored(
        slide, tmp_path / "heat.zarr", tissue=TissueOptions(method="none", threshold=0, roi=roi)
    )
    comparison = replay_heatmap(heat, slide, colour_model(), roi=roi, sample=12)
    assert comparison.among.sum() == 8 * 8
    assert comparison.equal


def test_three_classes_and_their_sample(slide: Path, tmp_path: Path) -> None:
    heat = scored(slide, tmp_path / "heat.zarr", three_class_model())
    for sample in (None, 3):
        comparison = replay_heatmap(heat, slide, three_class_model(), sample=sample)
        assert comparison.equal
        assert [entry.name for entry in comparison.classes] == ["red", "green", "blue"]


def test_another_model_is_refused_with_both_hashes(slide: Path, tmp_path: Path) -> None:
    heat = scored(slide, tmp_path / "heat.zarr")
    with pytest.raises(BundleError, match=r"colour-0 \(sha256 0-96-32\), but .* 1-96-32"):
        replay_heatmap(heat, slide, colour_model(1))


def test_another_slide_is_refused(slide: Path, tmp_path: Path) -> None:
    heat = scored(slide, tmp_path / "heat.zarr")
    other = fiducial_slide(tmp_path / "other.tif", width=900, height=701, mpp=0.972)
    with pytest.raises(StoreError, match=r"other\.tif is not the slide"):
        replay_heatmap(heat, other, colour_model())
    scene_slide(tmp_path / "same.tif", width=900, height=700, mpp=0.972, seed=1)
    with pytest.raises(StoreError, match=r"same\.tif is not the slide"):
        replay_heatmap(heat, tmp_path / "same.tif", colour_model())


def test_files_are_asked_for(slide: Path, tmp_path: Path) -> None:
    mask = square(tmp_path / "mask.geojson", 0, 500)
    roi = square(tmp_path / "roi.geojson", 200, 700)
    both = TissueOptions(mask=mask, roi=roi)
    heat = scored(slide, tmp_path / "heat.zarr", tissue=both)
    with pytest.raises(MaskError, match=r"the file mask\.geojson as mask.*pass it as --mask"):
        replay_heatmap(heat, slide, colour_model(), roi=roi)
    with pytest.raises(MaskError, match=r"the file roi\.geojson as roi.*pass it as --roi"):
        replay_heatmap(heat, slide, colour_model(), mask=mask)
    other = square(tmp_path / "wrong.geojson", 0, 450)
    with pytest.raises(MaskError, match=r"wrong\.geojson and roi\.geojson would score other cells"):
        replay_heatmap(heat, slide, colour_model(), mask=other, roi=roi)
    assert replay_heatmap(heat, slide, colour_model(), mask=mask, roi=roi).equal
    plain = scored(slide, tmp_path / "plain.zarr")
    with pytest.raises(MaskError, match="made without a mask file: leave out --mask"):
        replay_settings(plain, mask=mask)
    with pytest.raises(MaskError, match="made without a roi file: leave out --roi"):
        replay_settings(plain, roi=roi)


def test_masks_that_no_file_holds(slide: Path, tmp_path: Path) -> None:
    with open_slide(slide) as opened:
        tissue = TissueMask(mask=np.ones((7, 9), dtype=np.bool_), method="file")
        heat = store_heatmap(
            make_heatmap(opened, colour_model(), tissue=tissue), tmp_path / "file.zarr"
        )
        with pytest.raises(MaskError, match="a mask made in Python"):
            replay_settings(heat)
        tissue = TissueMask(mask=np.ones((7, 9), dtype=np.bool_), method="own")
        heat = store_heatmap(
            make_heatmap(opened, colour_model(), tissue=tissue), tmp_path / "own.zarr"
        )
        with pytest.raises(StoreError, match="tissue method 'own'"):
            replay_settings(heat)


def test_what_is_kept_and_what_is_not(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heat = scored(slide, tmp_path / "heat.zarr")
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    assert replay_heatmap(heat, slide, colour_model()).equal
    assert list(room.iterdir()) == []
    for out in (heat.path, tmp_path / "again.zarr"):
        if not out.exists():
            replay_heatmap(heat, slide, colour_model(), out=out)
        with pytest.raises(OutputExistsError, match="finished heatmap already"):
            replay_heatmap(heat, slide, colour_model(), out=out)
    with pytest.raises(HistoslideError, match="leave out --out or --sample"):
        replay_heatmap(heat, slide, colour_model(), out=tmp_path / "new.zarr", sample=1)
    with pytest.raises(HistoslideError, match="--sample must be at least 1 block, not 0"):
        replay_heatmap(heat, slide, colour_model(), sample=0)


def test_versions_that_differ_are_said(slide: Path, tmp_path: Path) -> None:
    heat = scored(slide, tmp_path / "heat.zarr")
    group = zarr.open_group(heat.path, mode="r+")
    facts: Any = dict(group.attrs)["histoslide"]
    facts["versions"]["torch"], facts["device"] = "1.0", "cuda"
    group.attrs["histoslide"] = facts
    for sample in (None, 1):
        comparison = replay_heatmap(open_heatmap(heat.path), slide, colour_model(), sample=sample)
        assert comparison.equal
        assert [(d.name, d.a) for d in comparison.origins] == [("device", "cuda"), ("torch", "1.0")]


def test_the_command(
    slide: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heat, model = str(tmp_path / "heat.zarr"), ["--model", str(small_bundle)]
    options = ["--tissue", "none", "--stride", "64", "--no-overlay", "--no-lesions", "--quiet"]
    assert main(["score", str(slide), "--out", heat, *model, *options]) == 0
    capsys.readouterr()
    assert main(["replay", heat, *model]) == 2
    assert "a.tif does not exist: pass --slide" in capsys.readouterr().err
    shutil.copy(slide, tmp_path / "a.tif")
    assert find_slide(open_heatmap(Path(heat))) == tmp_path / "a.tif"
    assert main(["replay", heat]) == 2
    assert "but the bundle that ships has sha256" in capsys.readouterr().err
    assert main(["replay", heat, *model, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["equal"], document["origins"]) == (True, [])
    alter(open_heatmap(Path(heat)), 2, 3, 0.0)
    assert main(["replay", heat, *model, "--slide", str(slide)]) == 3
    assert "different: 1 probabilities and 0 statuses" in capsys.readouterr().out
    assert main(["replay", heat, *model, "--tolerance", "1"]) == 0
    assert main(["replay", heat, *model, "--seed", "-1"]) == 2
