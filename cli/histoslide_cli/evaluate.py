"""``histoslide evaluate``: how well a model does, judged against what people say."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histoslide import quantities
from histoslide_cli import evaluate_slides
from histoslide_cli.console import Progress, refuse_file_name
from histoslide_cli.model_choice import add_model_options, choose_model, is_pickle
from histoslide_cli.outcomes import EXIT_DONE
from histoslide_cli.patch_options import add_part_option, add_patch_options, patch_folder

if TYPE_CHECKING:
    from histoslide.evaluation.bootstrap import Interval
    from histoslide.evaluation.patches.assessment import Assessment
    from histoslide.evaluation.patches.predictions import Patches, Predictions
    from histoslide.evaluation.patches.robustness import Robustness
    from histoslide.model import Model, ModelSpec
    from histoslide.model.two_looks import TwoLooks

logger = logging.getLogger("histoslide.cli")


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command and what it evaluates."""
    parser = subparsers.add_parser(
        "evaluate",
        help="judge a model on labelled patches, or its heatmaps on annotated slides",
        description="Judges a model on labelled patches, or its heatmaps on annotated slides.",
        epilog="example: histoslide evaluate patches pcam/ --out evaluation/",
    )
    subjects = parser.add_subparsers(metavar="WHAT", required=True)
    _add_patches(subjects, common)
    evaluate_slides.add_parser(subjects, common)
    return parser


