"""Whatever a file holds, reading it ends in a result or in an error of one line.

``make fuzz`` reads many more.
"""

from pathlib import Path

import pytest
from formats import FORMATS
from fuzz import RESULT, Mutants, is_bug

MUTANTS = 25
"""Of each format."""


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_gives_a_result_or_an_error_of_one_line(name: str, tmp_path: Path) -> None:
    mutants = Mutants(name, tmp_path)
    ends = [end for seed in range(MUTANTS) for end in mutants.endings(seed)]
    assert not [end for end in ends if is_bug(end)]
    assert set(ends) - {RESULT}, "no mutant is refused: nothing is damaged that is read"


@pytest.mark.parametrize("name", FORMATS)
def test_a_good_file_is_read(name: str, tmp_path: Path) -> None:
    format_ = FORMATS[name]
    format_.make(tmp_path)
    for read in format_.reads:
        read(tmp_path)
