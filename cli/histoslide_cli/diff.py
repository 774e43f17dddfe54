"""``histoslide diff``: where two heatmaps of a slide differ."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from histoslide_cli.console import location, refuse_other_picture
from histoslide_cli.outcomes import Outcome, exit_code

if TYPE_CHECKING:
    from histoslide.comparison.cells import ClassComparison, Comparison, Difference

logger = logging.getLogger("histoslide.cli")


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "diff",
        parents=[common],
        help="where two heatmaps of a slide differ",
        description="Compares two heatmaps of one slide cell by cell: how far their probabilities "
        "differ, which cells change sides of a threshold, which only one of them scored, and in "
        "which settings they differ. Ends with 0 if they are equal, with 3 if not.",
        epilog="example: histoslide diff before.zarr after.zarr --out diff.png",
    )
    parser.add_argument("a", type=location, metavar="A.ZARR", help="made by score")
    parser.add_argument(
        "b", type=location, metavar="B.ZARR", help="made by score, of the same slide"
    )
    add_comparison_options(parser)
    parser.add_argument(
        "--out",
        type=location,
        metavar="FILE",
        help="also draw a map of the differences: PNG to write",
    )
    parser.add_argument(
        "--class",
        dest="class_name",
        metavar="NAME",
        help="which class is drawn (default: the tumour class, else the one that differs most)",
    )
    parser.add_argument(
        "--limit",
        type=float,
        metavar="P",
        help="difference at the ends of the colours, to draw several pictures on one scale "
        "(default: a round number above the largest difference)",
    )
    parser.add_argument(
        "--size", type=int, default=1600, metavar="PX", help="longest side (default: 1600)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing picture")
    return parser


def add_comparison_options(parser: argparse.ArgumentParser) -> None:
    """How heatmaps are compared."""
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="P",
        help="probabilities that differ by no more count as equal (default: 0)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="count cells that change sides of it (default: 0.5)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def check_comparison_options(arguments: argparse.Namespace) -> None:
    """Refuse values that are out of range.

    Raises:
        HistoslideError: a value is out of range.
    """
    from histoslide.errors import HistoslideError

    if not 0 <= arguments.threshold <= 1:
        raise HistoslideError(f"--threshold must lie in 0-1, not {arguments.threshold}")
    if not 0 <= arguments.tolerance <= 1:
        raise HistoslideError(f"--tolerance must lie in 0-1, not {arguments.tolerance}")


def run(arguments: argparse.Namespace) -> int:
    """Compare, print, draw; the exit code tells whether the heatmaps are equal."""
    from histoslide.comparison.cells import compare_heatmaps
    from histoslide.errors import HistoslideError
    from histoslide.render import draw_difference
    from histoslide.render.png import save_png
    from histoslide.storage.writing import refuse_existing
    from histoslide.store import open_heatmap

    check_comparison_options(arguments)
    if not 100 <= arguments.size <= 20_000:
        raise HistoslideError(f"--size must lie in 100-20000 px, not {arguments.size}")
    if arguments.limit is not None and not 0 < arguments.limit <= 1:
        raise HistoslideError(f"--limit must lie above 0 and at most at 1, not {arguments.limit}")
    if arguments.out is not None:
        refuse_other_picture("--out", arguments.out)
        refuse_existing(arguments.out, overwrite=arguments.overwrite)
    comparison = compare_heatmaps(
        open_heatmap(arguments.a),
        open_heatmap(arguments.b),
        threshold=arguments.threshold,
        tolerance=arguments.tolerance,
    )
    comparison.of(arguments.class_name)  # raises before anything is printed
    print_comparison(comparison, as_json=arguments.json)
    if arguments.out is not None:
        picture = draw_difference(
            comparison,
            class_name=arguments.class_name,
            longest_px=arguments.size,
            limit=arguments.limit,
        )
        save_png(picture.image, arguments.out, overwrite=arguments.overwrite)
        logger.info("wrote %s", arguments.out)
    return exit_code([outcome(comparison)])


def outcome(comparison: Comparison) -> Outcome:
    """Whether both sides are equal within the tolerance."""
    return Outcome.DONE if comparison.equal else Outcome.IN_PART


def print_comparison(comparison: Comparison, *, as_json: bool) -> None:
    """Print a comparison as a table or as JSON."""
    from histoslide.comparison.record import ComparisonRecord
    from histoslide.storage.records import to_json

    if as_json:
        print(to_json(ComparisonRecord.of(comparison)), end="")  # noqa: T201
    else:
        print("\n".join(comparison_lines(comparison)))  # noqa: T201


def comparison_lines(comparison: Comparison) -> list[str]:
    """A comparison for a person."""
    a, b = comparison.a, comparison.b
    lines = [f"{a.slide}: A {a.name}, B {b.name}"]
    for entry in comparison.classes:
        lines += _class_lines(entry, comparison)
    if comparison.only_a or comparison.only_b:
        lines.append(
            _line("scored in one", f"{comparison.only_a:,} in A, {comparison.only_b:,} in B")
        )
    for (first, second), cells in comparison.statuses.items():
        lines.append(_line("status", f"{cells:,} {first} in A, {second} in B"))
    lines += [_line("setting", _both(difference)) for difference in comparison.settings]
    lines += [_line("made with", _both(difference)) for difference in comparison.origins]
    return [*lines, _line("verdict", _verdict(comparison))]


def _class_lines(entry: ClassComparison, comparison: Comparison) -> list[str]:
    lines = [f"  P({entry.name})"]
    if entry.largest is None or entry.largest_at is None or entry.mean is None:
        return [*lines, _line("compared", "no cell is scored on both sides")]
    cells = f"{entry.cells:,} cells, {entry.equal:,} equal"
    if comparison.tolerance:
        cells += f", {entry.within:,} within {comparison.tolerance:g}"
    lines.append(_line("compared", cells))
    if entry.largest == 0:
        return [*lines, _line("difference", "none")]
    row, col = entry.largest_at
    largest = f"largest {entry.largest:.3g} at row {row}, column {col}; mean {entry.mean:.3g}"
    quantiles = ", ".join(f"{100 * q:g} % {value:.3g}" for q, value in entry.quantiles.items())
    correlation = "–" if entry.correlation is None else f"{entry.correlation:.6f}"
    return [
        *lines,
        _line("difference", largest),
        _line("quantiles", quantiles),
        _line(f"sides of {comparison.threshold:g}", f"{entry.up:,} up, {entry.down:,} down"),
        _line("correlation", correlation),
    ]


def _verdict(comparison: Comparison) -> str:
    if comparison.equal:
        within = f" within {comparison.tolerance:g}" if comparison.tolerance else ""
        return f"equal{within}"
    differing = max((entry.cells - entry.within for entry in comparison.classes), default=0)
    statuses = sum(comparison.statuses.values())
    return f"different: {differing:,} probabilities and {statuses:,} statuses"


def _both(difference: Difference) -> str:
    return f"{difference.name}: {_short(difference.a)} in A, {_short(difference.b)} in B"


def _short(value: object) -> str:
    text = "nothing recorded" if value is None else str(value)
    hashed = len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
    return f"{text[:12]}…" if hashed else text


def _line(label: str, text: str) -> str:
    return f"    {label:<13} {text}"
