"""Whatever a file holds, reading it ends in a result or in an error of one line.

``make fuzz`` reads many more.
"""

from pathlib import Path

import pytest
from formats import FORMATS
from fuzz import RESULT, Mutants, is_bug

MUTANTS = 25
"""Of each format."""

AT_WHICH_NOTHING_DIES = 1000
"""First seed of slides: native libraries read them here, and end the process at some mutants."""


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_gives_a_result_or_an_error_of_one_line(name: str, tmp_path: Path) -> None:
    mutants = Mutants(name, tmp_path)
    first = AT_WHICH_NOTHING_DIES if FORMATS[name].isolated else 0
    ends = [end for seed in range(first, first + MUTANTS) for end in mutants.endings(seed)]
    assert not [end for end in ends if is_bug(end)]
    assert bool(set(ends) - {RESULT}) == FORMATS[name].refused


@pytest.mark.parametrize("name", FORMATS)
def test_a_good_file_is_read(name: str, tmp_path: Path) -> None:
    format_ = FORMATS[name]
    format_.make(tmp_path)
    for read in format_.reads:
        read(tmp_path)
