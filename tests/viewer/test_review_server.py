"""The one address that changes something: what it takes, and from whom."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from heatmaps import stored_heatmap
from histoslide_cli.main import main
from starlette.testclient import TestClient

from histoslide.errors import LockedError, ReviewError
from histoslide.geometry import Box
from histoslide.review import read_review
from histoslide.viewer.catalogue import Catalogue
from histoslide.viewer.reviews import Reviews
from histoslide.viewer.server import MAX_BODY, create_app

ADDRESS = "/t/api/heatmaps/h/review"
HOST = "127.0.0.1:8000"
FROM_THE_PAGE = {"origin": f"http://{HOST}", "content-type": "application/json"}
RING: list[list[float]] = [[10, 10], [200, 20], [150, 220.5]]


def shape(**other: Any) -> dict[str, Any]:
    return {"class_name": "Tumor", "polygons_l0": [[RING]], "number": None, **other}


def change(number: int = 1, *, base: str | None = None, **other: Any) -> dict[str, Any]:
    return {
        "id": f"00000000-0000-0000-0000-00000000000{number}",
        "base": base,
        "to": shape(),
        **other,
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    values = np.full((8, 10), 0.1, np.float32)
    values[2:5, 3:8] = 0.97
    stored_heatmap(tmp_path / "h.zarr", values, quickhash="one")
    return tmp_path / "review.geojson"


def client(review: Path | None, *paths: Path) -> TestClient:
    catalogue = Catalogue(list(paths))
    reviews = None if review is None else Reviews(review, catalogue)
    app = create_app(catalogue, token="t", reviews=reviews)
    return TestClient(app, base_url=f"http://{HOST}")


@pytest.fixture
def web(file: Path) -> TestClient:
    return client(file, file.parent / "h.zarr")


def post(web: TestClient, message: object, **headers: str) -> Any:
    return web.post(ADDRESS, content=json.dumps(message), headers=FROM_THE_PAGE | headers)


def features(file: Path) -> list[Any]:
    return list(json.loads(file.read_text())["features"])


def test_a_change_is_in_the_file_before_it_is_answered(web: TestClient, file: Path) -> None:
    answer = post(web, change())
    assert answer.status_code == 200
    (feature,) = features(file)
    assert feature["id"] == change()["id"]
    assert feature["properties"]["objectType"] == "annotation"
    assert feature["properties"]["classification"]["name"] == "Tumor"
    assert shapely.geometry.shape(feature["geometry"]).equals(shapely.Polygon(RING))
    shown = web.get(ADDRESS).json()
    assert shown["objects"] == [answer.json()["object"]]
    assert post(web, change(to=None, base=shown["objects"][0]["version"])).json()["object"] is None
    assert features(file) == []
    assert {it.name for it in file.parent.iterdir()} == {"h.zarr", "review.geojson"}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9000"},
        {"origin": "http://localhost:8000"},
        {"origin": "https://127.0.0.1:8000"},
        {"origin": "null"},
        {"origin": ""},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"host": "evil.example"},
    ],
)
def test_only_the_page_itself_may_change_it(
    web: TestClient, file: Path, headers: dict[str, str]
) -> None:
    assert post(web, change(), **headers).status_code in (400, 403, 415)
    assert not file.exists()


def test_a_request_without_an_origin_or_the_token_is_refused(web: TestClient, file: Path) -> None:
    body = json.dumps(change())
    only = {"content-type": "application/json"}
    assert web.post(ADDRESS, content=body, headers=only).status_code == 403
    for path in (ADDRESS.removeprefix("/t"), ADDRESS.replace("/t/", "/u/")):
        assert web.post(path, content=body, headers=FROM_THE_PAGE).status_code == 404
    for method in ("PUT", "PATCH", "DELETE"):
        assert web.request(method, ADDRESS, headers=FROM_THE_PAGE).status_code == 405
    assert web.options(ADDRESS, headers=FROM_THE_PAGE).status_code == 405
    assert not file.exists()


def test_without_a_review_nothing_can_be_changed(file: Path) -> None:
    web = client(None, file.parent / "h.zarr")
    assert post(web, change()).status_code == 404
    assert web.get(ADDRESS).status_code == 404
    assert web.get("/t/api/heatmaps/h").json()["review"] is None


@pytest.mark.parametrize(
    "message",
    [
        "{",
        "[]",
        "null",
        '"a"',
        "[" * 5000,
        json.dumps(change(id="short")),
        json.dumps(change(id="a\n" * 20)),
        json.dumps(change(to=shape(class_name=""))),
        json.dumps(change(to=shape(class_name="x" * 300))),
        json.dumps(change(to=shape(polygons_l0=[]))),
        json.dumps(change(to=shape(polygons_l0=[[]]))),
        json.dumps(change(to=shape(polygons_l0=[[[]]]))),
        json.dumps(change(to=shape(polygons_l0=[[RING[:2]]]))),
        json.dumps(change(to=shape(polygons_l0=[[[[1, 1], [2, 2], [3, 3]]]]))),
        json.dumps(change(to=shape(polygons_l0=[[[[1, 1], [2, float("nan")], [3, 1]]]]))),
        json.dumps(change(to=shape(polygons_l0=[[[[1, 1], [2, float("inf")], [3, 1]]]]))),
        json.dumps(change(to=shape(polygons_l0=[[[[-9, -9], [-5, -9], [-5, -5]]]]))),
        json.dumps(change(to=shape(number=1))),
        json.dumps(change(to=shape(polygons_l0=[[[[i % 9, i % 7] for i in range(200_001)]]]))),
    ],
)
def test_nonsense_is_refused_in_one_line(web: TestClient, file: Path, message: str) -> None:
    answer = web.post(ADDRESS, content=message, headers=FROM_THE_PAGE)
    assert answer.status_code == 422
    assert "\n" not in answer.json()["error"]
    assert not file.exists()


def test_what_is_too_long_is_not_read_to_the_end(web: TestClient, file: Path) -> None:
    answer = web.post(ADDRESS, content=b" " * (MAX_BODY + 1), headers=FROM_THE_PAGE)
    assert answer.status_code == 413
    assert not file.exists()


def test_a_change_of_what_has_changed_since_is_refused(web: TestClient, file: Path) -> None:
    first = post(web, change()).json()["object"]
    normal = change(base=first["version"], to=shape(class_name="Normal"))
    second = post(web, normal).json()["object"]
    assert second["version"] != first["version"]
    late = post(web, change(base=first["version"], to=None))
    assert late.status_code == 409
    assert late.json()["object"] == second
    assert post(web, change(base=None, to=shape(class_name="Ignore*"))).status_code == 409
    assert post(web, normal).status_code == 200, "asked again, because the answer was lost"
    assert post(web, change(2)).status_code == 200, "other objects are nobody's concern"
    gone = post(web, change(3, base=first["version"]))
    assert (gone.status_code, gone.json()["object"]) == (409, None)
    assert len(features(file)) == 2


def test_what_other_programs_write_is_kept(web: TestClient, file: Path) -> None:
    version = post(web, change()).json()["object"]["version"]
    document = json.loads(file.read_text())
    point = {
        "type": "Feature", "geometry": {"type": "Point", "coordinates": [5, 6]},
        "properties": {"objectType": "annotation", "name": "here"},
    }  # fmt: skip
    cell = {
        "type": "Feature", "id": "x", "properties": {"objectType": "detection"},
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]},
    }  # fmt: skip
    document["features"][0]["properties"] |= {"measurements": {"Area": 7.5}, "name": "mine"}
    document["features"][0]["properties"]["metadata"] = {"ANNOTATION_DESCRIPTION": "seen"}
    # As QuPath writes: a bare collection, what else was there is gone.
    text = {"type": "FeatureCollection", "features": [point, *document["features"], cell]}
    file.write_text(json.dumps(text))
    assert post(web, change(base=version, to=shape(class_name="Normal"))).status_code == 200
    assert post(web, change(2)).status_code == 200
    kept, _, *others = features(file)
    assert others == [point, cell]
    assert kept["properties"]["classification"]["name"] == "Normal"
    assert kept["properties"]["measurements"] == {"Area": 7.5}
    assert kept["properties"]["name"] == "mine"
    assert kept["properties"]["metadata"] == {"ANNOTATION_DESCRIPTION": "seen"}


def test_a_file_that_is_damaged_meanwhile_is_not_written(web: TestClient, file: Path) -> None:
    post(web, change())
    file.write_text("{")
    answer = post(web, change(2))
    assert answer.status_code == 503
    assert "is not JSON" in answer.json()["error"]
    assert file.read_text() == "{"


def test_a_focus_is_the_one_that_was_found(web: TestClient, file: Path) -> None:
    (focus,) = web.get("/t/api/heatmaps/h/foci/0").json()["lesions"]
    asked = {"id": focus["id"], "base": None}
    to = {"class_name": "Tumor", "polygons_l0": focus["polygons_l0"], "number": 1}
    moved = copy.deepcopy(to)
    moved["polygons_l0"][0][0][0][0] += 1
    assert post(web, {**asked, "to": moved}).status_code == 422
    answer = post(web, {**asked, "to": to}).json()["object"]
    assert answer["is_focus"]
    assert answer["polygons_l0"] == focus["polygons_l0"]
    (kept,) = read_review(file).objects
    assert kept.origin is not None
    assert kept.origin.number == 1
    assert kept.origin.heatmap_id == Catalogue([file.parent / "h.zarr"]).source("h").heat.id
    assert kept.origin.model_sha256 == "made"


def test_coordinates_count_from_where_qupath_does(tmp_path: Path) -> None:
    values = np.full((8, 10), 0.1, np.float32)
    stored_heatmap(tmp_path / "h.zarr", values, bounds_l0=Box(100, 40, 500, 500))
    web = client(tmp_path / "r.geojson", tmp_path / "h.zarr")
    assert post(web, change()).json()["object"]["polygons_l0"] == [[RING]]
    (feature,) = features(tmp_path / "r.geojson")
    moved = [[x - 100, y - 40] for x, y in RING]
    assert feature["geometry"]["coordinates"][0][:-1] == moved
    assert web.get(ADDRESS).json()["objects"][0]["polygons_l0"] == [[RING]]
    (kept,) = read_review(tmp_path / "r.geojson").objects
    assert kept.outline_l0.equals(shapely.Polygon(RING)), "the file says where it counts from"


def test_a_folder_gets_a_file_for_each_slide(file: Path, tmp_path: Path) -> None:
    values = np.full((4, 5), 0.25, np.float32)
    stored_heatmap(tmp_path / "other.zarr", values, name="other.svs", quickhash="two")
    stored_heatmap(tmp_path / "h2.zarr", np.full((8, 10), 0.2, np.float32), quickhash="one")
    web = client(tmp_path / "reviews", tmp_path)
    assert not (tmp_path / "reviews").exists()
    assert post(web, change()).status_code == 200
    other = web.post(ADDRESS.replace("/h/", "/other/"), json=change(), headers=FROM_THE_PAGE)
    assert other.status_code == 200
    names = sorted(it.name for it in (tmp_path / "reviews").iterdir())
    assert names == ["made.tif.geojson", "other.svs.geojson"]
    # another heatmap of the same slide has the same review
    again = web.get(ADDRESS.replace("/h/", "/h2/")).json()
    assert len(again["objects"]) == 1
    rows = {row["key"]: row["judged"] for row in web.get("/t/api/heatmaps").json()["heatmaps"]}
    assert rows == {"h": 1, "h2": 1, "other": 1}
    with pytest.raises(ReviewError, match=r"one file.*name a folder"):
        Reviews(tmp_path / "one.geojson", Catalogue([tmp_path]))
    with pytest.raises(ReviewError, match=r"one file.*name a folder"):
        Reviews(tmp_path / "one.json", Catalogue([tmp_path / "h.zarr", tmp_path / "other.zarr"]))
    Reviews(tmp_path / "one.json", Catalogue([tmp_path / "h.zarr", tmp_path / "h2.zarr"]))


def test_the_review_of_another_slide_is_refused(web: TestClient, file: Path) -> None:
    post(web, change())
    stored_heatmap(file.parent / "b.zarr", np.full((4, 5), 0.2, np.float32), name="b.tif")
    with pytest.raises(ReviewError, match=r"is the review of made\.tif, not of b\.tif"):
        Reviews(file, Catalogue([file.parent / "b.zarr"]))


def test_two_viewers_do_not_write_one_review(file: Path) -> None:
    catalogue = Catalogue([file.parent / "h.zarr"])
    with Reviews(file, catalogue).held():
        other = Reviews(file, catalogue)
        with pytest.raises(LockedError, match="is being written by"), other.held():
            pass
    with other.held():
        pass
    assert {it.name for it in file.parent.iterdir()} == {"h.zarr"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("[1]", "no list of features"),
        ('{"type": "FeatureCollection"}', "no list of features"),
        (
            '[{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], ["a", 1], [2, 2]]]}}]',
            "none",
        ),
        (
            '[{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [NaN, 1], [2, 2]]]}}]',
            "none",
        ),
        ('[{"geometry": {"type": "Polygon", "coordinates": []}}]', "feature 1 .*outline"),
        ('[{"properties": 3, "geometry": {"type": "Polygon", "coordinates": []}}]', "no object"),
    ],
)
def test_a_file_that_is_none_is_refused(
    file: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(text)
    command = ["view", str(file.parent / "h.zarr"), "--review", str(file), "--no-browser"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(said, error)
    assert file.read_text() == text


def test_a_name_that_is_neither_file_nor_folder_is_refused(file: Path) -> None:
    odd = file.with_name("review.txt")
    odd.write_text("")
    with pytest.raises(ReviewError, match=r"is no folder: end the name of a file in \.geojson"):
        Reviews(odd, Catalogue([file.parent / "h.zarr"]))
