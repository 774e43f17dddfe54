"""Links that open the viewer at a place, and the command that starts it for them."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

from histoslide.storage.location import Location

PORT = 8765
"""Of the viewer that links lead to, by default."""

_HOST = "127.0.0.1"
_MPP = 1.0
"""Micrometres a pixel of the screen: a field of about a millimetre and a half."""


@dataclass(frozen=True, kw_only=True)
class ViewerLinks:
    """A viewer that somebody starts, at an address that is known before."""

    heatmaps: Sequence[Location]
    """As the command was given them."""
    slides: Sequence[Location] = ()
    """Likewise."""
    port: int = PORT
    """Of the viewer."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    """First part of its addresses, which keeps other users of the machine out."""

    @property
    def command(self) -> str:
        """What starts the viewer."""
        words = ["histoslide", "view", *map(str, self.heatmaps)]
        for slide in self.slides:
            words += ["--slide", str(slide)]
        return shlex.join([*words, "--port", str(self.port), "--token", self.token])

    def to(self, key: str, x_l0: float, y_l0: float) -> str:
        """The address of a place.

        Args:
            key: of the heatmap in the viewer's catalogue.
            x_l0: level-0 pixels.
            y_l0: likewise.
        """
        seen = {"heat": key, "x": round(x_l0), "y": round(y_l0), "mpp": _MPP}
        return f"http://{_HOST}:{self.port}/{self.token}/view#{urlencode(seen)}"
