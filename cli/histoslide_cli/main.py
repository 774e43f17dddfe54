"""Entry point: builds the parser, runs a command, turns errors into exit codes."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn, TextIO, cast

from histoslide.errors import HistoslideError
from histoslide_cli import (
    demo,
    diff,
    doctor,
    evaluate,
    export,
    info,
    lesions,
    mine,
    model,
    overlay,
    replay,
    report,
    score,
    tile,
    train,
    view,
)
from histoslide_cli.console import set_up_logging
from histoslide_cli.outcomes import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, error_exit_code
from histoslide_cli.parser import Parser
from histoslide_cli.plain_text import PlainOutput

COMMANDS = (
    info, tile, train, evaluate, score, overlay, lesions, export, report, view, mine, diff, replay,
    model, doctor, demo,
)  # fmt: skip
"""Modules with ``add_parser`` and ``run``; none imports torch before it runs."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(
        prog="histoslide",
        description="Finds metastases in whole-slide images of lymph nodes. A research tool, not "
        "a medical device.",
        epilog="example: histoslide score slide.tif --out heat.zarr",
    )
    parser.add_argument(
        "--version", action="version", version=f"histoslide {version('histoslide')}"
    )
    common = argparse.ArgumentParser(add_help=False)
    noise = common.add_mutually_exclusive_group()
    noise.add_argument("--quiet", action="store_true", help="say nothing but errors and results")
    noise.add_argument("--verbose", action="store_true", help="say what is being done")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in COMMANDS:
        command = module.add_parser(subparsers, common)
        said = command.get_default("after_interrupt") or "run the same command again to continue"
        command.set_defaults(run=module.run, after_interrupt=said)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: arguments without the program's name; None for those of the process.
    """
    _replace_closed_streams()
    arguments = build_parser().parse_args(argv)
    set_up_logging(quiet=arguments.quiet, verbose=arguments.verbose)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    log = logging.getLogger("histoslide")
    try:
        code = _run(arguments)
    except HistoslideError as error:
        log.error("%s", error)  # noqa: TRY400 - one line for the user, no traceback
        return error_exit_code(error)
    except BrokenPipeError:
        # The reader of our output went away, as `head` does: that is not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except KeyboardInterrupt:
        log.error("interrupted: %s", arguments.after_interrupt)  # noqa: TRY400
        sys.stderr.flush()
        if argv is None:
            # Worker threads may be minutes into a block; what they would write is not needed.
            os._exit(EXIT_INTERRUPTED)
        return EXIT_INTERRUPTED
    return code


def _replace_closed_streams() -> None:
    """Give standard streams that were closed, and are None, somewhere to go: libraries write there.

    NumPy 2.0 cannot even be imported by SciPy without a standard error.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - it stays open
            setattr(sys, name, stream)


def _run(arguments: argparse.Namespace) -> int:
    """Run a command; names of slides, models and classes reach the terminal as mere text."""
    with contextlib.redirect_stdout(cast("TextIO", PlainOutput(sys.stdout))):
        return int(arguments.run(arguments))


def run_command() -> NoReturn:
    """Run the process's own command, and leave without taking the libraries apart.

    Freeing every object of torch and OpenVINO takes Python a second, which the system does at once.
    What reports after the program, as profilers do, wants ``main``.
    """
    # Imports make a million objects that stay, and the collector would look through them again and
    # again: a fifth of their time.
    gc.set_threshold(50_000, 20, 20)
    code = main()
    atexit._run_exitfuncs()  # noqa: SLF001 - what Python itself calls next
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:  # its reader has gone, as `head` does
            pass
        except OSError as error:
            code = code or EXIT_USAGE
            with contextlib.suppress(OSError):
                os.write(2, f"histoslide: error: what was printed is lost: {error}\n".encode())
    os._exit(code)


if __name__ == "__main__":
    run_command()
