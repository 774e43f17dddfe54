"""``histoslide overlay``: a heatmap drawn over its slide."""

from __future__ import annotations

import argparse
import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING

from histoslide_cli.console import add_cache_options, location, refuse_other_picture, slide_cache
from histoslide_cli.outcomes import EXIT_DONE

if TYPE_CHECKING:
    from histoslide.slide import Slide

logger = logging.getLogger("histoslide.cli")


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "overlay",
        parents=[common],
        help="draw a heatmap over its slide",
        description="Draws a stored heatmap over its slide as a PNG with colour bar, scale bar "
        "and title, on an absolute scale from 0 to 1.",
        epilog="example: histoslide overlay heat.zarr --slide slide.tif --out heat.png",
    )
    parser.add_argument("heatmap", type=location, metavar="HEAT.ZARR", help="made by score")
    parser.add_argument(
        "--slide", type=location, metavar="FILE", help="the slide (default: draw without tissue)"
    )
    parser.add_argument("--out", type=location, required=True, metavar="FILE", help="PNG to write")
    parser.add_argument(
        "--size", type=int, default=1600, metavar="PX", help="longest side (default: 1600)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="cells at or above are outlined (default: 0.5); not with --lesions",
    )
    parser.add_argument(
        "--lesions",
        action="store_true",
        help="outline and number the lesions instead, as 'histoslide lesions' lists them",
    )
    parser.add_argument(
        "--class", dest="class_name", metavar="NAME", help="which class (default: the tumour class)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing picture")
    add_cache_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Draw the overlay."""
    from histoslide.errors import HistoslideError
    from histoslide.lesions import LesionSettings, find_lesions
    from histoslide.render import draw_overlay
    from histoslide.render.png import save_png
    from histoslide.scoring.lazy import DEFAULT_THRESHOLD
    from histoslide.slide.access import SlideAccess
    from histoslide.storage.writing import refuse_existing
    from histoslide.store import open_heatmap

    if not 100 <= arguments.size <= 20_000:
        raise HistoslideError(f"--size must lie in 100-20000 px, not {arguments.size}")
    if arguments.lesions and arguments.threshold is not None:
        raise HistoslideError(
            "--lesions outlines what 'histoslide lesions' lists, to which --threshold says "
            "nothing: leave one of the two out"
        )
    threshold = DEFAULT_THRESHOLD if arguments.threshold is None else arguments.threshold
    if not 0 <= threshold <= 1:
        raise HistoslideError(f"--threshold must lie in 0-1, not {threshold}")
    refuse_other_picture("--out", arguments.out)
    refuse_existing(arguments.out, overwrite=arguments.overwrite)
    heat = open_heatmap(arguments.heatmap)
    with ExitStack() as stack:
        slide: Slide | None = None
        if arguments.slide is not None:
            access = SlideAccess(cache=slide_cache(arguments))
            slide = stack.enter_context(access.open(arguments.slide, mpp=heat.grid.slide_mpp))
        overlay = draw_overlay(
            heat,
            slide,
            longest_px=arguments.size,
            threshold=threshold,
            class_name=arguments.class_name,
            lesions=find_lesions(heat, LesionSettings(class_name=arguments.class_name))
            if arguments.lesions
            else None,
        )
    save_png(overlay.image, arguments.out, overwrite=arguments.overwrite)
    print(arguments.out)  # noqa: T201
    return EXIT_DONE
