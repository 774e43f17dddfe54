"""What the names of classes mean: tumour, normal, excluded or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType

from histoslide.annotations.annotation import UNCLASSIFIED
from histoslide.errors import AnnotationError


class Role(IntEnum):
    """What a class is taken for; of two areas over each other the higher role wins."""

    NOTHING = 0
    """As if it were not drawn."""
    TUMOUR = 1
    """Tumour."""
    NORMAL = 2
    """Certainly none, also in the middle of tumour: a hole in it."""
    EXCLUDED = 3
    """Nobody knows, or should not be asked."""

    @property
    def label(self) -> str:
        """The name for options and records."""
        return self.name.lower()


DEFAULT_ROLES: Mapping[str, Role] = MappingProxyType(
    {
        # CAMELYON16 (_0, _1: tumour; _2: not tumour within it), CAMELYON17, ASAP's tutorial.
        "tumor": Role.TUMOUR, "_0": Role.TUMOUR, "_1": Role.TUMOUR, "metastases": Role.TUMOUR,
        "_2": Role.NORMAL, "exclusion": Role.NORMAL, "none": Role.NOTHING,
        # NCRF's JSON; QuPath; ours.
        "positive": Role.TUMOUR, "negative": Role.NORMAL,
        "tumour": Role.TUMOUR, "normal": Role.NORMAL, "ignore*": Role.EXCLUDED,
        "excluded": Role.EXCLUDED,
        # Values of mask pictures: 0 and 1, or 0 and 255.
        "0": Role.NOTHING, "1": Role.TUMOUR, "255": Role.TUMOUR,
    }
)  # fmt: skip
"""By name in lower case."""

_ROLE_NAMES = {role.label: role for role in Role} | {"tumor": Role.TUMOUR}


@dataclass(frozen=True)
class ClassMap:
    """Roles of classes by name; case does not matter."""

    given: Mapping[str, Role] = field(default_factory=dict)
    """Names in lower case; they win over ``DEFAULT_ROLES``."""

    @classmethod
    def parse(cls, text: str | None) -> ClassMap:
        """A map from what a user types: ``Tumor=tumour, _2=normal``.

        Raises:
            AnnotationError: it is not of that form.
        """
        given: dict[str, Role] = {}
        for part in (text or "").split(","):
            if not part.strip():
                continue
            name, equals, role = (piece.strip() for piece in part.rpartition("="))
            if not equals or not name or role.lower() not in _ROLE_NAMES:
                raise AnnotationError(
                    f"--classes {part.strip()!r}: write NAME=ROLE, where ROLE is one of "
                    f"{', '.join(r.label for r in Role)}"
                )
            if (
                given.setdefault(name.lower(), _ROLE_NAMES[role.lower()])
                != _ROLE_NAMES[role.lower()]
            ):
                raise AnnotationError(f"--classes gives {name!r} two roles")
        return cls(given)

    def roles(self, names: Iterable[str], *, source: Path) -> dict[str, Role]:
        """The role of every class of a file.

        Args:
            names: of the classes, as the file has them.
            source: the file, for messages.

        Raises:
            AnnotationError: one is not mapped; the message names all that were found.
        """
        names = list(names)
        known = {**DEFAULT_ROLES, **self.given}
        if missing := [name for name in names if (name or UNCLASSIFIED).lower() not in known]:
            found = ", ".join(repr(name or UNCLASSIFIED) for name in names)
            example = missing[0] or UNCLASSIFIED
            raise AnnotationError(
                f"{source} has the classes {found}, and nobody says what {example!r} is: "
                f'pass --classes "{example}=tumour", or normal, excluded or nothing'
            )
        return {name: known[(name or UNCLASSIFIED).lower()] for name in names}

    def as_dict(self) -> dict[str, str]:
        """What was given, for records."""
        return {name: role.label for name, role in sorted(self.given.items())}


DEFAULT_CLASSES = ClassMap()
"""Nothing but the defaults."""
