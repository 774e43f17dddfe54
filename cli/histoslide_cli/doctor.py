"""``histoslide doctor``: what this machine can do."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from histoslide_cli.outcomes import Outcome, exit_code

if TYPE_CHECKING:
    from histoslide.doctor import Diagnosis, Finding


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "doctor",
        parents=[common],
        help="what this machine can do, and what is missing",
        description="Looks at processor, memory, GPUs, libraries, the model that ships and the "
        "folders that are written to, then measures for some seconds how fast slides are scored "
        "here. Problems come first, each with the way out. Ends with 0 if slides can be scored, "
        "with 4 if not.",
        epilog="example: histoslide doctor --quick",
    )
    parser.add_argument("--quick", action="store_true", help="measure nothing")
    parser.add_argument(
        "--device", default="auto", help="to measure: auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(after_interrupt="nothing was left behind; --quick measures nothing")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Examine the machine; the exit code tells whether slides can be scored."""
    from histoslide.doctor import diagnosis_document, examine

    diagnosis = examine(device=arguments.device, quick=arguments.quick)
    if arguments.json:
        text = json.dumps(diagnosis_document(diagnosis), indent=2, ensure_ascii=False)
        print(text)  # noqa: T201
    else:
        print("\n".join(_lines(diagnosis)))  # noqa: T201
    return exit_code([Outcome.DONE if diagnosis.works else Outcome.FAILED])


def _lines(diagnosis: Diagnosis) -> list[str]:
    """A diagnosis for a person."""
    width = max((len(finding.name) for finding in diagnosis.findings), default=0)
    lines = [line for finding in diagnosis.findings for line in _finding_lines(finding, width)]
    warnings = sum(finding.state == "warning" for finding in diagnosis.findings)
    if not diagnosis.works:
        return [*lines, "slides cannot be scored here until the problems above are mended"]
    noted = f", with {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    return [*lines, f"slides can be scored here{noted}"]


def _finding_lines(finding: Finding, width: int) -> list[str]:
    """A finding, its name in a column of so many letters."""
    mark = {"problem": "PROBLEM", "warning": "warning", "ok": ""}[finding.state]
    lines = [f"{mark:<8}{finding.name:<{width}}  {finding.text}"]
    if finding.remedy:
        lines.append(f"{'':<8}{'':<{width}}  → {finding.remedy}")
    return lines
