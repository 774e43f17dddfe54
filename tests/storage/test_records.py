"""Typed records: the same value comes back, and nothing else gets in."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from histoslide.errors import DataError, HistoslideError
from histoslide.storage.records import from_builtins, from_json, from_toml, to_builtins, to_json


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


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"{", "truncated"),
        (b"\xff\xfe", "invalid|utf-8"),
        (b'{"name": 3, "kind": "a"}', r"\$\.name"),
        (b'{"name": "n", "kind": "c"}', r"\$\.kind"),
        (b'{"name": "n", "kind": "a", "parts": {"x": {"size": [1]}}}', r"\$\.parts"),
        (b'{"name": "n", "kind": "a", "parts": {"x": {"size": [1, 1e400]}}}', "out of range"),
        (b"[" * 100_000, "nested|Expected"),
        (b'{"name": "n", "kind": "a", "more": ' + b"[" * 100_000, r"nested|truncated"),
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
        ("name = 'n'\nkind = 'a\0'", "illegal character"),
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
