"""``histoslide info``: what a slide is, before anything is done with it."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from histoslide_cli.console import (
    add_cache_options,
    add_recursive_option,
    add_resolution_options,
    add_tissue_options,
    location,
    read_resolutions,
    refuse_other_picture,
    slide_cache,
    tissue_options,
)
from histoslide_cli.outcomes import Outcome, exit_code, outcome_of

if TYPE_CHECKING:
    from histoslide.slide import Slide
    from histoslide.storage.location import Location

logger = logging.getLogger("histoslide.cli")


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "info",
        parents=[common],
        help="what a slide is: size, levels, resolution",
        description="Shows size, levels and resolution of slides, and on request a picture of "
        "tissue mask and grid to check before scoring.",
        epilog="example: histoslide info slides/*.svs --mask-png checks/",
    )
    parser.add_argument(
        "slides", nargs="+", type=location, metavar="SLIDE", help="files, folders or s3:// URLs"
    )
    add_recursive_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--mask-png",
        type=location,
        metavar="PATH",
        help="draw mask and grid over each slide: a .png file for one slide, else a folder",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing pictures")
    add_cache_options(parser)
    add_resolution_options(parser)
    add_tissue_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Show every slide that opens; the exit code tells whether all did."""
    from histoslide.errors import HistoslideError
    from histoslide.slide import find_slides, match_names
    from histoslide.slide.access import SlideAccess

    if arguments.mask_png is not None:
        refuse_other_picture("--mask-png", arguments.mask_png)
    mpp, by_name = read_resolutions(arguments)
    paths = find_slides(arguments.slides, recursive=arguments.recursive)
    by_name = match_names(by_name, [path.name for path in paths])
    access = SlideAccess(cache=slide_cache(arguments))
    found: list[dict[str, Any]] = []
    outcomes: list[Outcome] = []
    for path in paths:
        try:
            with access.open(path, mpp=by_name.get(path.name, mpp)) as slide:
                facts = describe(slide, slide.readers) | {"unusable": _unusable(slide)}
                if not arguments.json:
                    print_facts(facts)
                found.append(facts)
                if arguments.mask_png is not None:
                    draw_check(slide, arguments, several=len(paths) > 1)
        except HistoslideError as error:
            if len(paths) == 1:
                raise
            outcomes.append(outcome_of(error))
            logger.error("%s", error)  # noqa: TRY400
        else:
            outcomes.append(Outcome.DONE)
    if arguments.json:
        print(json.dumps(found, indent=2))  # noqa: T201
    return exit_code(outcomes)


def _unusable(slide: Slide) -> str | None:
    """Why the model that ships cannot score a slide, apart from an unknown resolution."""
    from histoslide.errors import ResolutionError
    from histoslide.model import default_bundle, read_spec
    from histoslide.scoring.lazy import make_grid

    if slide.mpp is None:
        return None
    try:
        make_grid(slide, read_spec(default_bundle()))
    except ResolutionError as error:
        return str(error).removeprefix(f"{slide.name}: ")
    return None


def describe(slide: Slide, readers: Sequence[str]) -> dict[str, Any]:
    """The facts of a slide and what reads each of its levels, JSON-ready."""
    bounds = slide.bounds_l0
    return {
        "name": slide.name,
        "vendor": slide.properties.get("openslide.vendor"),
        "width_l0": slide.size_l0.width,
        "height_l0": slide.size_l0.height,
        "mpp": None if slide.mpp is None else slide.mpp.value,
        "mpp_source": None if slide.mpp is None else slide.mpp.source,
        "objective_power": slide.properties.get("openslide.objective-power"),
        "levels": [
            {
                "width": size.width,
                "height": size.height,
                "downsample": downsample,
                "reader": reader,
            }
            for size, downsample, reader in zip(
                slide.level_sizes, slide.level_downsamples, readers, strict=True
            )
        ],
        "bounds_l0": None if bounds is None else [bounds.x, bounds.y, bounds.width, bounds.height],
        "quickhash": slide.quickhash,
    }


def print_facts(facts: dict[str, Any]) -> None:
    """Print a slide's facts for a person."""
    from histoslide import quantities

    mpp = facts["mpp"]
    width, height = facts["width_l0"], facts["height_l0"]
    lines = [facts["name"]]
    size = f"{width:,} × {height:,} px"
    if mpp is not None:
        size += f" = {quantities.extent(width * mpp, height * mpp)}"
    resolution = (
        "unknown: pass --mpp to work on this slide"
        if mpp is None
        else f"{quantities.resolution(mpp)} ({facts['mpp_source']})"
    )
    levels = ", ".join(
        f"{level['width']:,}×{level['height']:,} (÷{level['downsample']:.4g})"
        for level in facts["levels"]
    )
    lines += [f"  size        {size}", f"  resolution  {resolution}", f"  levels      {levels}"]
    power = facts["objective_power"]
    lines.append(f"  scanner     {facts['vendor']}" + (f", objective {power}×" if power else ""))
    readers = [level["reader"] for level in facts["levels"]]
    if len(set(readers)) == 1:
        lines.append(f"  reader      {readers[0]}")
    else:
        each = ", ".join(f"level {level} {reader}" for level, reader in enumerate(readers))
        lines.append(f"  reader      {each}")
    if facts["bounds_l0"] is not None:
        x, y, w, h = facts["bounds_l0"]
        lines.append(f"  bounds      {w:g}×{h:g} px at ({x:g}, {y:g})")
    if facts["unusable"]:
        lines.append(f"  unusable    the model that ships cannot score it: {facts['unusable']}")
    print("\n".join(lines))  # noqa: T201


def draw_check(slide: Slide, arguments: argparse.Namespace, *, several: bool) -> None:
    """Draw mask and grid of a slide."""
    from histoslide.model import default_bundle, read_spec
    from histoslide.render import draw_mask
    from histoslide.render.png import DEFAULT_OVERLAY_PX, save_png
    from histoslide.scoring.lazy import make_grid, plan_cells

    options = tissue_options(arguments)
    grid = make_grid(slide, read_spec(default_bundle()))
    tissue, roi = options.find(slide)
    plan = plan_cells(grid, tissue, threshold=options.threshold, roi=roi)
    picture = draw_mask(slide, tissue, grid, plan, longest_px=DEFAULT_OVERLAY_PX)
    target: Location = arguments.mask_png
    if several or target.suffix.lower() != ".png":
        target = target / f"{slide.name}-mask.png"
    save_png(picture.image, target, overwrite=arguments.overwrite)
    logger.info("wrote %s", target)
