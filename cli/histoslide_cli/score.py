"""``histoslide score``: slides in, heatmaps out."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from histoslide.errors import HistoslideError
from histoslide_cli.console import (
    Progress,
    add_cache_options,
    add_recursive_option,
    add_resolution_options,
    add_tissue_options,
    duration,
    location,
    rate,
    read_resolutions,
    refuse_file_name,
    scrubbed_command,
    slide_cache,
    tissue_options,
)
from histoslide_cli.engine_options import add_engine_options, chosen_engine, said_of, score_mode
from histoslide_cli.lesions import add_settings_file_option, chosen_settings
from histoslide_cli.model_choice import add_model_options
from histoslide_cli.outcomes import Outcome, exit_code

if TYPE_CHECKING:
    from collections.abc import Callable

    from histoslide.cohort.dry_run import SlidePlan, Speed
    from histoslide.cohort.jobs import SlideJob
    from histoslide.cohort.run import CohortProgress
    from histoslide.pipeline import Progress as BlockProgress
    from histoslide.pipeline import ScoreOptions
    from histoslide.pipeline.result import SlideResult
    from histoslide.scoring.lazy import BlockModel
    from histoslide.storage.location import Location

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
        "slides",
        nargs="+",
        type=location,
        metavar="SLIDE",
        help="files, folders, s3:// URLs, or CSV lists with the columns "
        "slide[,mpp][,output][,mask][,roi] and paths relative to the CSV",
    )
    add_recursive_option(parser)
    parser.add_argument(
        "--out",
        type=location,
        required=True,
        metavar="PATH",
        help="where to write, a path or s3:// URL: a name that ends in .zarr for one slide, else a "
        "folder",
    )
    add_model_options(parser)
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
    lesions = parser.add_mutually_exclusive_group()
    lesions.add_argument(
        "--no-lesions", action="store_true", help="do not write the tables of lesions"
    )
    add_settings_file_option(lesions)
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
    parser.add_argument(
        "--retry-unreadable",
        action="store_true",
        help="of heatmaps that are there, score the blocks again in which cells could not be read",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    _add_run_options(parser)
    add_cache_options(parser)
    add_resolution_options(parser)
    add_tissue_options(parser)
    add_engine_options(parser)
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    """How several slides are gone through."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="count slides, cells, tiles and blocks, and estimate the time; write nothing",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only the first N slides, in the order given"
    )
    parser.add_argument(
        "--order",
        choices=("largest", "smallest", "given"),
        default="largest",
        help="which slides go first, by size of file (default: largest)",
    )
    parser.add_argument(
        "--fail-fast",
        action="store_true",
        help="stop at the first slide that fails (default: try them all)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="longest time in work of a slide; then it has failed, and the next run continues it "
        "(default: none)",
    )
    parser.add_argument(
        "--no-isolation",
        action="store_true",
        help="read slides in this process: a crash of a slide library then ends the run",
    )


def run(arguments: argparse.Namespace) -> int:
    """Score every slide; the exit code tells what became of them."""
    from histoslide.cohort.jobs import collect_jobs
    from histoslide.slide import refuse_what_is_no_slide
    from histoslide.slide.access import SlideAccess

    _check(arguments)
    mpp, by_name = read_resolutions(arguments)
    jobs = collect_jobs(
        arguments.slides, mpp=mpp, mpp_by_name=by_name, recursive=arguments.recursive
    )[: arguments.limit]
    if _is_single(arguments) and (len(jobs) > 1 or arguments.slides[0].suffix.lower() == ".csv"):
        what = f"there are {len(jobs)} slides" if len(jobs) > 1 else "a CSV names its own outputs"
        raise HistoslideError(f"--out {arguments.out} names one heatmap, but {what}: give a folder")
    if len(jobs) == 1:  # of several, one that is no slide fails by itself
        refuse_what_is_no_slide(jobs[0].path)
    if arguments.dask is not None:  # workers may have another current folder
        jobs = [replace(job, path=job.path.absolute()) for job in jobs]
        arguments.out = arguments.out.absolute()
        _options(arguments)  # what is wrong with them is said before a cluster is waited for
    here = arguments.dask is None and not arguments.no_isolation
    with SlideAccess(isolate=here).begin(), chosen_engine(arguments) as (model, runner):
        logger.info("%s", said_of(model))
        # Only now, since it imports most of the package: meanwhile the network is compiled.
        options = replace(_options(arguments), runner=runner)
        if model.first_look is not None:
            options = replace(options, mode=None)  # the cascade's own
        if arguments.dry_run:
            return _dry_run(jobs, model, options, arguments)
        results = _score(jobs, model, options, arguments)
    _print(results, arguments)
    return exit_code(map(outcome, results))


