"""Records in files: typed values written and read in one way, whatever a file claims to hold.

A record is a frozen dataclass. What is read is checked against its types at every depth, and its
own checks (``__post_init__``) run, before anything is believed; what does not fit is one line that
names the file and the place in it.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from histoslide.errors import HistoslideError

Record = TypeVar("Record")

Absent: TypeAlias = msgspec.UnsetType
ABSENT = msgspec.UNSET
"""Of a field that is left out of the file, which null would not be."""

Count = Annotated[int, msgspec.Meta(ge=0)]
"""A whole number from 0 on."""
Whole = Annotated[int, msgspec.Meta(ge=1)]
"""A whole number from 1 on."""

# What was written as a whole number is read as one, and so written as it was.
Number = int | float
"""Any number."""
Positive = Annotated[int, msgspec.Meta(gt=0)] | Annotated[float, msgspec.Meta(gt=0)]
"""A number above 0."""
NotNegative = Annotated[int, msgspec.Meta(ge=0)] | Annotated[float, msgspec.Meta(ge=0)]
"""A number from 0 on."""
Share = Annotated[int, msgspec.Meta(ge=0, le=1)] | Annotated[float, msgspec.Meta(ge=0, le=1)]
"""A number in 0-1."""
FileName = Annotated[str, msgspec.Meta(pattern="^[^/]+$")]
"""A name without a folder."""

DEEPEST = 64
"""Levels of nesting that are read: far more than any record has, and few enough for whatever goes
through them level by level."""

_UNFIT = (msgspec.MsgspecError, RecursionError, UnicodeError, OverflowError)
"""How content fails that is not what it should be: of another type, nested without end, no text."""


def to_builtins(record: object) -> Any:
    """A record as what JSON knows: dicts, lists, strings, numbers, booleans and None."""
    return _with_lists(msgspec.to_builtins(record, str_keys=True, enc_hook=_python_number))


def _python_number(value: object) -> int | float:
    """NumPy's numbers as Python's."""
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise NotImplementedError(f"a record cannot hold a {type(value).__name__}")


def to_json(record: object, *, indent: int | None = 2, ascii_only: bool = False) -> str:
    """A record as JSON text, with a line break at its end where it is indented.

    Args:
        record: a record, or what JSON knows.
        indent: spaces a level; None for one line.
        ascii_only: escape everything else, as records need that name files: a file's name need
            not be text.
    """
    text = json.dumps(to_builtins(record), indent=indent, ensure_ascii=ascii_only)
    return text if indent is None else text + "\n"


def from_builtins(
    content: Any,
    kind: type[Record],
    *,
    source: object,
    error: type[HistoslideError] = HistoslideError,
    exact: bool = False,
) -> Record:
    """A record from what JSON or TOML made of a file.

    Args:
        content: dicts, lists, strings, numbers, booleans and None.
        kind: the type of the record.
        source: the file, for the message.
        error: what to raise.
        exact: refuse fields that the record does not know. Else they are passed over, and lost
            when it is written again.

    Raises:
        HistoslideError: ``error``; the content is not such a record. What the record's own checks
            raise passes as it is, if it is a ``HistoslideError``.
    """
    try:
        record = msgspec.convert(content, kind)
        unknown = _unknown(content, to_builtins(record)) if exact else None
    except _UNFIT as reason:
        raise _unfit(source, reason, error) from None
    if unknown is not None:
        raise error(f"{source} cannot be read: `{unknown}` is unknown to this histoslide")
    return record


def _unknown(content: Any, known: Any, at: str = "$") -> str | None:
    """Where the first field is that was read but would not be written."""
    if isinstance(content, Mapping):
        pairs = [(f"{at}.{key}", key, value) for key, value in content.items()]
        if missing := [name for name, key, _ in pairs if key not in known]:
            return missing[0]
        below = ((value, known[key], name) for name, key, value in pairs)
    elif isinstance(content, list | tuple):
        items = zip(content, known, strict=True)
        below = ((part, other, f"{at}[{i}]") for i, (part, other) in enumerate(items))
    else:
        return None
    return next((found for it in below if (found := _unknown(*it)) is not None), None)


def from_json(
    raw: bytes | str,
    kind: type[Record],
    *,
    source: object,
    error: type[HistoslideError] = HistoslideError,
    exact: bool = False,
) -> Record:
    """A record from JSON text; see ``from_builtins``.

    Raises:
        HistoslideError: ``error``; it is no JSON, or not such a record.
    """
    content = builtins_from_json(raw, source=source, error=error)
    return from_builtins(content, kind, source=source, error=error, exact=exact)


def builtins_from_json(
    raw: bytes | str, *, source: object, error: type[HistoslideError] = HistoslideError
) -> Any:
    """What JSON text holds, where Python's ``NaN`` may stand among the numbers, as we write it.

    Raises:
        HistoslideError: ``error``; it is no JSON, or is nested deeper than ``DEEPEST``.
    """
    try:
        content = json.loads(raw)
    except RecursionError as reason:
        raise _unfit(source, reason, error) from None
    except ValueError as reason:  # also of bytes that are no text, and numbers without end
        said = " ".join(str(reason).split())
        raise error(f"{source} cannot be read: it is not JSON: {said}") from None
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return content
    raise _unfit(source, RecursionError(), error)


def _inside(content: Any) -> Iterable[Any]:
    if isinstance(content, dict):
        return content.values()
    return content if isinstance(content, list) else ()


def from_toml(
    raw: bytes | str,
    kind: type[Record],
    *,
    source: object,
    error: type[HistoslideError] = HistoslideError,
) -> Record:
    """A record from TOML text; see ``from_builtins``.

    Raises:
        HistoslideError: ``error``; it is no TOML, or not such a record.
    """
    import tomllib  # noqa: PLC0415 - JSON is what most commands read

    try:
        content = tomllib.loads(raw if isinstance(raw, str) else raw.decode("utf-8"))
    except (ValueError, *_UNFIT) as reason:  # also of numbers of thousands of digits
        raise _unfit(source, reason, error) from None
    return from_builtins(content, kind, source=source, error=error)


def _with_lists(value: Any) -> Any:
    """The same with lists for tuples, which msgspec leaves: what is read again is equal then."""
    if isinstance(value, dict):
        return {key: _with_lists(part) for key, part in value.items()}
    return [_with_lists(part) for part in value] if isinstance(value, list | tuple) else value


def _unfit(source: object, reason: Exception, error: type[HistoslideError]) -> HistoslideError:
    if isinstance(reason.__cause__, HistoslideError):  # of the record's own checks
        return reason.__cause__
    said = "it is nested too deeply" if isinstance(reason, RecursionError) else str(reason)
    return error(f"{source} cannot be read: {' '.join(said.split())}")
