"""Write the --help of every command into docs/reference/cli.md, below its heading.

    python docs/make_cli_reference.py

A test fails when the page is out of date.
"""

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path

from histoslide_cli.main import build_parser

PAGE = Path(__file__).parent / "reference" / "cli.md"


def help_texts() -> dict[str, str]:
    """The help of the program, of each command and of its actions, 80 columns wide."""
    os.environ["COLUMNS"] = "80"
    return dict(walk("histoslide", build_parser()))


def walk(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Name and help of a parser and of those below it: the commands lose the program's name."""
    yield name, parser.format_help()
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for below, subparser in action.choices.items():
                yield from walk(below if name == "histoslide" else f"{name} {below}", subparser)


def fill(page: str) -> str:
    """The page with the text block after each command's heading replaced by its help."""
    for name, text in help_texts().items():
        pattern = rf"(^## {name}\n(?:(?!^## ).*\n)*?```text\n)(?:.*\n)*?```$"
        block = f"{text}```".replace("\\", r"\\")
        page, count = re.subn(pattern, rf"\g<1>{block}", page, flags=re.MULTILINE)
        if count != 1:
            raise SystemExit(f"{PAGE.name} needs one heading '## {name}' with a text block")
    return page


def main() -> None:
    """Write the page."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
