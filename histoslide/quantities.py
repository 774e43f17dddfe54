"""One text for one number: how quantities are written wherever people read them.

Pictures, reports, the commands and the viewer (``viewer/web/quantities.js``, which a test holds to
this file) write the same number alike; the rules stand in docs/design.md. Tables that programs read
(``summary.csv``, lesions) keep more digits.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal


def fixed(value: float, digits: int) -> str:
    """A number with so many decimals; halves go up, as in JavaScript's ``toFixed``."""
    return f"{Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"


def probability(value: float) -> str:
    """Of a cell, a focus or a slide, 0-1."""
    return fixed(value, 3)


def threshold(value: float) -> str:
    """A probability that was chosen: in hundredths, or thousandths where it is finer."""
    text = fixed(value, 3)
    return text.removesuffix("0")


def count(value: float) -> str:
    """Whole things; also whole micrometres in a column of them."""
    return f"{int(fixed(value, 0)):,}"


def length(um: float) -> str:
    """Of a focus."""
    return f"{count(um)} µm"


def area_mm2(mm2: float) -> str:
    """The number of ``area``, for a column of square millimetres."""
    return fixed(mm2, 3 if mm2 >= 0.001 or mm2 == 0 else 4)


def area(mm2: float) -> str:
    """Of a focus, or of tissue."""
    return f"{area_mm2(mm2)} mm²"


def share(part: float, digits: int = 1) -> str:
    """A part of a whole, given as 0-1; in sentences, whole per cent are enough."""
    return f"{fixed(part * 100, digits)} %"


def resolution(mpp: float) -> str:
    """Micrometres per pixel."""
    exact = Context(prec=4, rounding=ROUND_HALF_UP).create_decimal(Decimal(mpp))
    return f"{exact.normalize():f} µm/px"


def cell(um: float) -> str:
    """Side of a cell."""
    return f"{fixed(um, 1)} µm"


def extent(width_um: float, height_um: float) -> str:
    """Width and height of a slide."""
    return f"{fixed(width_um / 1000, 2)} × {fixed(height_um / 1000, 2)} mm"


def scale(um: float) -> str:
    """A round length, of a scale bar."""
    return f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} µm"
