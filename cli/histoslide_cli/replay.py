"""``histoslide replay``: does a heatmap come out again?"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from histoslide_cli.console import Progress, add_cache_options, location, slide_cache
from histoslide_cli.diff import (
    add_comparison_options,
    check_comparison_options,
    outcome,
    print_comparison,
)
from histoslide_cli.model_choice import add_model_options, choose_model, model_file
from histoslide_cli.outcomes import exit_code

if TYPE_CHECKING:
    from histoslide.model.first_look import FirstLook
    from histoslide.scoring.lazy import BlockModel
    from histoslide.scoring.mode import ScoreMode
    from histoslide.storage.location import Location

logger = logging.getLogger("histoslide.cli")


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "replay",
        parents=[common],
        help="score a slide again as its heatmap says, and compare",
        description="Scores a slide again with the settings that its heatmap records and compares "
        "the two. Ends with 0 if they are equal, with 3 if not. Slide and model must be those that "
        "were used.",
        epilog="example: histoslide replay heat.zarr --slide slide.svs --sample 4",
    )
    parser.add_argument("heatmap", type=location, metavar="HEAT.ZARR", help="made by score")
    parser.add_argument(
        "--slide",
        type=location,
        metavar="FILE",
        help="the slide (default: the one of that name beside the heatmap)",
    )
    add_cache_options(parser)
    add_model_options(parser)
    parser.add_argument(
        "--first-look",
        type=model_file,
        metavar="FILE",
        help="the bundle that looked first, if one did (default: the one of its weights beside "
        "--model, or that ships)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    parser.add_argument(
        "--mask", type=Path, metavar="FILE", help="the tissue mask, if it was made with one"
    )
    parser.add_argument(
        "--roi", type=Path, metavar="FILE", help="the region of interest, if it was made with one"
    )
    parser.add_argument(
        "--out", type=location, metavar="NEW.ZARR", help="keep the new heatmap (default: do not)"
    )
    parser.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="score only N blocks, drawn at random, for a quick check",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    add_comparison_options(parser)
    said = "run the same command again; it continues if --out is given, else it begins anew"
    parser.set_defaults(after_interrupt=said)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Score again, compare; the exit code tells whether the heatmap came out again."""
    from histoslide.errors import HistoslideError
    from histoslide.model import default_bundle, file_sha256, pick_device
    from histoslide.pipeline.replay import (
        find_slide,
        refuse_other_model,
        replay_heatmap,
        replay_settings,
    )
    from histoslide.slide.access import SlideAccess
    from histoslide.store import open_heatmap

    check_comparison_options(arguments)
    if arguments.seed < 0:
        raise HistoslideError(f"--seed must not be negative, as {arguments.seed} is")
    heat = open_heatmap(arguments.heatmap)
    settings = replay_settings(heat, mask=arguments.mask, roi=arguments.roi)
    slide: Location = find_slide(heat) if arguments.slide is None else arguments.slide
    bundle: Path = default_bundle() if arguments.model is None else arguments.model
    if bundle.is_file():  # else the model's own error says it better
        given = "the bundle that ships" if arguments.model is None else str(bundle)
        refuse_other_model(heat, file_sha256(bundle), given)
    model: BlockModel = choose_model(
        arguments,
        device=pick_device(arguments.device),
        backend=settings.engine.backend,
        precision=settings.engine.precision,
    )
    if (first := settings.mode.first_look) is not None:
        model = _with_first_look(arguments, bundle, model, settings.mode, first)
    elif arguments.first_look is not None:
        raise HistoslideError(f"{heat.path.name} was made without a first look: leave it out")
    logger.info("model %s on %s, %s", model.spec.name, model.device, model.engine)
    with Progress(slide.name, unit="block", quiet=arguments.quiet) as progress:
        comparison = replay_heatmap(
            heat,
            slide,
            model,
            mask=arguments.mask,
            roi=arguments.roi,
            out=arguments.out,
            access=SlideAccess(cache=slide_cache(arguments)),
            sample=arguments.sample,
            seed=arguments.seed,
            threshold=arguments.threshold,
            tolerance=arguments.tolerance,
            on_block=lambda done, total, _: progress.update(done, total),
        )
    print_comparison(comparison, as_json=arguments.json)
    return exit_code([outcome(comparison)])


def _with_first_look(
    arguments: argparse.Namespace,
    bundle: Path,
    model: BlockModel,
    mode: ScoreMode,
    first: FirstLook,
) -> BlockModel:
    """The model, with the one that looked first for a heatmap.

    Raises:
        HistoslideError: that is not at hand.
    """
    from histoslide.errors import BundleError
    from histoslide.model import file_sha256, load_model
    from histoslide.model.choosing_first_look import find_first_look
    from histoslide.model.engine import Engine
    from histoslide.scoring.cascade import Cascade

    given: Path | None = arguments.first_look
    if given is None:
        given = find_first_look(bundle, first.sha256, f"{first.name}.safetensors")
        if given is None:
            raise BundleError(
                f"{first.name} (sha256 {first.sha256}), which looked first, is neither beside "
                f"{bundle.name} nor ships: pass it as --first-look"
            )
    elif (found := file_sha256(given)) != first.sha256:
        raise BundleError(
            f"{first.name} (sha256 {first.sha256}) looked first, but {given} has sha256 {found}: "
            "pass --first-look with the bundle that did"
        )
    engine = Engine.parse(first.engine)
    light = load_model(
        given, device=model.device, backend=engine.backend, precision=engine.precision
    )
    return Cascade(
        model=model,
        first=light,
        threshold=mode.cascade_threshold,
        scale=first.scale,
        weight=first.say,
        certain=first.enough,
    )
