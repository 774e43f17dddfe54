"""``histoslide model calibrate``: which faster ways of computing a model are as good as float32."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from histoslide import quantities
from histoslide_cli.console import Progress, add_resolution_options, location, read_resolutions
from histoslide_cli.model_choice import add_model_option, model_file
from histoslide_cli.outcomes import EXIT_DONE
from histoslide_cli.patch_options import add_part_option

if TYPE_CHECKING:
    from histoslide.model.fast_paths import FastPaths, FirstLookGate


def add_calibrate(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "calibrate",
        parents=[common],
        help="measure int8 and bf16 against float32, or a first look, so that score may use them",
        description="Measures, on labelled patches, the ranges that int8 needs and how int8 and "
        "bf16 compare with float32. The record is written beside the bundle, as "
        "<name>.fast-paths.json; score then uses what changes the AUC by at most 0.002 and is "
        "fastest on its machine. With --first-look it measures a lighter model that looks first; "
        "score then has the model look only where that leaves a doubt, if that ranks patches as "
        "well, loses less than 1 in 1,000 positive cells and finds the same lesions.",
        epilog="example: histoslide model calibrate pcam/ --model model.safetensors",
    )
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="PCam HDF5 files, the Kaggle layout, or a folder per class",
    )
    add_model_option(parser)
    add_part_option(parser)
    parser.add_argument(
        "--precision",
        dest="precisions",
        action="append",
        choices=("int8", "bf16"),
        help="to measure; may be repeated (default: both)",
    )
    parser.add_argument(
        "--range-patches",
        type=int,
        default=512,
        metavar="N",
        help="patches that set the ranges; the others are compared (default: 512)",
    )
    parser.add_argument(
        "--class-names",
        nargs="+",
        metavar="NAME",
        help="what the model calls the classes of the data, in their order",
    )
    look = parser.add_argument_group("a first look")
    look.add_argument(
        "--first-look",
        type=model_file,
        metavar="FILE",
        help="measure instead whether this bundle, or light, can look first for the model, so that "
        "it need look only where that leaves a doubt",
    )
    look.add_argument(
        "--slides",
        nargs="+",
        type=location,
        metavar="SLIDE",
        help="slides, folders and lists (CSV: slide,mpp) to try it on; without it cannot pass",
    )
    look.add_argument(
        "--stride",
        type=int,
        metavar="PX",
        help="of cells on the slides (default: the label footprint)",
    )
    add_resolution_options(look)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing record")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(
        act=run_calibrate, after_interrupt="nothing was written; run it again from the start"
    )


def run_calibrate(arguments: argparse.Namespace) -> int:
    """Measure, and write the record beside the bundle.

    Raises:
        HistoslideError: the bundle or the patches cannot be used, or there is a record already.
    """
    from histoslide.datasets import PatchFolder
    from histoslide.errors import HistoslideError
    from histoslide.evaluation.patches.classes import match_classes
    from histoslide.evaluation.patches.gates import measure_fast_paths
    from histoslide.model import default_bundle, read_spec
    from histoslide.model.fast_paths import fast_paths_file, write_fast_paths
    from histoslide.storage.records import to_builtins
    from histoslide.storage.writing import refuse_existing

    bundle: Path = default_bundle() if arguments.model is None else arguments.model
    if arguments.first_look is not None:
        return _measure_first_look(arguments, bundle)
    for option in ("slides", "stride", "mpp", "mpp_csv"):
        if getattr(arguments, option) is not None:
            said = option.replace("_", "-")
            raise HistoslideError(
                f"--{said} goes with --first-look: leave it out, or name a bundle"
            )
    if arguments.range_patches < 1:
        raise HistoslideError(f"--range-patches must be at least 1, not {arguments.range_patches}")
    spec = read_spec(bundle)
    refuse_existing(fast_paths_file(bundle), overwrite=arguments.overwrite)
    folder = PatchFolder(root=arguments.data, patch_px=spec.input_px)
    patches, classes = folder.part(arguments.part)
    with Progress("compare", unit="patch", quiet=arguments.quiet) as progress:
        paths = measure_fast_paths(
            bundle,
            patches,
            data=arguments.data.resolve().name,
            class_map=match_classes(classes, spec, names=arguments.class_names),
            precisions=arguments.precisions or ("int8", "bf16"),
            range_patches=arguments.range_patches,
            progress=lambda precision, done, total: progress.update(done, total, precision),
        )
    target = write_fast_paths(bundle, paths)
    if arguments.json:
        print(json.dumps({**to_builtins(paths), "file": str(target)}, indent=2))  # noqa: T201
    else:
        print("\n".join([*gate_lines(paths), f"→ {target}"]))  # noqa: T201
    return EXIT_DONE


def _measure_first_look(arguments: argparse.Namespace, bundle: Path) -> int:
    """Measure a first look, and put it into the record of the bundle.

    Raises:
        HistoslideError: a bundle, a patch or a slide cannot be used, or one was measured already.
    """
    from dataclasses import replace

    from histoslide.cohort.jobs import find_jobs
    from histoslide.datasets import PatchFolder
    from histoslide.errors import HistoslideError
    from histoslide.evaluation.patches.classes import match_classes
    from histoslide.model import file_sha256, load_model
    from histoslide.model.fast_paths import FastPaths, read_fast_paths, write_fast_paths
    from histoslide.pipeline.first_look_gate import GateSlide, measure_first_look
    from histoslide.storage.records import Absent, to_builtins

    if arguments.stride is not None and arguments.stride < 1:
        raise HistoslideError(f"--stride must be at least 1 px, not {arguments.stride}")
    sha256 = file_sha256(bundle)
    data = arguments.data.resolve().name
    before = read_fast_paths(bundle, sha256=sha256) or FastPaths(weights_sha256=sha256, data=data)
    if not isinstance(before.first_look, Absent) and not arguments.overwrite:
        raise HistoslideError(
            f"{bundle.name} has a first look by {before.first_look.name} already: pass --overwrite "
            "to replace it"
        )
    mpp, by_name = read_resolutions(arguments)
    jobs = find_jobs(arguments.slides or [], mpp=mpp, mpp_by_name=by_name)
    model, first = load_model(bundle, device="cpu"), load_model(arguments.first_look, device="cpu")
    folder = PatchFolder(root=arguments.data, patch_px=model.spec.input_px)
    patches, classes = folder.part(arguments.part)
    with Progress("measure", unit="part", quiet=arguments.quiet) as progress:
        gate = measure_first_look(
            model,
            first,
            patches,
            [GateSlide(path=job.path, mpp=job.mpp) for job in jobs],
            data=data,
            file=arguments.first_look.name,
            class_map=match_classes(classes, model.spec, names=arguments.class_names),
            stride_px=arguments.stride,
            progress=lambda what, done, total: progress.update(done, total, what),
        )
    target = write_fast_paths(bundle, replace(before, first_look=gate))
    if arguments.json:
        print(json.dumps({**to_builtins(gate), "file": str(target)}, indent=2))  # noqa: T201
    else:
        print("\n".join([*first_look_lines(gate), f"→ {target}"]))  # noqa: T201
    return EXIT_DONE


def first_look_lines(gate: FirstLookGate) -> list[str]:
    """What was measured of a first look, for a person."""
    below = "" if gate.certain is None else f", below {gate.certain:g}"
    said = (
        f"{gate.name} looks first, from {gate.threshold:g} on{below} the model again "
        f"({gate.engines[1]}, {gate.engines[0]}); what both have seen "
        + (f"is the mean of both, {gate.weight:g} of it the first" if gate.weight else "is its own")
    )
    patches = (
        f"patches: AUC {gate.auc:.4f}, both everywhere {gate.auc_everywhere:.4f}, the model alone "
        f"{gate.auc_alone:.4f}; {gate.lost:,} of {gate.positive:,} positive ones lost "
        f"({gate.patches:,} patches)"
    )
    lines = [said, patches]
    for slide in gate.slides:
        found = "the same" if slide.lesions_alike else "OTHER"
        lines.append(
            f"{slide.slide}: {quantities.share(slide.again, 0)} of {slide.cells:,} cells looked "
            f"at again; {slide.lost:,} of {slide.positive:,} positive ones lost; {found} lesions, "
            f"{slide.lesions:,} of both everywhere"
        )
    verdict = (
        "passed: score takes it unasked" if gate.passed else "FAILED: only with --mode cascade"
    )
    measured = f"{quantities.share(gate.lost_share, 2)} of what is positive lost"
    if gate.certain is not None:
        measured += f", {quantities.share(gate.changed_share, 2)} of what it is certain of changed"
    return [*lines, f"{verdict} ({measured})"]


def gate_lines(paths: FastPaths) -> list[str]:
    """A table of what was measured, for a person."""
    lines = [f"{'':6}{'AUC':>8}{'fp32':>8}{'largest':>9}{'mean':>8}  difference of probability"]
    for precision, gate in paths.gates.items():
        verdict = "passed" if gate.passed else "FAILED: not used unless asked for"
        lines.append(
            f"{precision:6}{gate.auc:>8.4f}{gate.auc_fp32:>8.4f}{gate.largest_difference:>9.4f}"
            f"{gate.mean_difference:>8.4f}  {verdict} ({gate.patches:,} patches, "
            f"{gate.computed_by})"
        )
    return lines
