"""The record of a heatmap: typed here, described in JSON Schema for others; the two agree."""

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import jsonschema
import numpy as np
import pytest
from heatmaps import stored_heatmap

from histoslide.errors import StoreError
from histoslide.geometry import Size
from histoslide.grid.status import Status
from histoslide.model import ModelSpec
from histoslide.storage.location import Location, open_group
from histoslide.storage.records import ABSENT, from_builtins, to_builtins, to_json
from histoslide.store import metadata_schema, open_heatmap
from histoslide.store.metadata import read_record, refuse_contradictions
from histoslide.store.record import CellCounts, HeatmapRecord

BEFORE = (Path(__file__).parent / "heatmap-1-written-before.json").read_text()
"""What a release wrote whose record was no value yet: a cascade in int8 with a region."""

NONE: Any = object()
"""Stands for a field that is missing."""

VALUES: tuple[Any, ...] = (
    NONE, None, True, -1, 0, 0.5, 1, 2, "x", "a/b", "exact", [], [1, 2], [0, 1], [1, 2.5, 3, 4],
    [1, 2, 3, 4, 5], ["x"], {}, {"x": 1}, {"x": "y"},
)  # fmt: skip
"""Right in some places and wrong in most."""


WITH_FIRST_LOOK = json.loads(BEFORE)
"""The same with a first look."""
WITH_FIRST_LOOK["mode"]["first_look"] = {
    "name": "light",
    "sha256": "0",
    "engine": "openvino int8",
    "ranges_sha256": "1",
    "scale": {"slope": 0.5, "shift": -1},
    "weight": 0.5,
    "certain": 0.9,
}


def places(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The way to every field, also to one that nobody knows, in each part that is closed."""
    for key, below in value.items():
        yield (*at, key)
        if isinstance(below, dict) and key not in {"fingerprint", "settings", "roi", "spec"}:
            yield from places(below, (*at, key))
    if at != ("versions",):
        yield (*at, "unknown")


def changed(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The record of before with one field replaced."""
    whole: dict[str, Any] = copy.deepcopy(WITH_FIRST_LOOK)
    part = whole
    for key in place[:-1]:
        part = part[key]
    if value is NONE:
        part.pop(place[-1], None)
    else:
        part[place[-1]] = copy.deepcopy(value)
    return whole


def is_record(content: Any) -> bool:
    try:
        from_builtins(content, HeatmapRecord, source="it", error=StoreError, exact=True)
    except StoreError:
        return False
    return True


@pytest.mark.parametrize("place", list(places(WITH_FIRST_LOOK)), ids=".".join)
def test_record_and_schema_agree_on_what_is_right(place: tuple[str, ...]) -> None:
    schema = jsonschema.Draft202012Validator(metadata_schema())
    said = [is_record(changed(place, value)) for value in VALUES]
    if place == ("model", "spec"):  # what is in it is judged where it becomes a value
        assert not any(
            ok for ok, value in zip(said, VALUES, strict=True) if type(value) is not dict
        )
        return
    for ok, value in zip(said, VALUES, strict=True):
        assert ok == schema.is_valid(changed(place, value)), value
    assert not all(said)  # each field is looked at


def test_record_and_schema_have_the_same_fields_in_the_same_order() -> None:
    def check(kind: Any, schema: dict[str, Any]) -> int:
        hints, count = get_type_hints(kind), 1
        assert list(hints) == list(schema["properties"])
        for name, below in schema["properties"].items():
            parts = [p for p in (below, *below.get("oneOf", ())) if "properties" in p]
            inner = [
                t
                for t in (hints[name], *getattr(hints[name], "__args__", ()))
                if dataclasses.is_dataclass(t)
            ]
            count += sum(
                check(t, p) for t, p in zip(inner, parts, strict=True) if t is not ModelSpec
            )
        return count

    schema = metadata_schema()
    spec = schema["properties"]["model"]["properties"]["spec"]
    assert set(spec["required"]) <= {field.name for field in dataclasses.fields(ModelSpec)}
    assert check(HeatmapRecord, schema) == 9


def test_what_was_written_before_is_read_and_written_alike() -> None:
    content = json.loads(BEFORE)
    record = from_builtins(content, HeatmapRecord, source="it", exact=True)
    assert json.dumps(to_builtins(record)) == json.dumps(content)  # also the order, 0 and not 0.0
    assert record.slide.bounds_l0 == (0, 1, 2, 3.5)
    assert record.mode.value.cascade_threshold == 0.15
    plain = json.loads(
        to_json(
            dataclasses.replace(
                record,
                model=dataclasses.replace(record.model, ranges_sha256=ABSENT),
                mode=dataclasses.replace(record.mode, mode="exact", cascade_threshold=ABSENT),
            )
        )
    )
    assert list(plain["mode"]) == ["mode", "tta"]
    assert list(plain["model"]) == ["name", "sha256", "spec"]
    jsonschema.validate(plain, metadata_schema())


def test_counts_are_of_every_status() -> None:
    assert [f.name for f in dataclasses.fields(CellCounts)] == [it.label for it in Status]
    status = np.array([[0, 1, 1], [2, 3, 4]], dtype=np.uint8)
    assert CellCounts.of(status) == CellCounts(
        pending=1, background=2, scored=1, unreadable=1, excluded=1
    )


def alter(path: Location, change: Any) -> None:
    group = open_group(path, "r+")
    found: Any = group.attrs["histoslide"]
    change(found)
    group.attrs["histoslide"] = found


def test_a_spec_that_knows_more_is_kept_word_for_word(tmp_path: Path) -> None:
    path = stored_heatmap(tmp_path / "h.zarr", np.full((5, 5), 0.25)).path
    alter(path, lambda found: found["model"]["spec"].update(stain="H&E"))
    heat = open_heatmap(path)
    assert heat.spec.classes == ("normal", "tumour")
    assert heat.record.model.spec["stain"] == "H&E"
    assert to_builtins(heat.record)["model"]["spec"]["stain"] == "H&E"


@pytest.mark.parametrize(
    ("name", "value"),
    [("classes", "normal"), ("mpp", "1"), ("mpp", -1), ("label_px", 1000), ("input_px", None)],
)
def test_a_damaged_spec_is_one_line(tmp_path: Path, name: str, value: object) -> None:
    path = stored_heatmap(tmp_path / "h.zarr", np.full((5, 5), 0.25)).path
    alter(path, lambda found: found["model"]["spec"].update({name: value}))
    with pytest.raises(StoreError, match=r"h\.zarr has damaged metadata") as caught:
        open_heatmap(path)
    assert "\n" not in str(caught.value)


def test_a_field_that_nobody_knows_is_named(tmp_path: Path) -> None:
    path = stored_heatmap(tmp_path / "h.zarr", np.full((5, 5), 0.25)).path
    alter(path, lambda found: found["grid"].update(pitch=1))
    with pytest.raises(StoreError, match=r"damaged metadata and cannot be read: `\$\.grid\.pitch`"):
        read_record(path)


def test_a_claim_of_cells_that_no_slide_has_is_refused(tmp_path: Path) -> None:
    """Before an array of that size is read, which would take a terabyte."""
    heat = stored_heatmap(tmp_path / "heat.zarr", np.full((5, 5), 0.25))
    grid = dataclasses.replace(heat.grid, size_l0=Size(10**9, 10**9))
    with pytest.raises(
        StoreError, match=r"heat\.zarr claims [0-9,]+ × [0-9,]+ cells, which no slide"
    ):
        refuse_contradictions(heat.path, heat.record, grid)
