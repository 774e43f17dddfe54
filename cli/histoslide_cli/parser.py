"""How a wrong command line is answered: one line that names the word and the way out."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from histoslide_cli.outcomes import EXIT_USAGE


class Parser(argparse.ArgumentParser):
    """An argparse parser that names misspelt words, also where something else is missing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register("type", float, _decimal)
        self._given: list[str] = []

    def parse_known_args(  # type: ignore[override]  # of its overloads, commands need one
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does, but what nobody knows is an error of this command."""
        self._given = list(sys.argv[1:] if args is None else args)
        found, unknown = super().parse_known_args(self._given, namespace)
        if unknown:
            self.error(f"unexpected: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Say in one line what is wrong, and end with 2; without any word, show the help."""
        if not self._given and self._subparsers is not None:
            self.print_help(sys.stderr)
            self.exit(EXIT_USAGE)
        unknown = next((word for word in self._own_options() if not self._knows(word)), None)
        if unknown is not None:  # more likely the cause than whatever else is missing
            message = f"there is no {unknown}{_closest(unknown, self._option_string_actions)}"
        self.exit(EXIT_USAGE, f"histoslide: error: {message} (see {self.prog} --help)\n")

    def _own_options(self) -> Iterator[str]:
        """The long options that were given to this command, without their values."""
        for word in self._given:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return  # the rest are no options, or those of a command below
            if word.startswith("--"):
                yield word.partition("=")[0]

    def _knows(self, word: str) -> bool:
        return any(option.startswith(word) for option in self._option_string_actions)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            hint = _closest(str(value), choices) or f": choose from {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"there is no {str(value)!r}{hint}")


def _closest(word: str, known: Iterable[str]) -> str:
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lower, n=1)
    return f": did you mean {lower[near[0]]}?" if near else ""


def _decimal(text: str) -> float:
    """A number as Python writes it."""
    try:
        return float(text)
    except ValueError:
        way_out = ": write a decimal point" if "," in text else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not a number{way_out}") from None
