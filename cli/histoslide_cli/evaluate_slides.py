"""``histoslide evaluate slides``: heatmaps judged against annotated slides."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histoslide import quantities
from histoslide_cli.console import (
    Progress,
    add_cache_options,
    add_slides_option,
    location,
    refuse_file_name,
    slide_cache,
)
from histoslide_cli.lesions import add_lesion_options, chosen_settings, lesion_settings
from histoslide_cli.outcomes import EXIT_DONE, Outcome, exit_code

if TYPE_CHECKING:
    from histoslide.evaluation.bootstrap import Interval
    from histoslide.judging.assessment import Assessment
    from histoslide.judging.choice import Choice
    from histoslide.judging.cohort import JudgedCohort
    from histoslide.judging.options import JudgeOptions
    from histoslide.judging.reference import Reference
    from histoslide.viewer.catalogue import Catalogue

logger = logging.getLogger("histoslide.cli")


def add_parser(
    subjects: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this command's options."""
    parser = subjects.add_parser(
        "slides",
        parents=[common],
        help="heatmaps on annotated slides",
        description="Compares heatmaps with what people say of their slides: FROC as CAMELYON16 "
        "computes it, AUC of slides, stages of patients as CAMELYON17 has them, each with 95 % "
        "intervals over patients, and by centre and scanner. With --out it writes a report with "
        "missed lesions and the highest false ones. With --choose it finds lesion settings "
        "instead. Research use only.",
        epilog="example: histoslide evaluate slides heatmaps/ --reference annotations/ "
        "--others-negative --out evaluation/",
    )
    parser.add_argument(
        "heatmaps", nargs="+", type=location, metavar="PATH", help="heat.zarr, or a folder of them"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        required=True,
        metavar="PATH",
        help="a folder of annotations named like the slides, or a CSV with the column slide and "
        "any of label, patient, centre, scanner, annotations, exhaustive, node, stage",
    )
    parser.add_argument(
        "--others-negative",
        action="store_true",
        help="slides that the folder has no annotation of hold no tumour",
    )
    parser.add_argument(
        "--classes",
        metavar="MAP",
        help="what the classes of annotations mean, for example 'Tumor=tumour, _2=normal'",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write report.html, pictures and tables here"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes (default: one a core where there are more than four heatmaps)",
    )
    _add_detections(parser.add_argument_group("detections"))
    _add_rules(parser.add_argument_group("comparison"))
    _add_choice(parser.add_argument_group("choosing lesion settings"))
    _add_viewer(parser.add_argument_group("the report's pictures and links"))
    parser.set_defaults(
        evaluate=run,
        after_interrupt="nothing was written; run it again from the start",
    )


def _add_detections(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--detections",
        default="lesions",
        metavar="WHAT",
        help="lesions: the highest cell of each; maxima: local maxima of the heatmap; or a CSV of "
        "probability,x,y in level-0 pixels, or a folder of one a slide (default: lesions)",
    )
    group.add_argument(
        "--maxima-above",
        type=float,
        metavar="P",
        help="lowest local maximum that counts (default: 0.5)",
    )
    group.add_argument(
        "--maxima-radius",
        type=float,
        metavar="UM",
        help="no two local maxima are nearer, in micrometres (default: 200)",
    )
    add_lesion_options(group)
    group.add_argument(
        "--same-slides",
        action="store_true",
        help="judge even slides that the --lesion-settings were chosen on; the report says so",
    )


