"""What happened to a cell is said once; the page's copy of it is held to it here."""

import json
import pickle
import re
from importlib.resources import files

import numpy as np
import pytest

from histoslide.grid.status import Status

PAGE = files("histoslide.viewer").joinpath("web/status.js").read_text()


def test_the_page_knows_the_same_numbers() -> None:
    numbers = re.findall(r"^export const ([A-Z]+) = (\d+);$", PAGE, re.MULTILINE)
    assert {name: int(number) for name, number in numbers} == {s.name: s.value for s in Status}


def test_the_page_knows_the_same_names_and_colours() -> None:
    entries = re.findall(r'\{ name: "(\w+)", colour: (\[[\d, ]+\]) \}', PAGE)
    assert [(name, tuple(json.loads(colour))) for name, colour in entries] == [
        (status.label, status.page_rgba) for status in Status
    ]


def test_a_status_is_a_number_wherever_it_goes() -> None:
    assert [int(status) for status in Status] == [0, 1, 2, 3, 4]  # as they lie in stores
    assert all(Status(int(status)) is status for status in Status)
    assert all(pickle.loads(pickle.dumps(status)) is status for status in Status)
    assert np.array(list(Status), dtype=np.uint8).tolist() == [0, 1, 2, 3, 4]


def test_ranks_order_all_statuses() -> None:
    by_rank = sorted(Status, key=lambda status: status.rank)
    assert [status.rank for status in by_rank] == list(range(len(Status)))
    assert [status.label for status in by_rank] == [
        "pending", "background", "excluded", "scored", "unreadable",
    ]  # fmt: skip


@pytest.mark.parametrize("status", Status)
def test_colours_are_colours(status: Status) -> None:
    for colour in (status.rgba, status.page_rgba):
        assert len(colour) == 4
        assert all(0 <= part <= 255 for part in colour)
