"""Write the --help of every command into docs/reference/cli.md, below its heading.

    python docs/make_cli_reference.py

A test fails when the page is out of date.
"""

import argparse
import os
import re
from pathlib import Path

from histoslide_cli.main import build_parser

PAGE = Path(__file__).parent / "reference" / "cli.md"


def help_texts() -> dict[str, str]:
    """The help of the program and of each command, 80 columns wide."""
    os.environ["COLUMNS"] = "80"
    parser = build_parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))  # noqa: SLF001
    texts = {"histoslide": parser.format_help()}
    return texts | {name: command.format_help() for name, command in commands.choices.items()}


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