def _add_rules(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--slide-score",
        choices=("group", "highest", "detection"),
        default="group",
        help="score of a slide: what four connected cells reach in common, the highest cell, or "
        "the highest detection (default: group)",
    )
    group.add_argument(
        "--specificity",
        type=float,
        nargs="+",
        metavar="PART",
        help="at which the sensitivity of slides is told (default: 0.8 0.9 0.95)",
    )
    group.add_argument(
        "--grow",
        type=float,
        metavar="UM",
        help="grow annotations by this (default: 37.5, half of 75 as in CAMELYON16's code)",
    )
    group.add_argument(
        "--isolated",
        type=float,
        metavar="UM",
        help="grown regions with a shorter major axis are isolated cells (default: 275)",
    )
    group.add_argument(
        "--mask-um",
        type=float,
        metavar="UM",
        help="micrometres a pixel of the evaluation mask (default: 7.776, level 5 of CAMELYON16)",
    )
    group.add_argument(
        "--assume-mpp",
        type=float,
        metavar="UM",
        help="take every slide for this resolution in lengths of the FROC, as CAMELYON16's code "
        "does with 0.243 (default: each slide's own)",
    )
    group.add_argument(
        "--false-positives",
        choices=("all", "negative"),
        help="count them on all slides, or on those without tumour only (default: all)",
    )
    group.add_argument(
        "--froc-at",
        type=float,
        nargs="+",
        metavar="N",
        help="false positives a slide at which the sensitivity is read off (default: 0.25 0.5 1 2 "
        "4 8)",
    )
    group.add_argument(
        "--resamples",
        type=int,
        default=1000,
        metavar="N",
        help="of patients, for intervals; 0 for none (default: 1000)",
    )


def _add_choice(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--choose",
        metavar="AIM",
        help="find lesion settings on these slides: froc for the best FROC, false=N for most "
        "lesions at no more than N false ones a slide without tumour; those given are kept. "
        "--out gets lesion-settings.json for --lesion-settings, and choice.csv",
    )


