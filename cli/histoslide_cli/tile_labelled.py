"""``histoslide tile --annotations``: labelled patches of annotated slides."""

from __future__ import annotations

import argparse
from pathlib import Path

from histoslide_cli.console import (
    Progress,
    read_resolutions,
    refuse_file_name,
    slide_cache,
    tissue_options,
)
from histoslide_cli.outcomes import Outcome, exit_code, outcome_of

_DEFAULTS = {
    "classes": None, "label_rule": "any", "per_slide": 1000, "balance": None, "seed": 0,
    "split": "0.8,0.1,0.1", "unannotated": "refuse", "not_exhaustive": False,
}  # fmt: skip


def add_label_options(parser: argparse.ArgumentParser) -> None:
    """``--annotations`` and all that goes with it."""
    group = parser.add_argument_group("labelled patches")
    group.add_argument(
        "--annotations",
        type=Path,
        metavar="FOLDER|FILE",
        help="what is tumour: ASAP XML, GeoJSON, JSON of positives and negatives, or mask pictures "
        "(TIFF, PNG), named like their slides",
    )
    group.add_argument(
        "--classes",
        metavar="NAME=ROLE,...",
        help='what the annotations\' classes are: "Tumor=tumour, _2=normal", excluded or nothing',
    )
    group.add_argument(
        "--label-rule",
        metavar="any|SHARE",
        help="a patch is positive when its centre holds any tumour, or so much of it, 0-1 "
        "(default: any, as PatchCamelyon)",
    )
    group.add_argument(
        "--per-slide",
        metavar="N|all",
        help="most patches of each class of a slide, spread over its lesions (default: 1000)",
    )
    group.add_argument(
        "--balance",
        type=float,
        metavar="RATIO",
        help="at most so many normal patches for each positive one, in each part",
    )
    group.add_argument(
        "--seed", type=int, metavar="N", help="of all that is drawn by chance (default: 0)"
    )
    group.add_argument(
        "--split",
        metavar="PARTS|FILE",
        help="parts of training, validation and test, by patient, or the split.csv of an earlier "
        "run (default: 0.8,0.1,0.1)",
    )
    group.add_argument(
        "--unannotated",
        choices=("refuse", "normal"),
        help="slides without annotations: refuse them, or take them for free of tumour (default: "
        "refuse)",
    )
    group.add_argument(
        "--not-exhaustive",
        action="store_true",
        help="not all tumour is drawn: only what is marked normal is normal (in a list: column "
        "exhaustive)",
    )


def refuse_label_options(arguments: argparse.Namespace) -> None:
    """Make sure that nothing about labels is asked for without annotations.

    Raises:
        HistoslideError: something is.
    """
    from histoslide.errors import HistoslideError

    for name in _DEFAULTS:
        if getattr(arguments, name) not in (None, False):
            option = f"--{name.replace('_', '-')}"
            raise HistoslideError(f"{option} says how patches are labelled: pass --annotations too")


def cut_patches(arguments: argparse.Namespace) -> int:
    """Cut one set of patches of all slides; the exit code tells whether all could be read."""
    from histoslide.annotations.class_map import ClassMap
    from histoslide.errors import HistoslideError
    from histoslide.slide.access import SlideAccess
    from histoslide.storage.location import is_remote
    from histoslide.tiling.labelled.cut import cut_labelled
    from histoslide.tiling.labelled.label_rule import LabelRule
    from histoslide.tiling.labelled.patient_split import PARTS, Fractions
    from histoslide.tiling.labelled.planning import CutOptions
    from histoslide.tiling.labelled.slide_list import find_labelled

    for name, default in _DEFAULTS.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
    if is_remote(arguments.out):
        raise HistoslideError(f"--out {arguments.out}: patches are written to a folder, not a URL")
    refuse_file_name(arguments.out, "patches are written into a folder, name that")
    options = CutOptions(
        input_px=arguments.size,
        label_px=arguments.label_size,
        stride_px=32 if arguments.stride is None else arguments.stride,
        target_mpp=arguments.target_mpp,
        tissue=tissue_options(arguments),
        classes=ClassMap.parse(arguments.classes),
        rule=LabelRule.parse(arguments.label_rule),
        per_slide=_per_slide(arguments.per_slide),
        balance=arguments.balance,
        seed=arguments.seed,
        unannotated_normal=arguments.unannotated == "normal",
        access=SlideAccess(cache=slide_cache(arguments)),
    )
    split = Path(arguments.split)
    mpp, by_name = read_resolutions(arguments)
    slides = find_labelled(
        arguments.slides, mpp=mpp, mpp_by_name=by_name, exhaustive=not arguments.not_exhaustive
    )
    with (
        Progress("planning", unit="slide", quiet=arguments.quiet) as planning,
        Progress("cutting", unit="patch", quiet=arguments.quiet) as cutting,
    ):
        found = cut_labelled(
            slides,
            arguments.annotations,
            arguments.out,
            options,
            split=split if split.is_file() else Fractions.parse(arguments.split),
            patch_format=arguments.format or "pcam-hdf5",
            overwrite=arguments.overwrite,
            on_planned=planning.update,
            on_patches=cutting.update,
        )
    for part in PARTS:
        count, normal, tumour = found.counts(part)
        if count:
            noun = "slide" if count == 1 else "slides"
            print(f"{part}: {normal} normal, {tumour} tumour, of {count} {noun}")  # noqa: T201
    unreadable = sum(slide.unreadable for slide in found.record.slides)
    note = f", {unreadable} patches could not be read" if unreadable else ""
    print(f"{len(found.record.slides)} of {len(slides)} slides in {found.folder}{note}")  # noqa: T201
    outcomes = [outcome_of(error) for error in found.failed.values()]
    outcomes += [
        Outcome.IN_PART if slide.unreadable else Outcome.DONE for slide in found.record.slides
    ]
    return exit_code(outcomes)


def _per_slide(text: str | int) -> int | None:
    from histoslide.errors import HistoslideError

    try:
        return None if text == "all" else int(text)
    except ValueError:
        raise HistoslideError(f"--per-slide {text}: write a number, or all") from None
