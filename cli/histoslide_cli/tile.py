"""``histoslide tile``: tissue tiles of slides as files."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from histoslide_cli.console import (
    Progress,
    add_cache_options,
    add_recursive_option,
    add_resolution_options,
    add_tissue_options,
    location,
    read_resolutions,
    refuse_file_name,
    slide_cache,
    tissue_options,
)
from histoslide_cli.outcomes import Outcome, exit_code, outcome_of
from histoslide_cli.tile_labelled import add_label_options, cut_patches, refuse_label_options

if TYPE_CHECKING:
    from histoslide.storage.location import Location

logger = logging.getLogger("histoslide.cli")


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "tile",
        parents=[common],
        help="cut tissue into tiles on disk",
        description="Cuts the tissue of slides into tiles at a fixed resolution, with a CSV "
        "manifest and a contact sheet. Running it again continues; several slides get a folder "
        "each. With --annotations, all slides together make one set of labelled patches, divided "
        "by patient, as `train` takes it.",
        epilog="example: histoslide tile slides/ --annotations drawn/ --out data/",
    )
    parser.add_argument(
        "slides",
        nargs="+",
        type=location,
        metavar="SLIDE",
        help="files, folders, s3:// URLs, or a CSV with the column slide and any of mpp, mask and "
        "roi, output without --annotations, and with it patient, centre, label, annotations, "
        "exhaustive and part",
    )
    add_recursive_option(parser)
    parser.add_argument(
        "--out", type=location, required=True, metavar="FOLDER", help="where to write"
    )
    parser.add_argument(
        "--format",
        choices=("png", "jpg", "pcam-hdf5"),
        help="picture files, or HDF5 as PatchCamelyon has it (default: png; with --annotations "
        "pcam-hdf5, and pictures lie in a folder per class)",
    )
    parser.add_argument(
        "--size", type=int, default=96, metavar="PX", help="side of a tile (default: 96)"
    )
    parser.add_argument(
        "--label-size",
        type=int,
        default=32,
        metavar="PX",
        help="side of the centre that must be tissue (default: 32)",
    )
    parser.add_argument(
        "--target-mpp",
        type=float,
        default=0.972,
        metavar="UM",
        help="micrometres per pixel of the tiles (default: 0.972, as PatchCamelyon)",
    )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="PX",
        help="distance between tiles (default: their size; with --annotations 32)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing tile folder")
    add_cache_options(parser)
    add_resolution_options(parser)
    add_tissue_options(parser)
    add_label_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Tile every slide; the exit code tells whether all of it could be read."""
    if arguments.annotations is not None:
        return cut_patches(arguments)
    refuse_label_options(arguments)
    from histoslide.cohort.jobs import collect_jobs
    from histoslide.errors import HistoslideError
    from histoslide.slide.access import SlideAccess
    from histoslide.storage.location import is_remote
    from histoslide.tiling.slide import tile_slide

    if arguments.size < 1 or not 0 < arguments.label_size <= arguments.size:
        raise HistoslideError(
            f"--label-size {arguments.label_size} must lie in 1..--size ({arguments.size})"
        )
    if arguments.stride is not None and arguments.stride < 1:
        raise HistoslideError(f"--stride must be at least 1 px, not {arguments.stride}")
    if is_remote(arguments.out):
        raise HistoslideError(f"--out {arguments.out}: tiles are written to a folder, not to a URL")
    refuse_file_name(arguments.out, "tiles are written into a folder, name that")
    mpp, by_name = read_resolutions(arguments)
    options = tissue_options(arguments)
    jobs = collect_jobs(
        arguments.slides, mpp=mpp, mpp_by_name=by_name, recursive=arguments.recursive
    )
    _say_what_is_drawn(arguments.slides)
    outcomes: list[Outcome] = []
    for job in jobs:
        path = job.path
        out = arguments.out / Path(job.heatmap).stem if len(jobs) > 1 else arguments.out
        try:
            with Progress(path.name, unit="tile", quiet=arguments.quiet) as progress:
                tiles = tile_slide(
                    path,
                    out,
                    input_px=arguments.size,
                    label_px=arguments.label_size,
                    target_mpp=arguments.target_mpp,
                    stride_px=arguments.stride,
                    tissue=job.tissue(options),
                    tile_format=arguments.format or "png",
                    mpp=job.mpp,
                    overwrite=arguments.overwrite,
                    access=SlideAccess(cache=slide_cache(arguments)),
                    on_tiles=progress.update,
                )
        except HistoslideError as error:
            if len(jobs) == 1:
                raise
            outcomes.append(outcome_of(error))
            logger.error("%s", error)  # noqa: TRY400
            continue
        if tiles.unreadable and not tiles.tiles:
            outcomes.append(Outcome.FAILED)
            logger.error(
                "%s: none of its %d tissue tiles could be read", path.name, tiles.unreadable
            )
            continue
        outcomes.append(Outcome.IN_PART if tiles.unreadable else Outcome.DONE)
        note = f", {tiles.unreadable} could not be read" if tiles.unreadable else ""
        if not tiles.tiles:
            note = ", nothing to cut: no tissue" + (
                " in the region" if job.roi or options.roi else ""
            )
        print(f"{path.name}: {tiles.tiles} tiles{note} in {out}")  # noqa: T201
    return exit_code(outcomes)


def _say_what_is_drawn(paths: Sequence[Location]) -> None:
    """Whoever lists annotations may expect labels."""
    from histoslide.slide.slide_table import read_slide_table

    for path in paths:
        if path.suffix.lower() == ".csv" and any(it.annotations for it in read_slide_table(path)):
            logger.info(
                "%s names annotations, which plain tiles do without: pass --annotations FOLDER for "
                "labelled patches",
                path.name,
            )
