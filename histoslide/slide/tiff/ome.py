"""What the OME-XML of an OME-TIFF says of its first image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_UM = {"pm": 1e-6, "Å": 1e-4, "nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4,
       "in": 25.4e3, "m": 1e6}  # fmt: skip
"""Micrometres in each unit of length; the micro sign is written in two ways."""


@dataclass(frozen=True, kw_only=True)
class OmeImage:
    """The element ``Pixels`` of the first image (schema 2016-06)."""

    um_x: float | None
    """Width of a pixel in micrometres, where it is recorded in a length."""
    um_y: float | None
    """Likewise its height."""
    channels: int
    """SizeC: channels, each of a sample of interleaved colours."""

    @classmethod
    def of(cls, description: str) -> OmeImage | None:
        """Read a TIFF's description; None where it is no OME-XML, or is damaged."""
        if "<OME" not in description or "<!ENTITY" in description:
            return None
        from xml.etree import ElementTree  # noqa: PLC0415 - few slides are OME-TIFF

        try:
            root = ElementTree.fromstring(description.encode())  # noqa: S314 - no entities in it
            pixels = root.find(".//{*}Pixels")
            if pixels is None:
                return None
            return cls(
                um_x=_length(pixels, "PhysicalSizeX"),
                um_y=_length(pixels, "PhysicalSizeY"),
                channels=int(pixels.get("SizeC", "1")),
            )
        except (ElementTree.ParseError, ValueError):
            return None


def _length(pixels: Element, name: str) -> float | None:
    um = _UM.get(pixels.get(f"{name}Unit", "µm"))
    try:
        value = float(pixels.get(name, "nan"))
    except ValueError:
        return None
    known = um is not None and math.isfinite(value) and value > 0
    return value * um if known and um is not None else None
