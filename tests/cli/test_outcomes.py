"""What became of several things, as one exit code."""

import itertools

from histoslide_cli.outcomes import Outcome, error_exit_code, exit_code, outcome_of

from histoslide.errors import ResolutionError, ResolutionUnknownError


def test_the_exit_code_is_of_all_outcomes_in_any_order() -> None:
    for several in itertools.product(Outcome, repeat=3):
        code, seen = exit_code(several), set(several)
        assert (code == 1) == (Outcome.BUG in seen)
        assert (code == 0) == (seen == {Outcome.DONE})
        shown = bool(seen & {Outcome.DONE, Outcome.IN_PART})
        assert (code == 3) == (shown and code not in {0, 1})
        if code in {4, 5}:
            assert (code == 4) == (Outcome.FAILED in seen)
        assert exit_code(reversed(several)) == code


def test_an_error_counts_as_what_it_is() -> None:
    unknown, other = ResolutionUnknownError("a"), ResolutionError("a")
    assert exit_code([outcome_of(unknown)]) == 5
    assert exit_code([outcome_of(unknown), outcome_of(other)]) == 4
    assert exit_code([outcome_of(unknown), Outcome.DONE]) == 3
    assert error_exit_code(unknown) == 5
    assert error_exit_code(other) == 2
