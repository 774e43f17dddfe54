"""``histoslide report``: heatmaps as one HTML file."""

from __future__ import annotations

import argparse

from histoslide_cli.console import (
    FILE_ENDINGS,
    Progress,
    add_cache_options,
    add_slides_option,
    location,
    slide_cache,
)
from histoslide_cli.lesions import add_lesion_options, lesion_settings
from histoslide_cli.outcomes import Outcome, exit_code


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "report",
        parents=[common],
        help="write heatmaps down as one HTML file",
        description="Writes one HTML file that needs nothing else and prints well: facts about "
        "each slide and its quality, the heatmap over the slide, its foci, the highest and the "
        "most doubtful tiles, and how it was made. Several heatmaps, or a folder of them, begin "
        "with a table. Research use only.",
        epilog="example: histoslide report heat.zarr --slide slide.tif --out report.html",
    )
    parser.add_argument(
        "heatmaps", nargs="+", type=location, metavar="PATH", help="heat.zarr, or a folder of them"
    )
    parser.add_argument("--out", type=location, required=True, metavar="FILE", help="HTML to write")
    add_slides_option(parser)
    parser.add_argument(
        "--force", action="store_true", help="use the slide even if it is not the one scored"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=1000,
        metavar="PX",
        help="longest side of each slide's picture (default: 1000)",
    )
    add_cache_options(parser)
    add_lesion_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Write the report."""
    from histoslide.errors import HistoslideError
    from histoslide.report.page import write_report
    from histoslide.slide.access import SlideAccess
    from histoslide.storage.writing import refuse_existing
    from histoslide.viewer.catalogue import Catalogue

    if not 200 <= arguments.size <= 8000:
        raise HistoslideError(f"--size must lie in 200-8000 px, not {arguments.size}")
    if arguments.out.suffix.lower() in FILE_ENDINGS - {".html"}:
        raise HistoslideError(f"--out {arguments.out}: the report is HTML, end its name in .html")
    settings = lesion_settings(arguments)
    refuse_existing(arguments.out, overwrite=arguments.overwrite)
    with (
        Catalogue(
            arguments.heatmaps,
            slides=arguments.slides,
            force=arguments.force,
            access=SlideAccess(cache=slide_cache(arguments)),
        ) as catalogue,
        Progress("report", unit="slide", quiet=arguments.quiet) as progress,
    ):
        _, failed = write_report(
            catalogue,
            arguments.out,
            settings=settings,
            picture_px=arguments.size,
            overwrite=arguments.overwrite,
            on_slide=progress.update,
        )
    print(arguments.out)  # noqa: T201
    return exit_code([Outcome.IN_PART if failed else Outcome.DONE])
