"""Records in files: typed values written and read in one way, whatever a file claims to hold.

A record is a frozen dataclass. What is read is checked against its types at every depth, and its
own checks (``__post_init__``) run, before anything is believed; what does not fit is one line that
names the file and the place in it.
"""

from __future__ import annotations

import json
import tomllib
from typing import Any, TypeVar

import msgspec

from histoslide.errors import HistoslideError

Record = TypeVar("Record")

_UNFIT = (msgspec.MsgspecError, RecursionError, UnicodeError, OverflowError)
"""How content fails that is not what it should be: of another type, nested without end, no text."""


def to_builtins(record: object) -> Any:
    """A record as what JSON knows: dicts, lists, strings, numbers, booleans and None."""
    return msgspec.to_builtins(record, str_keys=True)


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
) -> Record:
    """A record from what JSON or TOML made of a file.

    Args:
        content: dicts, lists, strings, numbers, booleans and None.
        kind: the type of the record.
        source: the file, for the message.
        error: what to raise.

    Raises:
        HistoslideError: ``error``; the content is not such a record. What the record's own checks
            raise passes as it is, if it is a ``HistoslideError``.
    """
    try:
        return msgspec.convert(content, kind)
    except _UNFIT as reason:
        raise _unfit(source, reason, error) from None


def from_json(
    raw: bytes | str,
    kind: type[Record],
    *,
    source: object,
    error: type[HistoslideError] = HistoslideError,
) -> Record:
    """A record from JSON text; see ``from_builtins``.

    Raises:
        HistoslideError: ``error``; it is no JSON, or not such a record.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except _UNFIT as reason:
        raise _unfit(source, reason, error) from None


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
    try:
        content = tomllib.loads(raw if isinstance(raw, str) else raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, *_UNFIT) as reason:
        raise _unfit(source, reason, error) from None
    return from_builtins(content, kind, source=source, error=error)


def _unfit(source: object, reason: Exception, error: type[HistoslideError]) -> HistoslideError:
    if isinstance(reason.__cause__, HistoslideError):  # of the record's own checks
        return reason.__cause__
    said = "it is nested too deeply" if isinstance(reason, RecursionError) else str(reason)
    return error(f"{source} cannot be read: {' '.join(said.split())}")
