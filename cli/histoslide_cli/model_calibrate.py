"""``histoslide model calibrate``: which faster ways of computing a model are as good as float32."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from histoslide_cli.console import Progress
from histoslide_cli.model_choice import add_model_option
from histoslide_cli.outcomes import EXIT_DONE
from histoslide_cli.patch_options import add_part_option

if TYPE_CHECKING:
    from histoslide.model.fast_paths import FastPaths


def add_calibrate(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "calibrate",
        parents=[common],
        help="measure int8 and bf16 against float32, so that score may use them",
        description="Measures, on labelled patches, the ranges that int8 needs and how int8 and "
        "bf16 compare with float32. The record is written beside the bundle, as "
        "<name>.fast-paths.json; score then uses what changes the AUC by at most 0.002 and is "
        "fastest on its machine.",
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
    from histoslide.storage.writing import refuse_existing

    bundle: Path = default_bundle() if arguments.model is None else arguments.model
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
        print(json.dumps({**asdict(paths), "file": str(target)}, indent=2))  # noqa: T201
    else:
        print("\n".join([*gate_lines(paths), f"→ {target}"]))  # noqa: T201
    return EXIT_DONE


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
