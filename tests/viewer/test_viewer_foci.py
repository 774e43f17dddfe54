"""Foci at the settings that the page asks for: as ``find_lesions`` finds them, within limits."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heatmaps import stored_heatmap
from starlette.testclient import TestClient

from histoslide.lesions import LesionSettings, find_lesions, write_lesions
from histoslide.viewer import foci
from histoslide.viewer.catalogue import Catalogue
from histoslide.viewer.server import create_app

ADDRESS = "/word/api/heatmaps/h/foci/0"


@pytest.fixture
def heat(tmp_path: Path) -> Any:
    """Three foci in a row: 0.95, and beside it 0.6 and 0.3 with a cell between each."""
    values = np.full((20, 30), 0.1, np.float32)
    values[5:8, 4:8], values[5:8, 9:12], values[15, 20] = 0.95, 0.6, 0.3
    return stored_heatmap(tmp_path / "h.zarr", values)


@pytest.fixture
def web(heat: Any) -> TestClient:
    app = create_app(Catalogue([heat.path]), token="word")
    return TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False)


def write_tables(heat: Any, settings: LesionSettings) -> None:
    stem = heat.path.with_name("h-lesions")
    write_lesions(find_lesions(heat, settings), stem.with_suffix(".csv"), stem.with_suffix(".json"))


@pytest.mark.parametrize(
    ("query", "settings"),
    [
        ("", {}),
        ("extend_probability=0.2&seed_probability=0.25", {"extend": 0.2, "seed": 0.25}),
        ("extend_probability=0.9", {"extend": 0.9, "seed": 0.9}),  # the seed is raised
        ("join_gap_um=0&seed_probability=0.5", {"gap": 0, "seed": 0.5}),
        ("smoothing_um=60.5&min_cells=2", {"smoothing": 60.5, "cells": 2}),
    ],
)
def test_foci_are_those_of_find_lesions(
    web: TestClient, heat: Any, query: str, settings: dict[str, float]
) -> None:
    names = {
        "extend": "extend_probability", "seed": "seed_probability", "gap": "join_gap_um",
        "smoothing": "smoothing_um", "cells": "min_cells",
    }  # fmt: skip
    wanted = LesionSettings(**{names[k]: v for k, v in settings.items()})  # type: ignore[arg-type]
    report = find_lesions(heat, wanted)
    got = web.get(f"{ADDRESS}?{query}").json()
    assert [it["longest_diameter_um"] for it in got["lesions"]] == pytest.approx(
        [it.longest_diameter_um for it in report.lesions], abs=1e-5
    )
    assert got["settings"] == {name: getattr(wanted, name) for name in names.values()}
    assert got["recorded"]["extend_probability"] == 0.5
    assert got["tables"] is None


def test_a_lower_threshold_finds_more(web: TestClient) -> None:
    few = web.get(f"{ADDRESS}?extend_probability=0.7").json()["lesions"]
    many = web.get(f"{ADDRESS}?extend_probability=0.2&seed_probability=0.2&join_gap_um=0").json()
    assert [it["cells"] for it in few] == [12]
    assert sorted(it["cells"] for it in many["lesions"]) == [1, 9, 12]


def test_what_the_tables_beside_a_heatmap_were_found_with_is_told(
    web: TestClient, heat: Any
) -> None:
    write_tables(heat, LesionSettings(extend_probability=0.25, seed_probability=0.3))
    got = web.get(ADDRESS).json()
    assert got["tables"] == "h-lesions.csv"
    assert got["settings"] == got["recorded"]
    assert got["recorded"]["extend_probability"] == 0.25
    assert len(got["lesions"]) == 2
    assert web.get("/word/api/heatmaps/h").json()["threshold"] == 0.25
    other = web.get(f"{ADDRESS}?extend_probability=0.5&seed_probability=0.84").json()
    assert (other["tables"], len(other["lesions"])) == ("h-lesions.csv", 1)
    assert other["recorded"] == got["recorded"]


@pytest.mark.parametrize("damage", ["another heatmap", "{", "[]", '{"notice": 1}'])
def test_tables_of_something_else_are_none(web: TestClient, heat: Any, damage: str) -> None:
    write_tables(heat, LesionSettings(extend_probability=0.25, seed_probability=0.3))
    path = heat.path.with_name("h-lesions.json")
    text = path.read_text().replace(heat.id, "x") if damage == "another heatmap" else damage
    path.write_text(text)
    got = web.get(ADDRESS).json()
    assert (got["tables"], got["recorded"]["extend_probability"]) == (None, 0.5)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("extend_probability=0", "above 0"),
        ("extend_probability=nan", "above 0"),
        ("extend_probability=0.9&seed_probability=0.5", "must not exceed the seed"),
        ("extend_probability=x", "must be a number"),
        ("extend_probability=inf", "at most"),
        ("smoothing_um=501", "500 at most"),
        ("smoothing_um=-1", "0 µm or more"),
        ("join_gap_um=1e300", "500 at most"),
        ("min_cells=0", "at least 1"),
        ("min_cells=1.5", "must be a number"),
        (f"min_cells={'9' * 5000}", "must be a number"),
        ("min_cells=10001", "at most"),
        ("score_cells=4", "no setting"),
        ("class_name=tumour", "no setting"),
        ("min_cells=1&min_cells=2", "given twice"),
        (f"{'x' * 900}=1", "no setting"),
    ],
)
def test_senseless_settings_are_refused_in_one_line(web: TestClient, query: str, said: str) -> None:
    answer = web.get(f"{ADDRESS}?{query}")
    assert answer.status_code == 422
    assert said in answer.json()["error"]
    assert len(answer.json()["error"]) < 200
    assert "content-security-policy" in answer.headers
    assert web.get(f"/word2/api/heatmaps/h/foci/0?{query}").status_code == 404


def test_the_longest_of_very_many_are_listed(
    web: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foci, "MOST_FOCI", 2)
    query = "extend_probability=0.2&seed_probability=0.2&join_gap_um=0"
    got = web.get(f"{ADDRESS}?{query}").json()
    assert [it["cells"] for it in got["lesions"]] == [12, 9]
    assert "Only the 2 longest of 3" in got["notes"][0]


def test_settings_that_were_asked_for_are_kept_and_the_rest_found_one_by_one(
    web: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, most, calls = 0, 0, 0
    counting, real = threading.Lock(), find_lesions

    def slow(*given: Any) -> Any:
        nonlocal at_once, most, calls
        with counting:
            at_once, calls = at_once + 1, calls + 1
            most = max(most, at_once)
        try:
            return real(*given)
        finally:
            with counting:
                at_once -= 1

    monkeypatch.setattr(foci, "find_lesions", slow)
    with web:  # one event loop for all
        pages = [
            threading.Thread(
                target=web.get, args=(f"{ADDRESS}?extend_probability={0.1 + i / 100:.2f}",)
            )
            for i in range(6)
        ]
        for page in pages:
            page.start()
        for page in pages:
            page.join()
        assert (most, calls) == (1, 6)
        first = web.get(f"{ADDRESS}?extend_probability=0.10")
        assert calls == 6
        tag = {"if-none-match": first.headers["etag"]}
        assert web.get(f"{ADDRESS}?extend_probability=0.10", headers=tag).status_code == 304
