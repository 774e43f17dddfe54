"""What a check says: one thing that was looked at, and all of them together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "warning", "problem"]

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What was looked at, in a word or two."""
    state: State
    """``problem``: no slide can be scored until it is mended; ``warning``: scoring works, but
    slower or less than it could."""
    text: str
    """What was found, in one line."""
    remedy: str | None = None
    """The way out, or what to install for more."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same for programs, JSON-ready."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything that was looked at."""

    findings: tuple[Finding, ...]
    """Problems first, then warnings, then what is well; else in the order of the checks."""

    @property
    def works(self) -> bool:
        """Whether slides can be scored here."""
        return not has_problem(self.findings)


Check = Callable[[], Iterator[Finding]]


def diagnosis_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """A diagnosis as ``histoslide doctor --json`` prints it, JSON-ready."""
    return {
        "works": diagnosis.works,
        "findings": [dataclasses.asdict(finding) for finding in diagnosis.findings],
    }


def has_problem(findings: Sequence[Finding]) -> bool:
    """Whether anything keeps slides from being scored."""
    return any(finding.state == "problem" for finding in findings)


def gib(size: float) -> str:
    """Bytes as people read them, in GiB."""
    return f"{size / GIB:.1f}"
