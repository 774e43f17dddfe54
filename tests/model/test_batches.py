"""Batches are filled from many threads, are always of one shape, and give each caller its own."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import histoslide.model.batches as batches_module
from histoslide.model import Batches
from histoslide.model.batches import Scorer
from histoslide.model.pixels import HostMemory, Pixels
from histoslide.model.torch_backend import TensorMemory

SIZE = 8


class Program:
    """Gives the number that each item carries, and remembers the batches it saw."""

    def __init__(self) -> None:
        self.batches: list[Pixels] = []

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        self.batches.append(pixels)
        numbers = pixels[:, 0, 0, 0] + np.float32(256) * pixels[:, 1, 0, 0]
        return np.stack([numbers, -numbers], axis=1)

    @property
    def used(self) -> int:
        return sum(int((batch[:, 2, 0, 0] == 1).sum()) for batch in self.batches)


def queue(score: Scorer, *, in_flight: int = 1) -> Batches:
    return Batches(score, memory=HostMemory(), size=SIZE, in_flight=in_flight)


def numbered(start: int, count: int) -> Callable[[slice], Pixels]:
    items = np.zeros((count, 3, 2, 2), dtype=np.uint8)
    numbers = np.arange(start, start + count)
    items[:, 0] = (numbers % 256)[:, None, None]
    items[:, 1] = (numbers // 256)[:, None, None]
    items[:, 2] = 1
    return items.__getitem__


def score(batches: Batches, start: int, counts: list[int]) -> None:
    with batches.reader():
        requests = []
        for count in counts:
            requests.append((start, count, batches.put(numbered(start, count), count)))
            start += count
        batches.wait([request for _, _, request in requests])
    for first, count, request in requests:
        if count:
            assert request.result is not None
            expected = np.arange(first, first + count)
            np.testing.assert_array_equal(request.result, np.stack([expected, -expected], axis=1))


@given(
    callers=st.lists(st.lists(st.integers(0, 20), max_size=3), min_size=1, max_size=6),
    in_flight=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_every_caller_gets_its_own_results(callers: list[list[int]], in_flight: int) -> None:
    program = Program()
    batches = queue(program, in_flight=in_flight)
    starts = np.cumsum([0, *(sum(counts) for counts in callers)])
    with ThreadPoolExecutor(len(callers)) as pool:
        jobs = [
            pool.submit(score, batches, int(start), counts)
            for start, counts in zip(starts, callers, strict=False)
        ]
        for job in jobs:
            job.result(timeout=20)
    assert program.used == starts[-1]  # every item once
    assert all(batch.shape == (SIZE, 3, 2, 2) for batch in program.batches)


def test_batches_are_filled_across_callers() -> None:
    """Four callers of six items: three batches of eight, where each alone would need four."""
    program = Program()
    batches = queue(program)
    together = threading.Barrier(4)

    def caller(start: int) -> None:
        with batches.reader():
            together.wait(timeout=20)  # all are known to bring items before any waits
            request = batches.put(numbered(start, 6), 6)
            batches.wait([request])

    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(caller, 6 * i) for i in range(4)]:
            job.result(timeout=20)
    assert program.used == 24
    assert len(program.batches) == 3


def test_a_batch_that_cannot_be_filled_does_not_wait_for_ever() -> None:
    program = Program()
    batches = queue(program)
    score(batches, 0, [3])
    assert len(program.batches) == 1
    assert not program.batches[0][3:].any()


def test_who_reads_runs_a_full_batch_in_between() -> None:
    program = Program()
    batches = queue(program)
    with batches.reader():
        first = batches.put(numbered(0, SIZE - 1), SIZE - 1)
        batches.help()
        assert not program.batches  # more may come
        second = batches.put(numbered(SIZE - 1, 5), 5)
        batches.help()
        assert len(program.batches) == 1
        assert first.done
        assert not second.done
        batches.help()
        assert len(program.batches) == 1
        batches.wait([first, second])
    assert second.result is not None
    np.testing.assert_array_equal(second.result[:, 0], np.arange(SIZE - 1, SIZE + 4))


def test_who_reads_leaves_a_busy_network_alone() -> None:
    entered, leave = threading.Event(), threading.Event()
    calls: list[int] = []

    def program(pixels: Pixels) -> NDArray[np.float32]:
        calls.append(len(pixels))
        entered.set()
        assert leave.wait(20)
        return np.zeros((len(pixels), 1), dtype=np.float32)

    batches = queue(program)
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(score_nothing, batches)
        assert entered.wait(20)
        with batches.reader():
            batches.put(numbered(0, SIZE), SIZE)
            batches.help()
            assert calls == [SIZE]
        leave.set()
        busy.result(timeout=20)


def score_nothing(batches: Batches) -> None:
    with batches.reader():
        batches.wait([batches.put(numbered(0, SIZE), SIZE)])


def test_an_error_reaches_those_it_concerns_and_leaves_the_queue_usable() -> None:
    class OddError(Exception):
        pass

    calls = 0

    def program(pixels: Pixels) -> NDArray[np.float32]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OddError
        return np.asarray(pixels[:, 0, 0, :1], dtype=np.float32)

    batches = queue(program)
    with pytest.raises(OddError), batches.reader():
        batches.wait([batches.put(numbered(0, 20), 20)])
    with batches.reader():
        request = batches.put(numbered(0, 3), 3)
        batches.wait([request])
    assert calls == 2  # what was left of the failed request was not run
    assert request.result is not None
    np.testing.assert_array_equal(request.result[:, 0], [0, 1, 2])


def test_items_that_cannot_be_cut_are_an_error_of_their_caller() -> None:
    batches = queue(Program())

    def broken(_: slice) -> Pixels:
        raise RuntimeError("no such tile")

    with pytest.raises(RuntimeError, match="no such tile"), batches.reader():
        batches.wait([batches.put(broken, 2)])
    score(batches, 0, [9])


def test_a_reader_that_hangs_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "PATIENCE_S", 0.05)
    batches = queue(Program())
    reading, mended = threading.Event(), threading.Event()

    def hang() -> None:
        with batches.reader():
            reading.set()
            assert mended.wait(60)

    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(hang)
        try:
            assert reading.wait(20)
            score(batches, 0, [3, 11])
            assert not hung.done()
        finally:
            mended.set()
        hung.result(timeout=20)


def test_results_of_a_second_gpu_are_waited_for_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: what is recorded at the current one says nothing of another's copy."""
    waited: list[torch.device] = []

    class Results:
        device = torch.device("cuda", 1)
        shape, dtype = (2, 3), torch.float32

    class Host:
        def copy_(self, results: Results, *, non_blocking: bool) -> None:
            assert non_blocking

        def numpy(self) -> list[torch.device]:
            return list(waited)  # what had been waited for when the copy was used

    def current_stream(device: torch.device | None = None) -> SimpleNamespace:
        where = torch.device("cuda", 0) if device is None else device
        event = SimpleNamespace(synchronize=lambda: waited.append(where))
        return SimpleNamespace(record_event=lambda: event)

    class Event:
        def record(self) -> None: ...

        def synchronize(self) -> None:
            waited.append(torch.device("cuda", 0))

    monkeypatch.setattr(torch, "empty", lambda *_, **__: Host())
    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    memory = TensorMemory(torch.device("cuda", 1))
    assert memory.fetch(Results()) == [torch.device("cuda", 1)]
