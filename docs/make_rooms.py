"""Write the tree of rooms into docs/design.md: the contract's order, the files' own words.

    python docs/make_rooms.py            # a test fails when the page is out of date
    python docs/make_rooms.py --print    # only show it

Rooms come in the order of the layers in pyproject.toml, a blank line between two layers; beside
each file stands what its docstring begins with.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "design.md"
COMMANDS = ROOT / "cli" / "histoslide_cli"
LIBRARY = ROOT / "histoslide"
NAME_WIDTH = 24
PHRASE_WIDTH = 76
HEAD_WIDTH = 16
"""Characters: of a name; above which a phrase is cut; that must be left of it then."""
NOT_PYTHON = {
    "schemas": "JSON Schemas of what is written",
    "templates": "The page that is filled",
    "web": "The page: plain JavaScript modules",
    "weights": "The bundle that ships",
}
"""What folders hold that have no docstring."""


def tree() -> str:
    """Every room and file, from the command line down to the errors."""
    parts = [[f"{'histoslide_cli/':{NAME_WIDTH}}{_phrase(COMMANDS / '__init__.py')}"]]
    parts[0] += _files(COMMANDS, "  ")
    parts += [[line for room in row.split(" | ") for line in _room(room)] for row in _layers()]
    rest = [folder.name for folder in LIBRARY.iterdir() if folder.name in NOT_PYTHON]
    parts.append([f"{name + '/':{NAME_WIDTH}}{NOT_PYTHON[name]}" for name in sorted(rest)])
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _layers() -> list[str]:
    """The rows of the contract of rooms, top to bottom."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    return next(each["layers"] for each in contracts if each.get("containers") == ["histoslide"])


def _room(name: str) -> Iterator[str]:
    folder = LIBRARY / name
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    title = f"{name}/" if folder.is_dir() else name
    yield f"{title:{NAME_WIDTH}}{_phrase(file)}"
    if folder.is_dir():
        yield from _files(folder, "  ")


def _files(folder: Path, indent: str) -> Iterator[str]:
    """A line for each file of a folder, then the folders in it with theirs."""
    for file in sorted(folder.glob("*.py")):
        if file.stem != "__init__":
            yield f"{indent + file.stem:{NAME_WIDTH}}{_phrase(file)}"
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if (inner / "__init__.py").exists():
            yield f"{indent + inner.name + '/':{NAME_WIDTH}}{_phrase(inner / '__init__.py')}"
            yield from _files(inner, indent + "  ")
        elif inner.name != "__pycache__":
            yield f"{indent + inner.name + '/':{NAME_WIDTH}}{NOT_PYTHON[inner.name]}"


def _phrase(file: Path) -> str:
    """The first sentence of a file's docstring; of a long one what stands before its colon."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not text:
        raise SystemExit(f"{file.relative_to(ROOT)} has no docstring: say what it is for")
    paragraph = " ".join(text.split("\n\n")[0].replace("`", "").split())
    sentence = re.split(r"[.;](?: |$)", paragraph)[0]
    head = sentence.split(": ")[0]
    says_enough = len(head) >= HEAD_WIDTH and len(sentence) > PHRASE_WIDTH
    return head if says_enough else sentence


def fill(page: str) -> str:
    """The page with the text block below its heading "Rooms" replaced by the tree."""
    filled, count = re.subn(
        r"(^## Rooms\n(?:(?!^## ).*\n)*?```text\n)(?:.*\n)*?```$",
        lambda found: f"{found[1]}{tree()}```",
        page,
        flags=re.MULTILINE,
    )
    if count != 1:
        raise SystemExit(f"{PAGE.name} needs one heading '## Rooms' with a text block")
    return filled


def main() -> None:
    """Write the page, or show the tree."""
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(tree())
    else:
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