def _add_patches(
    subjects: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    parser = subjects.add_parser(
        "patches",
        parents=[common],
        help="a patch model on labelled patches",
        description="Runs a patch model over labelled patches and prints its figures with 95 % "
        "intervals; with --out it writes a report. With --predict it writes a table of "
        "probabilities for patches without labels.",
        epilog="example: histoslide evaluate patches pcam/ --model model.safetensors --out "
        "evaluation/",
    )
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="PCam HDF5 files, the Kaggle layout, or a folder per class; with --predict also "
        "images without labels",
    )
    add_model_options(parser)
    add_part_option(parser)
    add_patch_options(
        parser,
        extra=", as it was given to train",
        slides=": figures by slide, and intervals over slides",
        skip_bad="patches that cannot be read, have no label, or another size",
    )
    parser.add_argument(
        "--split", type=Path, metavar="FILE", help="split.csv of a run, which says the parts"
    )
    parser.add_argument(
        "--class-names",
        nargs="+",
        metavar="NAME",
        help="what the model calls the classes of the data, in their order",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="probability from which a patch is called tumour (default: 0.5)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write report.html, pictures and tables here"
    )
    parser.add_argument(
        "--predict",
        type=Path,
        metavar="FILE",
        help="write id,label (label: probability of tumour) of unlabelled patches, and no figures",
    )
    parser.add_argument(
        "--mode",
        choices=("exact", "auto"),
        default="exact",
        help="exact: the model alone, by torch in float32; auto: what score says by default, after "
        "the first look that was calibrated for the model, on its fastest engine (default: exact)",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="average the logits of the eight symmetries of each patch: eight times the work",
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="also judge the patches in other colours, blurred, compressed, and at other "
        "resolutions: thirteen times the work",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads that decode patches (default: one a core, at most 8)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.set_defaults(
        evaluate=_evaluate_patches,
        after_interrupt="nothing was written; run it again from the start",
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate what the user named."""
    code: int = arguments.evaluate(arguments)
    return code


def _evaluate_patches(arguments: argparse.Namespace) -> int:
    _check_options(arguments)
    return _predict(arguments) if arguments.predict is not None else _judge(arguments)


def _check_options(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before minutes are spent on it."""
    from histoslide.errors import HistoslideError
    from histoslide.evaluation.patches.report import refuse_report
    from histoslide.storage.writing import refuse_existing

    if arguments.workers is not None and arguments.workers < 1:
        raise HistoslideError(f"--workers must be at least 1, not {arguments.workers}")
    if arguments.tta and arguments.mode == "auto":
        raise HistoslideError("--tta turns the tiles of one model: it needs --mode exact, not auto")
    if arguments.predict is not None:
        for name in (
            "out",
            "part",
            "layout",
            "extra",
            "split",
            "slides",
            "skip_bad",
            "class_names",
            "threshold",
            "robustness",
        ):
            if getattr(arguments, name) not in (None, False, []):
                option = name.replace("_", "-")
                raise HistoslideError(
                    f"--predict is for patches without labels, to which --{option} says nothing: "
                    "leave one of the two out"
                )
        refuse_existing(arguments.predict, overwrite=arguments.overwrite)
    if arguments.out is not None:
        if arguments.out.exists() and not arguments.out.is_dir():
            raise HistoslideError(f"--out {arguments.out} is a file: name a folder")
        refuse_file_name(arguments.out, "name the folder that gets report.html and its tables")
        refuse_report(arguments.out, overwrite=arguments.overwrite)


def _predict(arguments: argparse.Namespace) -> int:
    """Write the probabilities of unlabelled patches."""
    from histoslide.datasets import open_unlabelled

    patches = open_unlabelled(arguments.data)
    model = _choose_judge(arguments)
    predictions = _run_model(arguments, model, patches)
    out: Path = arguments.predict
    predictions.save_submission(out, temperature=model.spec.temperature)
    if arguments.json:
        facts = {"model": model.spec.name, "patches": len(predictions), "predictions": str(out)}
        print(json.dumps(facts, indent=2))  # noqa: T201
    else:
        print(f"{out}: {len(predictions)} patches")  # noqa: T201
    return EXIT_DONE


def _judge(arguments: argparse.Namespace) -> int:
    """Compare predictions with labels; print the figures and write the report."""
    from histoslide.datasets import Split
    from histoslide.errors import DataError
    from histoslide.evaluation.patches.assessment import assess, check_threshold
    from histoslide.evaluation.patches.classes import match_classes
    from histoslide.evaluation.patches.report import write_report
    from histoslide.storage.records import to_builtins

    judge = _choose_judge(arguments)
    spec, (model, first) = judge.spec, _models_of(judge)
    check_threshold(arguments.threshold, spec.classes, spec.tumour_index)
    split = None if arguments.split is None else Split(kind="file", file=arguments.split)
    patches, classes = patch_folder(arguments, patch_px=spec.input_px).part(
        arguments.part or ("valid" if split is not None else None), split=split
    )
    class_map = match_classes(classes, spec, names=arguments.class_names)
    pairs = [(name, spec.classes[k]) for name, k in zip(classes, class_map, strict=True)]
    if any(name != called for name, called in pairs):
        said = ", ".join(f"{name} as {called}" for name, called in pairs)
        logger.info("classes of the data are taken %s", said)
    try:
        predictions = _run_model(arguments, judge, patches, class_map)
    except DataError as error:
        raise DataError(f"{error}; --skip-bad leaves such patches out") from error
    assessment = assess(predictions, temperature=spec.temperature, threshold=arguments.threshold)
    robustness = None
    if arguments.robustness:
        robustness = _measure_robustness(arguments, judge, patches, predictions, class_map)
    page = None
    if arguments.out is not None:
        part = f", {arguments.part} part" if arguments.part else ""
        how = ", mean of eight symmetries" if arguments.tta else ""
        if arguments.mode == "auto":
            how += f", computed by {model.engine}"
        if first is not None:
            how += f" after a first look by {first.spec.name} ({first.engine})"
        page = write_report(
            arguments.out,
            predictions=predictions,
            patches=patches,
            spec=spec,
            assessment=assessment,
            robustness=robustness,
            title=f"{spec.name} on {arguments.data.resolve().name}",
            data=f"{arguments.data.resolve().name}{part}{how}",
            overwrite=arguments.overwrite,
        )
    if arguments.json:
        facts = {"model": spec.name, "sha256": model.sha256, "tta": arguments.tta}
        facts |= {"engine": str(model.engine), "first_look": _first_look_facts(judge)}
        facts |= assessment.as_dict() | {"report": None if page is None else str(page)}
        if robustness is not None:
            facts["robustness"] = to_builtins(robustness)
        print(json.dumps(facts, indent=2, ensure_ascii=False))  # noqa: T201
    else:
        print("\n".join(figure_lines(assessment, spec)))  # noqa: T201
        if robustness is not None:
            print("\n".join(robustness_lines(robustness)))  # noqa: T201
        if page is not None:
            print(f"report                  {page}")  # noqa: T201
        else:
            logger.info("pass --out FOLDER for a report with curves, top losses and samples")
    return EXIT_DONE


def _choose_judge(arguments: argparse.Namespace) -> Model | TwoLooks:
    """The model, or with ``--mode auto`` what ``score`` takes.

    Raises:
        HistoslideError: it cannot be read or computed.
    """
    from histoslide.model import load_model, pick_device

    device = pick_device(arguments.device)
    if arguments.mode == "exact":
        return choose_model(arguments, device=device, backend="torch", precision="fp32")
    from histoslide.model.choosing_first_look import choose_first_look
    from histoslide.model.two_looks import TwoLooks

    model = choose_model(arguments, device=device)
    bundle: Path | None = arguments.model
    if bundle is not None and is_pickle(bundle):
        return model  # it has no record beside it
    look = choose_first_look(bundle, sha256=model.sha256, unasked=True)
    return model if look is None else TwoLooks(model, load_model(look.bundle, device=device), look)


def _models_of(judge: Model | TwoLooks) -> tuple[Model, Model | None]:
    """The model, and the one that looks first for it, where there is one."""
    from histoslide.model.two_looks import TwoLooks

    return (judge.model, judge.first) if isinstance(judge, TwoLooks) else (judge, None)


def _first_look_facts(judge: Model | TwoLooks) -> dict[str, Any] | None:
    """Who looks first, and where that is enough, ready for JSON."""
    from histoslide.model.two_looks import TwoLooks

    if not isinstance(judge, TwoLooks):
        return None
    first, look = judge.first, judge.look
    return {
        "model": first.spec.name,
        "sha256": first.sha256,
        "engine": str(first.engine),
        "threshold": look.threshold,
        "certain": look.certain,
    }


def _run_model(
    arguments: argparse.Namespace,
    judge: Model | TwoLooks,
    patches: Patches,
    class_map: Any = None,
) -> Predictions:
    from histoslide.evaluation.patches.predictions import predict_patches

    model, first = _models_of(judge)
    by = "" if first is None else f"; {first.spec.name}, {first.engine}, looks first"
    logger.info("%s on %s, %s%s", model.spec.name, model.device, model.engine, by)
    with Progress("predict", unit="patch", quiet=arguments.quiet) as progress:
        return predict_patches(
            judge,
            patches,
            tta=arguments.tta,
            workers=arguments.workers,
            class_map=class_map,
            progress=progress.update,
        )


def _measure_robustness(
    arguments: argparse.Namespace,
    judge: Model | TwoLooks,
    patches: Patches,
    predictions: Predictions,
    class_map: Any,
) -> Robustness:
    from histoslide.evaluation.patches.robustness import measure_robustness

    with Progress("robustness", unit="patch", quiet=arguments.quiet) as progress:
        return measure_robustness(
            judge,
            patches,
            predictions,
            threshold=arguments.threshold,
            tta=arguments.tta,
            workers=arguments.workers,
            class_map=class_map,
            progress=progress.update,
        )


def robustness_lines(robustness: Robustness) -> list[str]:
    """The table of changes for a person."""

    def row(name: str, auc: float | None, difference: float | None, changed: str) -> str:
        said = "–" if auc is None else f"{auc:.4f}"
        by = "" if difference is None else f"{difference:+.4f}"
        return f"{name:<24}{said:<9}{by:<12}{changed}".rstrip()

    lines = ["", f"{'patches changed by':<24}{'AUC':<9}{'difference':<12}decisions changed"]
    lines.append(row("nothing", robustness.auc, None, ""))
    lines += [
        row(it.change, it.auc, it.auc_difference, quantities.share(it.decisions_changed))
        for it in robustness.changes
    ]
    return [*lines, ""]


def figure_lines(assessment: Assessment, spec: ModelSpec) -> list[str]:
    """The figures for a person: names, values and intervals below each other."""
    figures, limits = assessment.figures, assessment.intervals
    balance = ", ".join(f"{c.name} {c.patches:,}" for c in assessment.by_class)
    lines = [f"{'patches':<24}{figures.patches:,} ({balance})"]
    several = "" if assessment.tumour is not None else ", mean of classes"

    def add(name: str, value: float | None, limit: Interval | None = None) -> None:
        if value is None or value != value:  # noqa: PLR0124 - NaN
            lines.append(f"{name:<24}undefined: only one class occurs")
            return
        between = "" if limit is None else f"  (95 %: {limit.low:.4f}–{limit.high:.4f})"
        lines.append(f"{name:<24}{value:.4f}{between}")

    add(f"AUC{several}", figures.auc, limits.get("auc"))
    add("average precision", figures.average_precision, limits.get("average_precision"))
    if assessment.tumour is not None and assessment.threshold is not None:
        lines.append(f"{'threshold':<24}{assessment.threshold:g} (P of {spec.tumour_class})")
        add("sensitivity", assessment.sensitivity, limits.get("sensitivity"))
        add("specificity", assessment.specificity, limits.get("specificity"))
        add("sens. at 95 % spec.", figures.sensitivity_at_95_specificity)
    add("accuracy", assessment.accuracy, limits.get("accuracy"))
    add("loss", figures.loss)
    add("calibration error", figures.calibration_error)
    if assessment.tumour is None:
        width = max(len(c.name) for c in assessment.by_class) + 2
        lines += ["", f"{'class':<{width}}{'patches':>9}{'precision':>11}{'recall':>9}{'AUC':>9}"]
        lines += [
            f"{c.name:<{width}}{c.patches:>9,}{c.precision:>11.4f}{c.recall:>9.4f}{c.auc:>9.4f}"
            for c in assessment.by_class
        ]
        lines.append("")
    return lines
