"""Typed records: the same value comes back, and nothing else gets in."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from histoslide.errors import DataError, HistoslideError
from histoslide.storage.records import (
    ABSENT,
    Absent,
    FileName,
    Number,
    Positive,
    Share,
    Whole,
    from_builtins,
    from_json,
    from_toml,
    to_builtins,
    to_json,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A part."""

    size: tuple[int, int]
    share: float | None = None

    def __post_init__(self) -> None:
        if self.share is not None and self.share > 1:
            raise DataError(f"share must lie in 0-1, not {self.share}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A whole."""

    name: str
    kind: Literal["a", "b"]
    parts: dict[str, Inner] = field(default_factory=dict)


WHOLE = Outer(name="Ä", kind="a", parts={"x": Inner(size=(1, 2), share=0.5)})


def test_what_is_written_is_read() -> None:
    assert from_json(to_json(WHOLE), Outer, source="r.json") == WHOLE
    assert from_builtins(to_builtins(WHOLE), Outer, source="r.json") == WHOLE
    assert to_builtins(WHOLE) == json.loads(to_json(WHOLE))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"{", "not JSON: Expecting"),
        (b"\xff\xfe", "not JSON"),
        (b'{"name": 3, "kind": "a"}', r"\$\.name"),
        (b'{"name": "n", "kind": "c"}', r"\$\.kind"),
        (b'{"name": "n", "kind": "a", "parts": {"x": {"size": [1]}}}', r"\$\.parts"),
        (b'{"name": "n", "kind": "a", "parts": {"x": {"size": [1, 1e400]}}}', r"\$\.parts"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"name": "n", "kind": "a", "more": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"name": "\x00", "kind": "a"}', "invalid|control"),
    ],
)
def test_what_does_not_fit_is_one_line(raw: bytes, said: str) -> None:
    with pytest.raises(DataError, match=rf"(?is)^r\.json cannot be read: .*({said})") as caught:
        from_json(raw, Outer, source="r.json", error=DataError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("name = ", "invalid value"),
        (b"\xff\xfe", "utf-8"),
        ("name = 3\nkind = 'a'", r"\$\.name"),
        ("name = 'n'\nkind = 'a'\nmore = " + "[" * 100_000, "nested too deeply"),
        ("name = 'n'\nkind = 'a\0'", "(illegal|invalid) character"),
    ],
)
def test_toml_is_read_as_strictly(raw: bytes | str, said: str) -> None:
    with pytest.raises(DataError, match=rf"(?is)^r\.toml cannot be read: .*({said})") as caught:
        from_toml(raw, Outer, source="r.toml", error=DataError)
    assert "\n" not in str(caught.value)


def test_toml_is_read() -> None:
    text = "name = 'Ä'\nkind = 'a'\nparts.x = {size = [1, 2], share = 0.5}"
    assert from_toml(text, Outer, source="r.toml") == WHOLE


def test_names_that_are_no_text_can_be_written() -> None:
    text = to_json({"file": "\udc80", "lines": (1, 2)}, indent=None, ascii_only=True)
    assert text.encode() == b'{"file": "\\udc80", "lines": [1, 2]}'


def test_a_records_own_checks_are_run() -> None:
    with pytest.raises(HistoslideError, match="share must lie in 0-1, not 2"):
        from_json(
            b'{"name": "n", "kind": "a", "parts": {"x": {"size": [1, 2], "share": 2}}}',
            Outer,
            source="r.json",
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Numbers, a name, and what need not be there."""

    name: FileName = "x"
    count: Whole = 1
    size: Positive = 1
    share: Share = 0
    any_number: Number = 0
    note: str | Absent | None = ABSENT


@pytest.mark.parametrize("number", [1, 1.0, 0.5])
def test_a_number_is_written_as_it_was_read(number: float) -> None:
    text = to_json(Measured(size=number, share=number, any_number=number))
    assert to_json(from_json(text, Measured, source="r.json")) == text


def test_a_field_that_is_absent_is_not_null() -> None:
    assert "note" not in to_builtins(Measured())
    assert to_builtins(Measured(note=None))["note"] is None
    assert from_json(b'{"note": null}', Measured, source="r.json").note is None
    assert from_json(b"{}", Measured, source="r.json").note is ABSENT


@pytest.mark.parametrize(
    "wrong",
    [{"name": "a/b"}, {"name": ""}, {"count": 0}, {"size": 0}, {"size": -0.5}, {"share": 1.01}],
)
def test_numbers_and_names_have_bounds(wrong: dict[str, object]) -> None:
    with pytest.raises(DataError, match="cannot be read: Expected"):
        from_builtins(wrong, Measured, source="r.json", error=DataError)


def test_the_numbers_of_numpy_are_numbers() -> None:
    numpy_numbers: Any = {"size": np.float64(0.1), "count": np.int64(3)}
    values = Measured(**numpy_numbers)
    assert to_json(values, indent=None) == to_json(Measured(size=0.1, count=3), indent=None)
    with pytest.raises(NotImplementedError, match="cannot hold a complex"):
        to_builtins(Outer(name="n", kind="a", parts={"x": 1j}))  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"name": "n", "kind": "a", "more": 1}, r"\$\.more"),
        (
            {"name": "n", "kind": "a", "parts": {"x": {"size": [1, 2], "more": {}}}},
            r"\$\.parts\.x\.more",
        ),
    ],
)
def test_what_would_be_lost_is_refused_when_asked(content: dict[str, Any], place: str) -> None:
    assert from_builtins(content, Outer, source="r.json").name == "n"
    with pytest.raises(DataError, match=f"^r.json cannot be read: `{place}` is unknown"):
        from_builtins(content, Outer, source="r.json", error=DataError, exact=True)
    with pytest.raises(DataError, match=place):
        from_json(to_json(content), Outer, source="r.json", error=DataError, exact=True)


def test_names_that_are_no_unicode_come_back() -> None:
    record = Outer(name="sch\udcfcfer.tif", kind="a")
    text = to_json(record, ascii_only=True)
    assert from_json(text.encode("ascii"), Outer, source="r.json", exact=True) == record