def _check(arguments: argparse.Namespace) -> None:
    refuse_file_name(arguments.out, "name a heatmap (.zarr) for one slide, else a folder")
    if arguments.stride is not None and arguments.stride < 1:
        raise HistoslideError(f"--stride must be at least 1 px, not {arguments.stride}")
    if not 0 <= arguments.threshold <= 1:
        raise HistoslideError(f"--threshold must lie in 0-1, not {arguments.threshold}")
    if arguments.limit is not None and arguments.limit < 1:
        raise HistoslideError(f"--limit must be at least 1 slide, not {arguments.limit}")
    if arguments.timeout is not None and not arguments.timeout > 0:
        raise HistoslideError(f"--timeout must be more than 0 s, not {arguments.timeout}")
    score_mode(arguments)
    if arguments.dry_run and arguments.dask is not None:
        raise HistoslideError("--dry-run measures this machine: leave out --dask")


def _options(arguments: argparse.Namespace) -> ScoreOptions:
    from histoslide.lesions import LesionSettings
    from histoslide.pipeline import ScoreOptions
    from histoslide.slide.access import SlideAccess

    chosen = chosen_settings(arguments)
    settings = LesionSettings() if chosen is None else chosen.settings
    return ScoreOptions(
        stride_px=arguments.stride,
        tissue=tissue_options(arguments),
        mode=score_mode(arguments),
        ngff=arguments.ngff,
        overlay=not arguments.no_overlay,
        overlay_threshold=arguments.threshold,
        lesions=None if arguments.no_lesions else settings,
        mask_png=arguments.mask_png,
        overwrite=arguments.overwrite,
        retry_unreadable=arguments.retry_unreadable,
        access=SlideAccess(cache=slide_cache(arguments), isolate=not arguments.no_isolation),
        command=scrubbed_command(sys.argv[1:]),
        timeout_s=arguments.timeout,
    )


def _is_single(arguments: argparse.Namespace) -> bool:
    out: Location = arguments.out
    return out.suffix == ".zarr"


def _score(
    jobs: list[SlideJob], model: BlockModel, options: ScoreOptions, arguments: argparse.Namespace
) -> list[SlideResult]:
    from histoslide.cohort.run import score_slides
    from histoslide.pipeline import score_slide

    if _is_single(arguments):
        job = jobs[0]
        with Progress(job.path.name, unit="block", quiet=arguments.quiet) as progress:
            report = _block_reporter(progress)
            out = arguments.out
            own = job.options(options)
            result = score_slide(job.path, out, model, own, mpp=job.mpp, on_block=report)
        if result.tiles_per_second is None and result.counts["scored"]:
            logger.info("%s is complete from an earlier run: nothing was scored again", out)
        return [result]
    with Progress("cohort", unit="tile", quiet=arguments.quiet) as progress:
        return score_slides(
            jobs,
            arguments.out,
            model,
            options,
            order=arguments.order,
            fail_fast=arguments.fail_fast,
            on_progress=_cohort_reporter(progress),
        )


def outcome(result: SlideResult) -> Outcome:
    """What became of a slide, for the exit code."""
    match result.state, result.cause:
        case "done", _:
            return Outcome.DONE
        case "partly unreadable", _:
            return Outcome.IN_PART
        case "failed", "bug":
            return Outcome.BUG
        case "failed", "resolution unknown":
            return Outcome.NO_RESOLUTION
        case "failed", _:
            return Outcome.FAILED
        case _:
            return Outcome.NOT_BEGUN


def _block_reporter(progress: Progress) -> BlockProgress:
    started = time.monotonic()
    before: int | None = None

    def report(done: int, total: int, scored: int) -> None:
        nonlocal before
        if before is None:  # what an earlier run scored says nothing of this one's speed
            before = 0 if done == 1 else scored
        speed = (scored - before) / max(1e-9, time.monotonic() - started)
        progress.update(done, total, f"{scored:,} tiles, {rate(speed)} tiles/s")

    return report


def _cohort_reporter(progress: Progress) -> Callable[[CohortProgress], None]:
    started = time.monotonic()

    def report(now: CohortProgress) -> None:
        note = f"{now.slides_done} of {now.slides} slides"
        if not sys.stderr.isatty():  # the bar tells the rate itself
            speed = now.tiles_done / max(1e-9, time.monotonic() - started)
            note += f", {rate(speed)} tiles/s"
        if now.scoring:
            note += f", {', '.join(now.scoring)}"
        finished = now.slides_done == now.slides
        progress.update(now.tiles_done, now.tiles, note, finished=finished)

    return report


