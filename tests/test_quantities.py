"""One text for one number."""

from hypothesis import given
from hypothesis import strategies as st

from histoslide import quantities


def test_texts_are_those_that_design_md_promises() -> None:
    assert quantities.probability(0.84) == "0.840"
    assert [quantities.threshold(p) for p in (0.5, 0.84, 0.845, 1, 0.001)] == [
        "0.50", "0.84", "0.845", "1.00", "0.001",
    ]  # fmt: skip
    assert [quantities.length(um) for um in (43.84, 999.5, 12345.4)] == [
        "44 µm", "1,000 µm", "12,345 µm",
    ]  # fmt: skip
    assert [quantities.area(mm2) for mm2 in (0, 0.0743, 0.00024, 12.3456)] == [
        "0.000 mm²", "0.074 mm²", "0.0002 mm²", "12.346 mm²",
    ]  # fmt: skip
    assert quantities.share(0.1234) == "12.3 %"
    assert quantities.resolution(0.25) == "0.25 µm/px"
    assert quantities.resolution(0.49912) == "0.4991 µm/px"
    assert quantities.cell(31.104) == "31.1 µm"
    assert quantities.extent(12345, 6789) == "12.35 × 6.79 mm"
    assert [quantities.scale(um) for um in (50, 500, 2000)] == ["50 µm", "500 µm", "2 mm"]


@given(st.floats(0, 1e6), st.integers(0, 4))
def test_rounding_is_off_by_half_a_digit_at_most(value: float, digits: int) -> None:
    text = quantities.fixed(value, digits)
    assert abs(float(text) - value) <= 0.5 * 10**-digits * (1 + 1e-9)
    assert len(text.partition(".")[2]) == digits
