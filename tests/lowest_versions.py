"""Prints the lowest versions that pyproject.toml allows, as constraints for pip: a bound is a test.

Usage: python tests/lowest_versions.py [NAME==VERSION ...]

Everything that is required by name is held at its bound, the tools of the tests too. What those
need in turn pip chooses, as it does for a user who holds one of them back. A NAME==VERSION takes
the place of a bound, for a machine where a release that old is not to be had.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,.-]+\])?>=(?P<version>[\w.]+)")


def lowest_versions(project: Path = PROJECT) -> Iterator[tuple[str, str]]:
    """Name and lower bound of every requirement, those of the extras too.

    Raises:
        ValueError: If a requirement is anything but a name and its lower bound.
    """
    metadata = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    extras = metadata["optional-dependencies"].values()
    for requirement in [*metadata["dependencies"], *(each for extra in extras for each in extra)]:
        if requirement.startswith(f"{metadata['name']}["):
            continue  # an extra that is made of other extras
        found = REQUIREMENT.fullmatch(requirement)
        if found is None:
            raise ValueError(f"{project.name}: {requirement} is no name>=version: give it a bound")
        yield found["name"], found["version"]


if __name__ == "__main__":
    held = dict(given.split("==", 1) for given in sys.argv[1:])
    for name, bound in lowest_versions():
        sys.stdout.write(f"{name}=={held.get(name, bound)}\n")
