"""The check that the values of a recipe are in their range."""

from __future__ import annotations

from histoslide.errors import DataError


def require(good: bool, what: str, range_: str, owner: object) -> None:
    """Refuse the value of the field of ``owner`` that the last word of ``what`` names."""
    if not good:
        value = getattr(owner, what.rpartition(" ")[2])
        raise DataError(f"{what} must be {range_}, not {value!r}")
