"""``histoslide score``: slides in, heatmaps out."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

from histoslide_cli.console import (
    EXIT_BUG,
    EXIT_DONE,
    EXIT_NONE_SUCCEEDED,
    EXIT_RESOLUTION,
    EXIT_SOME_FAILED,
    Progress,
    add_cache_options,
    add_resolution_options,
    add_tissue_options,
    place,
    read_resolutions,
    scrubbed_command,
    slide_cache,
    tissue_options,
)
from histoslide_cli.model_choice import add_model_options, choose_model

if TYPE_CHECKING:
    from histoslide.cohort import SlideResult
    from histoslide.pipeline import Progress as BlockProgress

logger = logging.getLogger("histoslide.cli")


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "score",
        parents=[common],
        help="make a metastasis heatmap",
        description="Scores the tissue of slides tile by tile into heatmaps (OME-Zarr), draws "
        "an overlay and lists the lesions beside each. A run that was stopped continues when it is "
        "started again.",
        epilog="example: histoslide score slide.tif --mpp 0.25 --out heat.zarr",
    )
    parser.add_argument(
        "slides", nargs="+", type=place, metavar="SLIDE", help="files, folders or s3:// URLs"
    )
    parser.add_argument(
        "--out",
        type=place,
        required=True,
        metavar="PATH",
        help="where to write, a path or s3:// URL: a name that ends in .zarr for one slide, else a "
        "folder",
    )
    add_model_options(parser)
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="PX",
        help="side of a heatmap cell in model pixels (default: the model's label footprint)",
    )
    parser.add_argument(
        "--ngff",
        choices=("0.5", "0.4"),
        default="0.5",
        help="OME-Zarr version; 0.4 for viewers that do not read 0.5 yet (default: 0.5)",
    )
    parser.add_argument("--no-overlay", action="store_true", help="do not draw the overlay PNG")
    parser.add_argument(
        "--no-lesions", action="store_true", help="do not write the tables of lesions"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="probability outlined in the overlay and counted as positive (default: 0.5)",
    )
    parser.add_argument(
        "--mask-png", action="store_true", help="also draw mask and grid, before scoring"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing heatmaps")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    add_cache_options(parser)
    add_resolution_options(parser)
    add_tissue_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Score every slide; the exit code tells what became of them."""
    from histoslide.errors import HistoslideError
    from histoslide.lesions import LesionSettings
    from histoslide.model import pick_device
    from histoslide.pipeline import ScoreOptions, score_slide, score_slides
    from histoslide.slide import find_slides

    if arguments.stride is not None and arguments.stride < 1:
        raise HistoslideError(f"--stride must be at least 1 px, not {arguments.stride}")
    if not 0 <= arguments.threshold <= 1:
        raise HistoslideError(f"--threshold must lie in 0-1, not {arguments.threshold}")
    mpp, by_name = read_resolutions(arguments)
    paths = find_slides(arguments.slides)
    options = ScoreOptions(
        stride_px=arguments.stride,
        tissue=tissue_options(arguments),
        ngff=arguments.ngff,
        overlay=not arguments.no_overlay,
        overlay_threshold=arguments.threshold,
        lesions=None if arguments.no_lesions else LesionSettings(),
        mask_png=arguments.mask_png,
        overwrite=arguments.overwrite,
        cache=slide_cache(arguments),
        command=scrubbed_command(sys.argv[1:]),
    )
    single = arguments.out.suffix == ".zarr"
    if single and len(paths) > 1:
        raise HistoslideError(
            f"--out {arguments.out} names one heatmap, but there are {len(paths)} slides: "
            "give a folder"
        )
    model = choose_model(arguments, device=pick_device(arguments.device))
    logger.info("model %s on %s", model.spec.name, model.device)
    if single:
        with Progress(paths[0].name, unit="block", quiet=arguments.quiet) as progress:
            result = score_slide(
                paths[0],
                arguments.out,
                model,
                options,
                mpp=by_name.get(paths[0].name, mpp),
                on_block=_reporter(progress),
            )
        results = [result]
    else:
        with _Bars(quiet=arguments.quiet) as bars:
            results = score_slides(
                paths,
                arguments.out,
                model,
                options,
                mpp=mpp,
                mpp_by_name=by_name,
                on_slide=bars.start,
            )
    _print(results, arguments)
    return exit_code(results)


class _Bars:
    """One progress bar at a time, for one slide after the other."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._stack = ExitStack()

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, number: int, total: int, name: str) -> BlockProgress:
        """Begin a slide's bar; the one before is finished."""
        self._stack.close()
        label = f"[{number}/{total}] {name}"
        return _reporter(
            self._stack.enter_context(Progress(label, unit="block", quiet=self._quiet))
        )


def exit_code(results: list[SlideResult]) -> int:
    """0 all done, 1 a bug, 3 some not or not wholly, 4 none, 5 none for want of a resolution."""
    failed = [result for result in results if result.state == "failed"]
    if any(result.cause == "bug" for result in failed):
        return EXIT_BUG
    if len(failed) == len(results):
        unknown = all(result.cause == "resolution unknown" for result in failed)
        return EXIT_RESOLUTION if unknown else EXIT_NONE_SUCCEEDED
    return EXIT_DONE if all(result.state == "done" for result in results) else EXIT_SOME_FAILED


def _reporter(progress: Progress) -> BlockProgress:
    started = time.monotonic()
    before: int | None = None

    def report(done: int, total: int, scored: int) -> None:
        nonlocal before
        if before is None:  # what an earlier run scored says nothing of this one's speed
            before = 0 if done == 1 else scored
        rate = (scored - before) / max(1e-9, time.monotonic() - started)
        progress.update(done, total, f"{scored:,} tiles, {rate:.0f} tiles/s")

    return report


def _print(results: list[SlideResult], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps([asdict(result) for result in results], indent=2))  # noqa: T201
        return
    for result in results:
        if result.state == "failed":
            print(f"{result.slide}: failed: {result.error}")  # noqa: T201
            continue
        counts = result.counts
        scored = counts["scored"]
        text = f"{scored:,} of {sum(counts.values()):,} cells scored"
        if result.highest is not None:
            text += f", {result.positive:,} at or above {arguments.threshold:g}"
            text += f", highest {result.highest:.3f}"
        elif counts["background"]:
            text += ": no tissue"
        if counts["unreadable"]:
            text += f", {counts['unreadable']:,} could not be read"
        folder = arguments.out.parent if arguments.out.suffix == ".zarr" else arguments.out
        print(f"{result.slide}: {text} → {folder / str(result.output)}")  # noqa: T201
