"""An engine has one form as text, which heatmaps keep."""

import pytest

from histoslide.errors import HistoslideError
from histoslide.model.engine import BACKENDS, FULL_PRECISION, PRECISIONS, Engine


def test_the_text_is_what_heatmaps_hold_and_is_read_back() -> None:
    assert str(FULL_PRECISION) == "torch fp32"
    assert str(Engine(backend="openvino", precision="int8")) == "openvino int8"
    for backend in BACKENDS:
        for precision in PRECISIONS:
            engine = Engine(backend=backend, precision=precision)
            assert Engine.parse(f"{backend} {precision}") == engine
            assert Engine.parse(str(engine)) == engine


@pytest.mark.parametrize("text", ["", "torch", "torch ", "jax fp32", "torch fp8", "torch fp32 x"])
def test_a_text_that_names_none_is_refused(text: str) -> None:
    with pytest.raises(HistoslideError, match=f"no engine '{text}'"):
        Engine.parse(text)
