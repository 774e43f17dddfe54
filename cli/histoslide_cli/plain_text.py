"""Text from files on its way to a terminal, which must not take it for commands."""

from __future__ import annotations

import re
from typing import Any, TextIO

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters of ASCII and Latin-1 but tab and line feed, and what turns text about."""


def plain(text: str) -> str:
    """A text whose control characters are spelled out, as their code after a backslash."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class PlainOutput:
    """Standard output that spells control characters out, whoever writes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        return self._stream.write(plain(text))

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's own."""
        return getattr(self._stream, name)
