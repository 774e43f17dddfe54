"""``histoslide lesions``: the foci of a heatmap as a table."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING, Any

from histoslide_cli.console import location, refuse_file_name
from histoslide_cli.outcomes import EXIT_DONE

if TYPE_CHECKING:
    from histoslide.lesions import LesionReport, LesionSettings
    from histoslide.lesions.settings_file import ChosenSettings
    from histoslide.storage.location import Location

logger = logging.getLogger("histoslide.cli")


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "lesions",
        parents=[common],
        help="find, measure and class the foci of a heatmap",
        description="Lists the connected foci of a heatmap with area, longest diameter, place and "
        "class (isolated tumour cells, micro- or macrometastasis by longest diameter), and sums "
        "up the slide. Research use only.",
        epilog="example: histoslide lesions heat.zarr --out lesions/",
    )
    parser.add_argument("heatmap", type=location, metavar="HEAT.ZARR", help="made by score")
    parser.add_argument(
        "--out",
        type=location,
        metavar="FOLDER",
        help="write lesions.csv and lesions.json there (default: only print)",
    )
    add_lesion_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


def add_lesion_options(parser: argparse._ActionsContainer) -> None:
    """How foci are found.

    What is not given is None and left to ``LesionSettings``: some commands must tell it apart.
    """
    add_settings_file_option(parser)
    parser.add_argument(
        "--seed",
        type=float,
        metavar="P",
        help="a focus has at least one cell at or above it (default: 0.84)",
    )
    parser.add_argument(
        "--extend",
        type=float,
        metavar="P",
        help="a focus is made of connected cells at or above it (default: 0.5)",
    )
    parser.add_argument(
        "--smooth",
        type=float,
        metavar="UM",
        help="smooth with a Gaussian of this deviation in micrometres before (default: 0, not)",
    )
    parser.add_argument(
        "--gap",
        type=float,
        metavar="UM",
        help="join foci nearer than this, in micrometres; 0 joins none (default: 75)",
    )
    parser.add_argument(
        "--min-cells",
        type=int,
        metavar="N",
        help="leave out lesions of fewer cells (default: 1)",
    )
    parser.add_argument(
        "--class", dest="class_name", metavar="NAME", help="which class (default: the tumour class)"
    )


def add_settings_file_option(parser: argparse._ActionsContainer) -> None:
    """``--lesion-settings`` of every command that finds lesions."""
    parser.add_argument(
        "--lesion-settings",
        type=location,
        metavar="FILE",
        help="find lesions as this file says, which 'histoslide evaluate slides --choose' wrote; "
        "other options go before it",
    )


def chosen_settings(arguments: argparse.Namespace) -> ChosenSettings | None:
    """What the file of ``--lesion-settings`` says; None without one.

    Raises:
        HistoslideError: it cannot be read.
    """
    from histoslide.lesions.settings_file import read_settings

    return None if arguments.lesion_settings is None else read_settings(arguments.lesion_settings)


def lesion_settings(arguments: argparse.Namespace) -> LesionSettings:
    """What the options of ``add_lesion_options`` say.

    Raises:
        HistoslideError: a value is out of range.
    """
    from dataclasses import replace

    from histoslide.lesions import LesionSettings

    given: dict[str, Any] = {
        "class_name": arguments.class_name,
        "seed_probability": arguments.seed,
        "extend_probability": arguments.extend,
        "smoothing_um": arguments.smooth,
        "join_gap_um": arguments.gap,
        "min_cells": arguments.min_cells,
    }
    chosen = chosen_settings(arguments)
    base = LesionSettings() if chosen is None else chosen.settings
    return replace(base, **{name: it for name, it in given.items() if it is not None})


def run(arguments: argparse.Namespace) -> int:
    """Find the lesions, print them, write them."""
    from histoslide.lesions import find_lesions, lesion_document, write_lesions
    from histoslide.storage.records import to_json
    from histoslide.storage.writing import refuse_existing
    from histoslide.store import open_heatmap

    settings = lesion_settings(arguments)
    folder: Location | None = arguments.out
    if folder is not None:
        refuse_file_name(folder, "name the folder that gets lesions.csv and lesions.json")
        for name in ("lesions.csv", "lesions.json"):
            refuse_existing(folder / name, overwrite=arguments.overwrite)
    report = find_lesions(open_heatmap(arguments.heatmap), settings)
    if folder is not None:
        write_lesions(report, folder / "lesions.csv", folder / "lesions.json")
        logger.info("wrote lesions.csv and lesions.json in %s", folder)
    if arguments.json:
        print(to_json(lesion_document(report)), end="")  # noqa: T201
    else:
        print("\n".join(_lines(report)))  # noqa: T201
    return EXIT_DONE


def _lines(report: LesionReport) -> list[str]:
    """The table as text, micrometres and millimetres rounded to what a cell can tell."""
    from histoslide import quantities as say
    from histoslide.lesions import NOTICE

    summary, settings = report.summary, report.settings
    count = f"{summary.lesions} lesion{'' if summary.lesions == 1 else 's'}"
    levels = (
        f"seeds at {say.threshold(settings.seed_probability)}, "
        f"extended to {say.threshold(settings.extend_probability)}"
    )
    lines = [f"{report.source.slide}: {count} of {settings.class_name}, {levels}"]
    if report.lesions:
        lines.append("  no.    longest         area  peak   mean   centre (level 0)    class")
    for lesion in report.lesions:
        x, y = lesion.centroid_l0
        lines.append(
            f"  {lesion.number:>3}  {say.length(lesion.longest_diameter_um):>9}  "
            f"{say.area(lesion.area_mm2):>11}  {say.probability(lesion.peak_probability)}  "
            f"{say.probability(lesion.mean_probability)}  {f'{x:.0f}, {y:.0f}':<18}  {lesion.kind}"
            f"{', cut off' if lesion.cut_off else ''}"
        )
    if summary.tumour_share_of_tissue is not None:
        lines.append(
            f"  {say.area(summary.tumour_area_mm2)} of {say.area(summary.tissue_area_mm2)} "
            f"of scored tissue ({say.share(summary.tumour_share_of_tissue)}); "
            f"slide score {say.probability(summary.slide_score or 0)}"
        )
    lines += [f"  note: {note}" for note in summary.notes]
    return [*lines, f"  {NOTICE}"]
