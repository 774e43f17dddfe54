"""Values that carry their unit refuse nonsense at birth."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoslide.errors import ResolutionError
from histoslide.geometry import Box, CellRange, Mpp, Size


@pytest.mark.parametrize("value", [0.0, -0.25, math.nan, math.inf, -math.inf])
def test_resolution_must_be_positive_and_says_where_it_came_from(value: float) -> None:
    with pytest.raises(ResolutionError, match=rf"not {value} \(--mpp-csv\)"):
        Mpp(value=value, source="--mpp-csv")


@pytest.mark.parametrize(
    ("value", "plausible"),
    [(0.049, False), (0.05, True), (0.25, True), (5.0, True), (5.01, False), (16.8, False)],
)
def test_plausible_resolutions_are_those_of_microscopes(value: float, plausible: bool) -> None:
    assert Mpp(value=value, source="--mpp").plausible is plausible


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (-3, 5)])
def test_size_must_be_positive(width: int, height: int) -> None:
    with pytest.raises(ValueError, match=f"{width}×{height}"):
        Size(width, height)


# Nothing so small that halving it loses digits.
sides = st.floats(-1e6, 1e6).map(lambda side: round(side, 6))


@given(x=sides, y=sides, width=sides, height=sides, power=st.integers(-4, 4))
def test_scaling_a_box_scales_every_corner(
    x: float, y: float, width: float, height: float, power: int
) -> None:
    factor = 2.0**power  # exact, so that corners can be compared exactly
    box, scaled = Box(x, y, width, height), Box(x, y, width, height).scaled(factor)
    assert (scaled.x, scaled.y) == (x * factor, y * factor)
    assert (scaled.right, scaled.bottom) == (box.right * factor, box.bottom * factor)


def test_cell_range_slices_rows_before_columns() -> None:
    assert CellRange(row=2, col=5, rows=3, cols=4).slices == (slice(2, 5), slice(5, 9))
