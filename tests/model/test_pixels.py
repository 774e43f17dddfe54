"""Arrays of NumPy's and torch's tensors hold, cut and turn the same pixels."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from histoslide.model.pixels import HostMemory, Squares
from histoslide.model.torch_backend import TensorMemory

HOST, TENSORS = HostMemory(), TensorMemory(torch.device("cpu"))


@given(
    side=st.integers(1, 9),
    stride=st.integers(1, 12),
    cells=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    more=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_squares_lie_where_the_window_says(
    side: int, stride: int, cells: tuple[int, int], more: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    height, width = ((count - 1) * stride + side for count in cells)
    window = rng.integers(0, 256, (height + more[0], width + more[1], 3), dtype=np.uint8)
    rows, cols = (rng.integers(0, count, 7) for count in cells)
    items = slice(*sorted(rng.integers(0, 8, 2)))
    expected = [
        window[r * stride : r * stride + side, c * stride : c * stride + side].transpose(2, 0, 1)
        for r, c in zip(rows[items], cols[items], strict=True)
    ]
    for memory in (HOST, TENSORS):
        given = window.copy()
        cut = memory.cut(given, Squares(side=side, stride=stride, rows=rows, cols=cols))
        given[:] = 0  # a reader may use its array for what it reads next
        found = cut(items)
        assert found.shape == (len(expected), 3, side, side)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(one), other)


def test_batches_are_filled_up_with_black_and_turned_alike() -> None:
    rng = np.random.default_rng(0)
    tiles = rng.integers(1, 256, (5, 3, 4, 4), dtype=np.uint8)
    for memory in (HOST, TENSORS):
        held = memory.hold(tiles)
        whole = np.asarray(memory.join([held[:2], held[2:]], 8))
        np.testing.assert_array_equal(whole[:5], tiles)
        assert whole.shape == (8, 3, 4, 4)
        assert not whole[5:].any()
        np.testing.assert_array_equal(np.asarray(memory.join([held], 5)), tiles)
    for one, other in zip(
        HOST.symmetries(tiles), TENSORS.symmetries(TENSORS.hold(tiles)), strict=True
    ):
        np.testing.assert_array_equal(one, np.asarray(other))


def test_arrays_of_any_kind_and_tensors_are_held() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
    tiles.flags.writeable = False
    for images in (tiles, tiles[::-1], tiles.transpose(0, 1, 3, 2), torch.tensor(tiles)):
        for memory in (HOST, TENSORS):
            np.testing.assert_array_equal(np.asarray(memory.hold(images)), np.asarray(images))


def test_results_come_as_float32() -> None:
    results = torch.linspace(0, 1, 6).reshape(2, 3)
    for memory in (HOST, TENSORS):
        found = memory.fetch(results.numpy() if memory is HOST else results)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, results.numpy())
