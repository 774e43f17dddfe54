"""Colours in planes: those of scikit-image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from skimage.color import rgb2hsv

from histoslide.tissue.hsv import Hsv, saturation_of


@given(
    rgb=hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 150), st.integers(1, 4), st.just(3)),
        elements=st.sampled_from([0, 1, 2, 100, 254, 255]) | st.integers(0, 255),
    )
)
def test_colours_are_those_of_scikit_image(rgb: NDArray[np.uint8]) -> None:
    found = Hsv.of(rgb)
    expected = rgb2hsv(rgb)
    np.testing.assert_allclose(found.saturation, expected[..., 1], atol=1e-6)
    np.testing.assert_array_equal(saturation_of(rgb), found.saturation)
    np.testing.assert_allclose(found.value, expected[..., 2], atol=1e-6)
    around = np.abs(found.hue - expected[..., 0])  # 0 and 1 are the same red
    np.testing.assert_allclose(np.minimum(around, 1 - around), 0, atol=1e-6)
    assert found.hue.min() >= 0
    assert found.hue.max() <= 1


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_grey_has_no_colour(grey: int) -> None:
    found = Hsv.of(np.full((3, 5, 3), grey, dtype=np.uint8))
    assert found.hue.max() == found.saturation.max() == 0
    assert found.value == pytest.approx(grey / 255)
