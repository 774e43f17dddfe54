"""Masks and regions from files: what is read, what it marks, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from fakes import FakeSlide
from numpy.typing import NDArray
from PIL import Image

from histoslide.annotations.class_map import Role
from histoslide.annotations.polygon_areas import PolygonAreas
from histoslide.annotations.reading import read_annotations
from histoslide.errors import MaskError
from histoslide.geometry import Mpp
from histoslide.tissue.mask_files import read_mask
from histoslide.tissue.masks import MASK_UM

OVERVIEW = Mpp(value=MASK_UM, source="test")
"""Masks of such slides have their level-0 pixels."""


def glass(width: int, height: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 243, dtype=np.uint8)


def test_a_mask_from_a_png(tmp_path: Path) -> None:
    slide = FakeSlide([glass(200, 160)], mpp=OVERVIEW)
    wanted = np.zeros((80, 100), dtype=bool)
    wanted[10:30, 20:70] = True
    for mode, value in (("L", 255), ("L", 1), ("1", 1), ("RGB", 255)):
        path = tmp_path / f"{mode}{value}.png"
        image = Image.fromarray(wanted.astype(np.uint8) * 255).convert(mode)
        if value == 1 and mode == "L":
            image = Image.fromarray(wanted.astype(np.uint8))
        image.save(path)
        found = read_mask(path, slide)
        np.testing.assert_array_equal(found.mask, wanted)
        assert (found.method, found.settings) == ("file", {"file": path.name})


@pytest.mark.parametrize(("width", "height"), [(100, 100), (160, 200), (90, 80)])
def test_a_mask_out_of_proportion_is_refused(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "mask.png"
    Image.new("L", (width, height)).save(path)
    with pytest.raises(MaskError, match=rf"{width}×{height} px.*proportion to fake \(200×160\)"):
        read_mask(path, FakeSlide([glass(200, 160)], mpp=OVERVIEW))


def test_unreadable_masks_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = FakeSlide([glass(200, 160)], mpp=OVERVIEW)
    whole = tmp_path / "whole.png"
    Image.fromarray(glass(100, 80)).save(whole)
    content = whole.read_bytes()
    for cut in (0, 5, 20, 60, len(content) // 2, len(content) - 30):
        path = tmp_path / "cut.png"
        path.write_bytes(content[:cut])
        with pytest.raises(MaskError, match=r"cut\.png is neither a picture that can be read nor"):
            read_mask(path, slide)
    with pytest.raises(MaskError, match=r"none\.png cannot be read"):
        read_mask(tmp_path / "none.png", slide)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses twice as many
    with pytest.raises(MaskError, match=r"whole\.png is neither a picture that can be read"):
        read_mask(whole, slide)


def test_a_mask_from_geojson(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slide = FakeSlide([np.full((640, 800, 3), 240, np.uint8)], mpp=Mpp(value=1.0, source="test"))
    ring = [[80, 160], [400, 160], [400, 480], [80, 480], [80, 160]]
    path = tmp_path / "roi.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    found = read_mask(path, slide)
    wanted = np.zeros((80, 100), dtype=bool)
    wanted[20:60, 10:50] = True
    np.testing.assert_array_equal(found.mask, wanted)
    assert (found.method, found.settings) == ("file", {"file": "roi.geojson"})
    assert not caplog.messages
    elsewhere = [[x + 800, y] for x, y in ring]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [elsewhere]}))
    assert not read_mask(path, slide).mask.any()
    assert "roi.geojson marks nothing on fake" in caplog.messages[0]
    path.write_text("{}")
    with pytest.raises(MaskError, match=r"roi\.geojson is not valid GeoJSON"):
        read_mask(path, slide)


ASAP_GROUPS = {"Tumor": (100, 100, 500, 500), "Exclusion": (200, 200, 300, 300)}


def asap(groups: dict[str, tuple[int, int, int, int]]) -> str:
    drawn = ""
    for group, (left, top, right, bottom) in groups.items():
        corners = ((left, top), (right, top), (right, bottom), (left, bottom))
        points = "".join(
            f'<Coordinate Order="{order}" X="{x}" Y="{y}"/>' for order, (x, y) in enumerate(corners)
        )
        drawn += (
            f'<Annotation Name="{group}" Type="Polygon" PartOfGroup="{group}">'
            f"<Coordinates>{points}</Coordinates></Annotation>"
        )
    return f"<ASAP_Annotations><Annotations>{drawn}</Annotations></ASAP_Annotations>"


def classed(groups: dict[str, tuple[int, int, int, int]]) -> str:
    features = []
    for name, (left, top, right, bottom) in groups.items():
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        features.append(
            {
                "type": "Feature",
                "properties": {"classification": {"name": name}},
                "geometry": {"type": "Polygon", "coordinates": [ring]},
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features})


def positive_negative(groups: dict[str, tuple[int, int, int, int]]) -> str:
    kinds: dict[str, list[dict[str, Any]]] = {"positive": [], "negative": []}
    for name, (left, top, right, bottom) in groups.items():
        vertices = [[left, top], [right, top], [right, bottom], [left, bottom]]
        kind = "positive" if name == "Tumor" else "negative"
        kinds[kind].append({"name": name, "vertices": vertices})
    return json.dumps(kinds)


@pytest.mark.parametrize("write", [asap, classed, positive_negative])
@pytest.mark.parametrize("name", ["region.xml", "region.geojson", "region"])
def test_a_region_may_be_drawn_in_any_format_of_annotations(
    tmp_path: Path, write: Callable[[dict[str, tuple[int, int, int, int]]], str], name: str
) -> None:
    """What a file holds says what it is, not its name; what is drawn as a hole is one."""
    slide = FakeSlide([np.full((640, 800, 3), 240, np.uint8)], mpp=Mpp(value=1.0, source="test"))
    path = tmp_path / name
    path.write_text(write(ASAP_GROUPS))
    wanted = np.zeros((640, 800), dtype=bool)
    wanted[100:500, 100:500] = True
    wanted[200:300, 200:300] = False
    found = read_mask(path, slide)
    shown = np.repeat(np.repeat(found.mask, 8, axis=0), 8, axis=1)
    assert (shown != wanted).mean() < 0.02
    left_out = "negative" if write is positive_negative else "Exclusion"
    assert found.settings["left_out"] == [left_out]


def test_classes_of_a_region_are_all_taken_but_those_that_say_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    slide = FakeSlide([np.full((640, 800, 3), 240, np.uint8)], mpp=Mpp(value=1.0, source="test"))
    whole = {"Stroma": (0, 0, 400, 640), "Normal": (400, 0, 800, 640), "None": (0, 0, 8, 8)}
    path = tmp_path / "classes.geojson"
    path.write_text(classed(whole))
    found = read_mask(path, slide)
    assert found.mask.all()
    assert found.settings == {
        "file": "classes.geojson",
        "classes": ["Stroma", "Normal"],
        "left_out": [],
    }
    assert caplog.messages == ["classes.geojson: takes Stroma, Normal"]
    path.write_text(classed({**whole, "Ignore*": (400, 0, 800, 640)}))
    assert read_mask(path, slide).mask.mean() == 0.5
    assert caplog.messages[-1] == "classes.geojson: takes Stroma, Normal, without Ignore*"
    path.write_text(classed({"Ignore*": (400, 0, 800, 640)}))
    found = read_mask(path, slide)
    assert not found.mask.any()
    assert "marks nothing: all that is drawn is of classes that are left out" in found.warnings[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"type": "FeatureCollection", "features": []}', "holds no polygon at all"),
        ('{"type": "Point", "coordinates": [1, 2]}', "holds no polygon at all"),
        ('{"type":"Polygon","coordinates":[[[0,0],[2,2],[1,1]]]}', "no polygon with an area"),
        ("<Annotations/>", "is not ASAP's XML: its first element is <Annotations>"),
        ("x,y\n1,2\n", "neither a picture that can be read nor polygons"),
    ],
)
def test_a_file_that_draws_nothing_is_refused(tmp_path: Path, content: str, says: str) -> None:
    slide = FakeSlide([glass(200, 160)], mpp=OVERVIEW)
    (tmp_path / "region").write_text(content)
    with pytest.raises(MaskError, match=rf"region .*{says}"):
        read_mask(tmp_path / "region", slide)


def test_polygons_that_were_mended_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slide = FakeSlide([glass(200, 160)], mpp=OVERVIEW)
    line, square = [[0, 0], [2, 2], [1, 1]], [[10, 10], [90, 10], [90, 90]]
    polygons = {"type": "MultiPolygon", "coordinates": [[line], [square]]}
    (tmp_path / "a.geojson").write_text(json.dumps(polygons))
    read_mask(tmp_path / "a.geojson", slide)
    assert caplog.messages == ["a.geojson: 1 polygons without an area left out"]


def test_palette_masks_go_by_index(tmp_path: Path) -> None:
    """Index 0 is background even where the palette paints it white."""
    image = Image.new("P", (100, 50), 0)
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.paste(1, (50, 0, 100, 50))
    image.save(tmp_path / "mask.png")
    slide = FakeSlide([glass(200, 100)], mpp=OVERVIEW)
    found = read_mask(tmp_path / "mask.png", slide)
    assert not found.mask[:, :50].any()
    assert found.mask[:, 50:].all()
    rgba = np.zeros((50, 100, 4), dtype=np.uint8)
    rgba[:, :30] = (0, 0, 1, 255)
    rgba[:, 30:60] = (255, 255, 255, 0)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    found = read_mask(tmp_path / "rgba.png", slide)
    assert found.mask[:, :30].all()
    assert not found.mask[:, 30:].any()


def test_lesions_of_camelyon_serve_as_regions(real_data: Path) -> None:
    for name in ("Tumor_017.json", "patient_004_node_4.xml"):
        path = real_data / "annotations" / name
        drawn = read_annotations(path)
        right, bottom = np.concatenate([it.polygon.outline for it in drawn.items]).max(axis=0)
        white = np.broadcast_to(np.uint8(255), (int(bottom) + 500, int(right) + 500, 3))
        slide = FakeSlide([white], mpp=Mpp(value=0.243, source="test"))
        um2 = read_mask(path, slide).tissue_share * white.shape[0] * white.shape[1] * 0.243**2
        areas, _ = PolygonAreas.of([(it.polygon, Role.TUMOUR) for it in drawn.items], slide.size_l0)
        exact = shapely.area(areas.shapes[Role.TUMOUR]) * 0.243**2
        assert um2 == pytest.approx(exact, rel=0.05), name
