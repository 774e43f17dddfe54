"""``histoslide demo``: the whole story on a slide that the program makes."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from histoslide_cli.console import Progress
from histoslide_cli.engine_options import chosen_engine, engine_defaults, said_of
from histoslide_cli.outcomes import EXIT_DONE

logger = logging.getLogger("histoslide.cli")

DEMO_SIZE_L0 = 2200
"""Side of the demo slide in level-0 pixels; about a thousand cells, half a minute on two cores."""

DEMO_MPP = 0.5
"""Micrometres per pixel of the demo slide, as a 20× scan."""


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "demo",
        parents=[common],
        help="make a slide, score it, draw it",
        description="Writes a synthetic lymph node with a metastasis as a real pyramidal TIFF, "
        "scores it with the weights that ship, and leaves slide.tif, heat.zarr and heat.png.",
        epilog="example: histoslide demo --out demo/",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo"),
        metavar="FOLDER",
        help="where to write (default: demo/)",
    )
    parser.add_argument("--seed", type=int, default=7, help="of the synthetic slide (default: 7)")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Make the slide unless it is there, score it, say what to try next."""
    from histoslide.errors import HistoslideError
    from histoslide.pipeline import ScoreOptions, score_slide
    from histoslide.synthetic import scene_slide

    folder: Path = arguments.out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HistoslideError(f"{folder} cannot be written: {error.strerror}") from error
    slide, heat = folder / "slide.tif", folder / "heat.zarr"
    if not slide.exists():
        logger.info("drawing a lymph node of %d × %d px", DEMO_SIZE_L0, DEMO_SIZE_L0)
        scene_slide(
            slide, width=DEMO_SIZE_L0, height=DEMO_SIZE_L0, mpp=DEMO_MPP, seed=arguments.seed
        )
    with (
        chosen_engine(engine_defaults(device=arguments.device)) as (model, _),
        Progress(slide.name, unit="block", quiet=arguments.quiet) as progress,
    ):
        logger.info("%s", said_of(model))
        result = score_slide(
            slide,
            heat,
            model,
            ScoreOptions(command="histoslide demo"),
            on_block=lambda done, total, _: progress.update(done, total),
        )
    print(  # noqa: T201
        f"{result.counts['scored']} cells scored, {result.positive} of them at or above 0.5\n"
        f"  {slide}      the slide\n"
        f"  {heat}      the heatmap\n"
        f"  {heat.with_suffix('.png')}       look at this\n"
        "try next:\n"
        f"  histoslide view {heat}\n"
        f"  histoslide info {slide} --mask-png {folder / 'mask.png'}\n"
        f"  histoslide lesions {heat}\n"
        f"  histoslide tile {slide} --out {folder / 'tiles'}\n"
        "  histoslide score your-slide.svs --out heat.zarr"
    )
    return EXIT_DONE
