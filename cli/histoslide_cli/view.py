"""``histoslide view``: a heatmap over its slide, in the browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from histoslide_cli.console import add_cache_options, add_slides_option, location, slide_cache
from histoslide_cli.outcomes import EXIT_DONE


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "view",
        parents=[common],
        help="pan and zoom over slides with their heatmaps",
        description="Opens a page in the browser that pans and zooms over a slide with its "
        "heatmap on top; a folder of heatmaps begins with an overview. A heatmap that is still "
        "being written fills in. Only this machine can reach the page. Ctrl-C ends it.",
        epilog="example: histoslide view heat.zarr --slide slide.tif",
    )
    parser.add_argument(
        "heatmaps",
        nargs="+",
        type=location,
        metavar="PATH",
        help="heat.zarr made by score, or the folder of a cohort; several of one slide can be "
        "compared",
    )
    add_slides_option(parser)
    add_cache_options(parser)
    parser.add_argument(
        "--force", action="store_true", help="show the slide even if it is not the one scored"
    )
    parser.add_argument(
        "--review",
        type=Path,
        metavar="FILE",
        help="let foci be accepted or rejected and regions be drawn in the page, and save that to "
        "this GeoJSON file, which QuPath opens; for several slides a folder, which gets a file for "
        "each, SLIDE.geojson. What is there already is shown and continued",
    )
    parser.add_argument(
        "--port", type=int, default=0, metavar="N", help="TCP port (default: any that is free)"
    )
    parser.add_argument(
        "--token",
        metavar="WORD",
        help="first part of the page's address, which keeps other users of this machine out; give "
        "it together with --port for links that still work tomorrow (default: a new one each time)",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="only print the address, open no browser"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until interrupted."""
    from histoslide.slide.access import SlideAccess
    from histoslide.viewer.catalogue import Catalogue
    from histoslide.viewer.reviews import Reviews
    from histoslide.viewer.serving import ServeOptions, serve

    options = ServeOptions(
        port=arguments.port, token=arguments.token, browser=not arguments.no_browser
    )
    with Catalogue(
        arguments.heatmaps,
        slides=arguments.slides,
        force=arguments.force,
        access=SlideAccess(cache=slide_cache(arguments)),
    ) as catalogue:
        reviews = None if arguments.review is None else Reviews(arguments.review, catalogue)
        serve(catalogue, options, lambda url: print(url, flush=True), reviews=reviews)  # noqa: T201
    return EXIT_DONE