def _dry_run(
    jobs: list[SlideJob], model: BlockModel, options: ScoreOptions, arguments: argparse.Namespace
) -> int:
    from histoslide.cohort.dry_run import network_speed, plan_slides
    from histoslide.scoring.cascade import mode_of

    folder = arguments.out
    if _is_single(arguments):
        folder, jobs = arguments.out.parent, [replace(jobs[0], output=arguments.out.name)]
    with Progress("planned", unit="slide", quiet=arguments.quiet) as progress:
        plans = plan_slides(jobs, folder, model, options, on_slide=progress.update)
    tiles = sum(plan.tiles_left for plan in plans)
    mode = options.mode or mode_of(model)
    speed = network_speed(model.here(), mode, options.stride_px) if tiles else None
    if arguments.json:
        facts = {
            "slides": [asdict(plan) for plan in plans],
            "tiles_left": tiles,
            "tiles_per_second": speed and speed.at_best,
            "seconds": tiles / speed.at_best if speed else 0.0,
            "seconds_at_most": tiles / speed.at_worst if speed else 0.0,
        }
        print(json.dumps(facts, indent=2))  # noqa: T201
    else:
        _print_plans(plans, speed)
    return exit_code(map(_planned, plans))


def _planned(plan: SlidePlan) -> Outcome:
    if plan.state != "failed":
        return Outcome.DONE
    return Outcome.NO_RESOLUTION if plan.resolution_unknown else Outcome.FAILED


def _print_plans(plans: list[SlidePlan], speed: Speed | None) -> None:
    for plan in plans:
        if plan.state == "failed":
            print(f"{plan.slide}: would fail: {plan.error}")  # noqa: T201
            continue
        text = f"{plan.tiles_left:,} tiles"
        if plan.state != "to score":
            text += f" left of {plan.tiles:,} ({plan.state})"
        blocks = "1 block" if plan.blocks == 1 else f"{plan.blocks:,} blocks"
        print(f"{plan.slide}: {text} in {blocks}, {plan.cells:,} cells → {plan.output}")  # noqa: T201
    tiles = sum(plan.tiles_left for plan in plans)
    good = [plan for plan in plans if plan.state != "failed"]
    text = f"{len(good):,} of {len(plans):,} slides, {tiles:,} tiles to score"
    if speed:
        text += f" at {rate(speed.at_best)} a second: about {duration(tiles / speed.at_best)}"
        if speed.at_worst < speed.at_best:
            text += f", and up to {duration(tiles / speed.at_worst)} where all is looked at again"
    print(text)  # noqa: T201


def _print(results: list[SlideResult], arguments: argparse.Namespace) -> None:
    from histoslide import quantities

    if arguments.json:
        print(json.dumps([asdict(result) for result in results], indent=2))  # noqa: T201
        return
    for result in results:
        if result.state == "failed":
            print(f"{result.slide}: failed: {result.error}")  # noqa: T201
            continue
        if result.state == "pending":
            print(f"{result.slide}: not finished, since the run stopped before")  # noqa: T201
            continue
        counts = result.counts
        scored = counts["scored"]
        text = f"{scored:,} of {sum(counts.values()):,} cells scored"
        if result.highest is not None:
            text += f", {result.positive:,} at or above {arguments.threshold:g}"
            text += f", highest {quantities.probability(result.highest)}"
        elif not scored and not counts["unreadable"]:
            text = "nothing was scored" + (": no tissue" if counts["background"] else "")
        if counts["unreadable"]:
            text += f", {counts['unreadable']:,} could not be read"
        folder = arguments.out.parent if arguments.out.suffix == ".zarr" else arguments.out
        print(f"{result.slide}: {text} → {folder / str(result.output)}")  # noqa: T201
    if len(results) > 1:
        print(_totals(results))  # noqa: T201


def _totals(results: list[SlideResult]) -> str:
    """A cohort in one line."""
    from histoslide import quantities

    good = [result for result in results if result.state in {"done", "partly unreadable"}]
    failed = sum(result.state == "failed" for result in results)
    text = f"{len(good):,} of {len(results):,} slides scored"
    if failed:
        text += f", {failed:,} failed"
    if left := len(results) - len(good) - failed:
        text += f", {left:,} not finished"
    text += f": {sum(result.counts['scored'] for result in good):,} cells"
    foci = [it for it in good if it.lesions]
    if any(result.lesions is not None for result in good):
        text += f", foci on {len(foci):,} slides"
    if longest := max(foci, key=lambda it: it.largest_lesion_um or 0, default=None):
        longest_um = longest.largest_lesion_um or 0
        text += f", the longest of {quantities.length(longest_um)} on {longest.slide}"
    if doubted := sum(bool(result.warnings) for result in good):
        text += f"; {doubted:,} with warnings"
    return text
