"""``histoslide mine``: patches that heatmaps got wrong, for training again."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from histoslide_cli.console import (
    Progress,
    add_cache_options,
    add_slides_option,
    location,
    refuse_file_name,
    slide_cache,
)
from histoslide_cli.model_choice import add_model_option
from histoslide_cli.outcomes import EXIT_DONE

if TYPE_CHECKING:
    from histoslide.model.features import Features


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "mine",
        parents=[common],
        help="patches that heatmaps got wrong, to train on",
        description="Compares heatmaps with annotations, with reviews (rejected foci are false, "
        "accepted ones are tumour), or with the knowledge that a slide has no tumour, and writes "
        "patches of the cells that are wrong into a folder per class, as train --extra takes it. "
        "They are chosen to look unlike each other to the model that scored. mined.json says of "
        "each where it is from; a sheet of them lies beside the folder. Slides that are marked for "
        "validation or test are refused.",
        epilog="example: histoslide mine out/ --reference reviews/ --slide slides/ --out hard/",
    )
    parser.add_argument(
        "heatmaps",
        nargs="+",
        type=location,
        metavar="PATH",
        help="heat.zarr made by score, or the folder of a cohort",
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="PATH",
        help="folder of annotations and reviews named after their slides, the file of one slide, "
        "or a CSV with the column slide and any of annotations, label, node, exhaustive, patient "
        "and part; slides in other parts than train are refused",
    )
    parser.add_argument(
        "--negative",
        action="append",
        default=[],
        metavar="NAME",
        help="a slide without tumour; may be repeated; all: none has any",
    )
    parser.add_argument(
        "--split",
        type=Path,
        metavar="FILE",
        help="split.csv of tile: slides and patients in other parts than train are refused",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    add_slides_option(parser)
    add_cache_options(parser)
    add_model_option(parser)
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    parser.add_argument(
        "--above",
        type=float,
        default=0.5,
        metavar="P",
        help="a cell without tumour is wrong at this probability or more (default: 0.5)",
    )
    parser.add_argument(
        "--below",
        type=float,
        default=0.5,
        metavar="P",
        help="a cell with tumour is wrong below this probability (default: 0.5)",
    )
    parser.add_argument(
        "--label-rule",
        default="any",
        metavar="RULE",
        help="a cell is tumour where any of its label footprint is, or from a share on, 0-1 "
        "(default: any)",
    )
    parser.add_argument(
        "--per-slide",
        type=int,
        default=200,
        metavar="N",
        help="most patches of each class of a slide (default: 200)",
    )
    parser.add_argument(
        "--per-lesion",
        type=int,
        default=20,
        metavar="N",
        help="most patches of one connected group of wrong cells (default: 20)",
    )
    parser.add_argument(
        "--folders",
        default="0,1",
        metavar="NORMAL,TUMOUR",
        help="what the folders of the two classes are called in the training set (default: 0,1)",
    )
    parser.add_argument(
        "--classes",
        metavar="NAME=ROLE,…",
        help="what classes of annotations are: tumour, normal, excluded or nothing, as in tile",
    )
    parser.add_argument(
        "--not-exhaustive",
        action="store_true",
        help="annotations do not show all tumour: what nobody marked is not known, as in a review",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    parser.add_argument("--json", action="store_true", help="print what was mined as JSON")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Mine, and say how much."""
    refuse_file_name(arguments.out, "name the folder that gets the patches")
    from histoslide.annotations.class_map import ClassMap
    from histoslide.mining.mine import MiningOptions, mine, sheet_path
    from histoslide.mining.reference import read_reference
    from histoslide.model import default_bundle, file_sha256, pick_device
    from histoslide.slide.access import SlideAccess
    from histoslide.storage.records import to_json
    from histoslide.tiling.labelled.label_rule import LabelRule
    from histoslide.viewer.catalogue import Catalogue

    names = [name.strip() for name in arguments.folders.split(",")]
    options = MiningOptions(
        above=arguments.above,
        below=arguments.below,
        rule=LabelRule.parse(arguments.label_rule),
        per_slide=arguments.per_slide,
        per_lesion=arguments.per_lesion,
        folders=(names[0], ",".join(names[1:])),
    )
    reference = read_reference(
        arguments.reference,
        negative=arguments.negative,
        split=arguments.split,
        classes=ClassMap.parse(arguments.classes),
        exhaustive=not arguments.not_exhaustive,
    )
    bundle = arguments.model or default_bundle()
    catalogue = Catalogue(
        arguments.heatmaps,
        slides=arguments.slides,
        access=SlideAccess(cache=slide_cache(arguments)),
    )

    def features() -> Features:
        from histoslide.model.features import load_features

        return load_features(bundle, device=pick_device(arguments.device))

    try:
        with Progress("slides", unit="slide", quiet=arguments.quiet) as progress:
            record = mine(
                catalogue,
                reference,
                features,
                arguments.out,
                options,
                model_sha256=file_sha256(bundle),
                overwrite=arguments.overwrite,
                on_slide=progress.update,
            )
    finally:
        catalogue.close()
    if arguments.json:
        print(to_json(record), end="")  # noqa: T201
        return EXIT_DONE
    for heat, slide in zip(record.settings.heatmaps, record.slides, strict=True):
        taken = Counter(patch.why for patch in slide.patches)
        print(  # noqa: T201
            f"{heat.slide}: {taken['false positive']} of {slide.false_positives} false positives, "
            f"{taken['miss']} of {slide.misses} misses ({heat.truth})"
        )
    if record.patches:
        seen = f"seen in {sheet_path(arguments.out)}"
        print(f"{len(record.patches)} patches in {arguments.out}, {seen}")  # noqa: T201
    else:
        print("nothing was wrong, so nothing was mined")  # noqa: T201
    return EXIT_DONE