def _add_viewer(group: argparse._ArgumentGroup) -> None:
    add_slides_option(group)
    add_cache_options(group)
    group.add_argument(
        "--port",
        type=int,
        default=8765,
        metavar="N",
        help="port of the viewer that links lead to (default: 8765)",
    )
    group.add_argument(
        "--token", metavar="WORD", help="first part of its address (default: a new one)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Judge the heatmaps, or choose settings on them."""
    from histoslide.errors import HistoslideError
    from histoslide.judging.reference import read_reference
    from histoslide.slide.access import SlideAccess
    from histoslide.viewer.catalogue import Catalogue

    if arguments.workers is not None and arguments.workers < 1:
        raise HistoslideError(f"--workers must be at least 1, not {arguments.workers}")
    if arguments.resamples < 0:
        raise HistoslideError(f"--resamples must be 0 or more, not {arguments.resamples}")
    if arguments.out is not None:
        if arguments.out.exists() and not arguments.out.is_dir():
            raise HistoslideError(f"--out {arguments.out} is a file: name a folder")
        refuse_file_name(arguments.out, "name the folder that gets report.html and its tables")
    options = _options(arguments)
    reference = read_reference(arguments.reference, others_negative=arguments.others_negative)
    catalogue = Catalogue(
        arguments.heatmaps,
        slides=arguments.slides,
        access=SlideAccess(cache=slide_cache(arguments)),
    )
    try:
        if arguments.choose is not None:
            return _choose(arguments, catalogue, reference, options)
        return _judge(arguments, catalogue, reference, options)
    finally:
        catalogue.close()


def _options(arguments: argparse.Namespace) -> JudgeOptions:
    """What the options say.

    Raises:
        HistoslideError: a value is out of range, or two say different things.
    """
    from histoslide.annotations.class_map import ClassMap
    from histoslide.errors import HistoslideError
    from histoslide.evaluation.slides.rules import FrocRules
    from histoslide.judging.options import JudgeOptions

    rules = {
        "grow_um": arguments.grow,
        "isolated_um": arguments.isolated,
        "mask_um": arguments.mask_um,
        "assumed_mpp": arguments.assume_mpp,
        "over": arguments.false_positives,
        "at": None if arguments.froc_at is None else tuple(sorted(arguments.froc_at)),
    }
    others = {
        "maxima_above": arguments.maxima_above,
        "maxima_radius_um": arguments.maxima_radius,
        "specificities": arguments.specificity,
    }
    detections: Any = arguments.detections
    if detections not in ("lesions", "maxima"):
        detections = Path(detections)
    for name in ("maxima_above", "maxima_radius"):
        if getattr(arguments, name) is not None and detections != "maxima":
            option = name.replace("_", "-")
            raise HistoslideError(f"--{option} says nothing without --detections maxima")
    return JudgeOptions(
        detections=detections,
        settings=lesion_settings(arguments),
        rules=FrocRules(**{name: it for name, it in rules.items() if it is not None}),
        classes=ClassMap.parse(arguments.classes),
        slide_score=arguments.slide_score,
        resamples=arguments.resamples,
        **{name: it for name, it in others.items() if it is not None},
    )


def _judge(
    arguments: argparse.Namespace,
    catalogue: Catalogue,
    reference: Reference,
    options: JudgeOptions,
) -> int:
    """Compare, print the figures, write the report."""
    from histoslide.errors import DataError
    from histoslide.judging.assessment import assess
    from histoslide.judging.choice import same_slides
    from histoslide.judging.cohort import cases_of, judge_cohort
    from histoslide.judging.links import ViewerLinks
    from histoslide.judging.page import figures, refuse_report, warnings_of, write_report

    if arguments.out is not None:
        refuse_report(arguments.out, overwrite=arguments.overwrite)
    chosen = chosen_settings(arguments)
    paths = [entry.path for entry in catalogue.entries()]
    same = [] if chosen is None else same_slides(chosen, cases_of(paths, reference)[0])
    if same and not arguments.same_slides:
        raise DataError(
            f"{arguments.lesion_settings} was chosen on {len(same)} of these slides or on their "
            f"patients ({', '.join(same[:3])}{', …' if len(same) > 3 else ''}): judge others, or "
            "pass --same-slides, and the report says so"
        )
    with Progress("judge", unit="heatmap", quiet=arguments.quiet) as progress:
        cohort = judge_cohort(
            paths, reference, options, workers=arguments.workers, progress=progress.update
        )
    assessment = assess(cohort, reference, options)
    warnings = warnings_of(cohort, assessment, chosen, same)
    page = None
    if arguments.out is not None:
        links: dict[str, Any] = {} if arguments.token is None else {"token": arguments.token}
        page = write_report(
            arguments.out,
            cohort=cohort,
            assessment=assessment,
            reference=reference,
            options=options,
            catalogue=catalogue,
            links=ViewerLinks(
                heatmaps=arguments.heatmaps, slides=arguments.slides, port=arguments.port, **links
            ),
            chosen=chosen,
            warnings=warnings,
            overwrite=arguments.overwrite,
        )
    if arguments.json:
        facts = figures(assessment, cohort, options, warnings)
        facts["report"] = None if page is None else str(page)
        print(json.dumps(facts, indent=2, ensure_ascii=False))  # noqa: T201
    else:
        for warning in warnings:
            logger.warning("%s", warning)
        print("\n".join(figure_lines(assessment, options)))  # noqa: T201
        if page is not None:
            print(f"report                  {page}")  # noqa: T201
    return _code(cohort)


def _code(cohort: JudgedCohort) -> int:
    return exit_code([Outcome.IN_PART if cohort.failed else Outcome.DONE])


def _choose(
    arguments: argparse.Namespace,
    catalogue: Catalogue,
    reference: Reference,
    options: JudgeOptions,
) -> int:
    """Find lesion settings, print and write them."""
    from histoslide.errors import HistoslideError
    from histoslide.judging.choice import Aim, candidates, choose
    from histoslide.judging.tables import CHOICE_NAME, choice_table
    from histoslide.lesions.settings_file import SETTINGS_NAME, write_settings
    from histoslide.storage.records import to_builtins
    from histoslide.storage.writing import new_file, refuse_existing

    aim = Aim.parse(arguments.choose)
    if options.detections != "lesions":
        raise HistoslideError("--choose finds lesion settings: leave --detections out")
    if arguments.lesion_settings is not None:
        raise HistoslideError("--choose finds lesion settings: leave --lesion-settings out")
    folder: Path | None = arguments.out
    if folder is not None:
        for name in (SETTINGS_NAME, CHOICE_NAME):
            refuse_existing(folder / name, overwrite=arguments.overwrite)
    given = {
        "seed_probability": arguments.seed,
        "extend_probability": arguments.extend,
        "smoothing_um": arguments.smooth,
        "join_gap_um": arguments.gap,
    }
    tried = candidates(
        options.settings, [name for name, value in given.items() if value is not None]
    )
    paths = [entry.path for entry in catalogue.entries()]
    with Progress("choose", unit="heatmap", quiet=arguments.quiet) as progress:
        choice = choose(
            paths,
            reference,
            options,
            aim,
            tried,
            workers=arguments.workers,
            progress=progress.update,
        )
    for failed in choice.failed:
        logger.warning("%s is left out: %s", failed.name, failed.reason)
    if folder is not None:
        write_settings(choice.file, folder / SETTINGS_NAME, overwrite=arguments.overwrite)
        with new_file(folder / CHOICE_NAME, overwrite=arguments.overwrite) as partial:
            partial.write_text(choice_table(choice), encoding="utf-8")
    if arguments.json:
        print(json.dumps(to_builtins(choice.file), indent=2, ensure_ascii=False))  # noqa: T201
    else:
        print("\n".join(_choice_lines(choice)))  # noqa: T201
        if folder is not None:
            print(f"settings                {folder / SETTINGS_NAME}")  # noqa: T201
        else:
            logger.info("pass --out FOLDER for a file that --lesion-settings takes")
    return exit_code([Outcome.IN_PART]) if choice.failed else EXIT_DONE


def _choice_lines(choice: Choice) -> list[str]:
    best, settings = choice.best, choice.best.settings
    false = best.false_per_negative
    return [
        f"{'aim':<24}{choice.aim}",
        f"{'seed':<24}{settings.seed_probability:g}",
        f"{'extend':<24}{settings.extend_probability:g}",
        f"{'smooth':<24}{settings.smoothing_um:g} µm",
        f"{'gap':<24}{settings.join_gap_um:g} µm",
        f"{'FROC score':<24}{best.score:.4f}",
        f"{'lesions found':<24}{quantities.share(best.sensitivity)}",
        f"{'false a slide':<24}{best.false_per_slide:.2f}",
        f"{'false, without tumour':<24}{'–' if false is None else f'{false:.2f}'}",
        f"{'tried':<24}{len(choice.tried)} settings on {len(choice.file.chosen_on)} slides",
        "these figures are too good to be reported: judge the settings on other slides",
    ]


def figure_lines(assessment: Assessment, options: JudgeOptions) -> list[str]:
    """The figures for a person: names, values and intervals below each other."""
    patients = "" if assessment.patients_known else " or more"
    lines = [f"{'slides':<24}{assessment.slides:,} of {assessment.patients:,} patients{patients}"]

    def add(name: str, value: float, limits: Interval | None = None) -> None:
        said = "undefined" if value != value else f"{value:.4f}"  # noqa: PLR0124 - NaN
        between = "" if limits is None else f"  (95 %: {limits.low:.4f}–{limits.high:.4f})"
        lines.append(f"{name:<24}{said}{between}")

    level = assessment.lesions
    if level is None:
        lines.append(f"{'FROC score':<24}undefined: no annotated lesion to find")
    else:
        add("FROC score", level.score, level.score_interval)
        for i, at in enumerate(level.curve.at):
            add(f"  at {at:g} false", float(level.curve.sensitivities[i]), level.intervals[i])
        lines.append(f"{'lesions found':<24}{level.found} of {level.lesions}")
        lines += [f"  {it.kind:<22}{it.found} of {it.lesions}" for it in assessment.by_size]
        lines.append(f"{'false a slide':<24}{level.false_per_slide:.2f}")
    if assessment.slide_level is None:
        lines.append(f"{'AUC of slides':<24}undefined: not both kinds of slides")
    else:
        add("AUC of slides", assessment.slide_level.auc, assessment.slide_level.auc_interval)
        for point in assessment.slide_level.sensitivities:
            name = f"  at {point.specificity:g} spec."
            add(name, point.sensitivity, point.sensitivity_interval)
    if assessment.patient_level is not None:
        staged = assessment.patient_level
        add("kappa of stages", staged.kappa, staged.kappa_interval)
    if variants := list(options.rules.variants()):
        lines.append(f"{'FROC is a variant':<24}{'; '.join(variants)}")
    if options.resamples and not assessment.resamples:
        lines.append(f"{'intervals':<24}none: too few patients to be resampled")
    return lines
