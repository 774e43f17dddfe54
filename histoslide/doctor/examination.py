"""Run the checks, and say what each has found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from histoslide.doctor.findings import Check, Diagnosis, Finding, State, has_problem
from histoslide.doctor.machine import (
    check_accelerators,
    check_folders,
    check_load,
    check_memory,
    check_processor,
    check_system,
    check_threads,
)
from histoslide.doctor.measurements import measure_backends, measure_rates
from histoslide.doctor.software import check_bundle, check_extras, check_formats, check_libraries

logger = logging.getLogger(__name__)

CHECKS: tuple[Check, ...] = (
    check_libraries,
    check_extras,
    check_formats,
    check_bundle,
    check_system,
    check_processor,
    check_memory,
    check_load,
    check_threads,
    check_accelerators,
    check_folders,
)
"""Looked at by ``examine``, in this order."""

TESTS: tuple[Callable[[str], Iterator[Finding]], ...] = (measure_rates, measure_backends)
"""Measured by ``examine`` on a device where no check found a problem."""


def examine(*, device: str = "auto", quick: bool = False) -> Diagnosis:
    """Look at this machine.

    Args:
        device: to measure and to look at, as ``histoslide.model.pick_device`` names it.
        quick: leave the measurements out.
    """
    findings: list[Finding] = []
    for check in CHECKS:
        # What cannot be imported after a library was found missing needs no second line.
        findings += _run(check.__name__, check, broken=has_problem(findings))
    if not quick and not has_problem(findings):
        for test in TESTS:
            findings += _run(test.__name__, partial(test, device), broken=False)
    order: Sequence[State] = ("problem", "warning", "ok")
    return Diagnosis(findings=tuple(sorted(findings, key=lambda found: order.index(found.state))))


def _run(name: str, check: Check, *, broken: bool) -> list[Finding]:
    """What a check finds. One that breaks has found something, too.

    Args:
        name: of the check.
        check: to run.
        broken: a problem is known already, and modules that are missing follow from it.
    """
    found = []
    try:
        for finding in check():
            found.append(finding)  # noqa: PERF402 - what came before an error is kept
    except Exception as error:  # whatever it is: a doctor does not fall ill
        if broken and isinstance(error, ImportError):
            return found
        logger.debug("%s", name, exc_info=True)
        reason = (str(error).splitlines() or [""])[0]
        found.append(
            Finding(
                name=name.removeprefix("check_").removeprefix("measure_").replace("_", " "),
                state="problem",
                text=f"{type(error).__name__}: {reason}",
                remedy="--verbose shows more; if the text does not help, please report it",
            )
        )
    return found
