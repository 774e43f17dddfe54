"""Parts of something large, each done once, their results in order."""

import threading

import pytest

from histoslide.machine import threads
from histoslide.machine.threads import side_by_side


@pytest.mark.parametrize("processors", [1, 2, 64])
def test_results_come_in_the_order_of_the_parts(
    processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "usable_processors", lambda: processors)
    assert side_by_side(lambda part: part**2, range(100)) == [i**2 for i in range(100)]
    assert side_by_side(str, []) == []


def test_several_are_done_at_a_time_and_one_by_ourselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_processors", lambda: 2)
    both_here = threading.Barrier(2, timeout=30)
    side_by_side(lambda _: both_here.wait(), range(2))
    assert side_by_side(lambda _: threading.get_ident(), [0]) == [threading.get_ident()]


def test_what_a_part_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_processors", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda part: 1 // part, [1, 0, 1])
