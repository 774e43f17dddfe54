"""``histoslide model``: what a model is, and the same model in other forms."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import textwrap
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from histoslide_cli.model_calibrate import add_calibrate
from histoslide_cli.model_choice import add_trust_option, is_pickle, model_file, read_weights
from histoslide_cli.outcomes import EXIT_DONE

logger = logging.getLogger("histoslide.cli")

LEFT_TO_JSON = frozenset({"validation_before_calibration"})
"""Parts of the training record that are not shown to a person: they repeat others."""

TEXT_WIDTH = 100
"""Columns of the text."""

PICKLE_OPTIONS = ("mpp", "input_px", "label_px", "classes", "tumour")
"""What is said of a pickle; a bundle records it."""


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "model",
        help="what a model is; the same model faster, for QuPath or from fastai",
        description="Shows what a model is, measures how much faster it may be computed, and "
        "converts it: to the files that WSInfer and its QuPath extension read, or from a fastai "
        "export to a bundle.",
        epilog="example: histoslide model info",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_info(actions, common)
    _add_convert(actions, common)
    add_calibrate(actions, common)
    return parser


def _add_info(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    parser = actions.add_parser(
        "info",
        parents=[common],
        help="show what a bundle records",
        description="Shows what a bundle records of its model, without loading the weights.",
        epilog="example: histoslide model info model.safetensors --verify",
    )
    parser.add_argument(
        "model",
        nargs="?",
        type=model_file,
        metavar="FILE",
        help="bundle, or light: the small one that ships (default: the ResNet50 that ships)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="also load the weights: check that they are those the bundle was written with",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(act=run_info)


def _add_convert(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    parser = actions.add_parser(
        "convert",
        parents=[common],
        help="write a model in another form",
        description="Writes a model as the folder that WSInfer and its QuPath extension read, or "
        "as a bundle: from a fastai export, or again with other precision, name or licence.",
        epilog="example: histoslide model convert model.safetensors --to wsinfer --out my-model/",
    )
    parser.add_argument(
        "model",
        nargs="?",
        type=model_file,
        metavar="FILE",
        help="bundle, light, or fastai export.pkl (default: the ResNet50 that ships)",
    )
    parser.add_argument("--to", required=True, choices=("wsinfer", "bundle"), help="form to write")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help="a folder for wsinfer, a .safetensors file for a bundle",
    )
    parser.add_argument(
        "--half", action="store_true", help="store the bundle's weights in half precision"
    )
    parser.add_argument("--name", metavar="NAME", help="new name of the model")
    parser.add_argument("--licence", metavar="TEXT", help="new licence of the weights")
    parser.add_argument("--overwrite", action="store_true", help="replace existing output")
    _add_pickle_options(parser)
    parser.set_defaults(act=run_convert)


def _add_pickle_options(parser: argparse.ArgumentParser) -> None:
    add_trust_option(parser)
    group = parser.add_argument_group("what a fastai export does not record")
    group.add_argument(
        "--mpp", type=float, metavar="UM", help="micrometres per pixel of its patches"
    )
    group.add_argument(
        "--input-px", type=int, metavar="PX", help="side of its patches before any resizing"
    )
    group.add_argument(
        "--label-px", type=int, metavar="PX", help="side of the centre that its labels speak of"
    )
    group.add_argument(
        "--class-names",
        nargs="+",
        dest="classes",
        metavar="NAME",
        help="names for its classes, in order",
    )
    group.add_argument("--tumour", metavar="NAME", help="the class that means tumour")


def run(arguments: argparse.Namespace) -> int:
    """Do what the action says."""
    code: int = arguments.act(arguments)
    return code


def run_info(arguments: argparse.Namespace) -> int:
    """Show what a bundle records.

    Raises:
        BundleError: it is no bundle, or with ``--verify`` its weights are not those it had.
    """
    from histoslide.errors import BundleError
    from histoslide.model import default_bundle, load_bundle

    path: Path = default_bundle() if arguments.model is None else arguments.model
    if is_pickle(path):
        raise BundleError(f"{path} is a pickle: make a bundle of it with histoslide model convert")
    facts = describe(path)
    if arguments.verify:
        load_bundle(path)
        facts["verified"] = True
    print(json.dumps(facts, indent=2) if arguments.json else as_text(facts))  # noqa: T201
    return EXIT_DONE


def describe(path: Path) -> dict[str, Any]:
    """The facts of a bundle, JSON-ready."""
    from histoslide.model import measure_bundle, read_spec
    from histoslide.model.bundle import file_sha256

    spec, size = read_spec(path), measure_bundle(path)
    return {
        "file": path.name,
        "sha256": file_sha256(path),
        **dataclasses.asdict(size),
        "verified": None,
        "spec": json.loads(spec.to_json()),
    }


def as_text(facts: Mapping[str, Any]) -> str:
    """The facts of a bundle for a person."""
    from histoslide.model.words import in_words

    spec = facts["spec"]
    mpp, tumour = spec["mpp"], spec["tumour_class"]
    types = ", ".join({"F16": "float16", "F32": "float32"}.get(t, t) for t in facts["number_types"])
    lines = {
        "network": f"{spec['architecture']}, {facts['parameters']:,} parameters as {types}",
        "classes": ", ".join(spec["classes"])
        + (f"; the heatmap shows {tumour}" if tumour else "; one heatmap channel a class"),
        "tile": f"{spec['input_px']} px at {mpp:g} µm/px = {spec['input_px'] * mpp:.1f} µm",
        "label": f"of the centre {spec['label_px']} px = {spec['label_px'] * mpp:.1f} µm",
        "seen as": f"{spec['network_px']} px, mean {_numbers(spec['mean'])}, "
        f"std {_numbers(spec['std'])}",
        "temperature": f"{spec['temperature']:.4g}",
        "licence": spec["licence"],
    }
    for name, value in spec["training"].items():
        if name == "epochs" and isinstance(value, list):
            lines["epochs"] = str(len(value))
        elif name not in LEFT_TO_JSON and (text := _told(value, leave_out=spec.keys() - {"name"})):
            lines[in_words(name)] = text
    data = spec["training"].get("data")
    if isinstance(data, Mapping) and (mined := _mined(data.get("mined"))):
        lines["mined"] = mined
    lines["file"] = f"{facts['file']}, {facts['size_bytes'] / 1e6:.1f} MB"
    lines["sha256"] = facts["sha256"]
    if facts["verified"]:
        lines["verified"] = "weights and spec are those that were written"
    width = max(len(name) for name in lines)
    wrapper = textwrap.TextWrapper(
        TEXT_WIDTH, subsequent_indent=" " * (width + 4), break_on_hyphens=False
    )
    rows = (wrapper.fill(f"  {name:{width}}  {text}") for name, text in lines.items())
    return "\n".join([spec["name"], *rows])


def _mined(folders: Any) -> str:
    """Which mistakes of which model it has learnt from; a bundle may say anything there."""
    told = []
    for folder in folders if isinstance(folders, list) else []:
        try:
            heatmaps = folder["heatmaps"]
            kinds = {why for heat in heatmaps for why in heat["patches"]}
            counts = {why: sum(heat["patches"].get(why, 0) for heat in heatmaps) for why in kinds}
            patches = ", ".join(f"{why} {counts[why]}" for why in sorted(kinds)) or "nothing"
            models = sorted({f"{heat['model']} {heat['model_sha256'][:12]}" for heat in heatmaps})
            told.append(
                f"{folder['folder']} ({folder['sha256'][:12]}): {patches}, of {len(heatmaps)} "
                f"heatmaps of {', '.join(models)}"
            )
        except (KeyError, TypeError, AttributeError):
            continue
    return "; ".join(told)


def _numbers(values: list[float]) -> str:
    return "/".join(f"{value:.4g}" for value in values)


def _told(value: Any, leave_out: Collection[str] = ()) -> str:
    """A recorded value in words; what is nested deeper is left to ``--json``."""
    from histoslide.model.words import in_words

    if isinstance(value, Mapping):
        plain = {
            k: v
            for k, v in value.items()
            if k not in leave_out and not isinstance(v, Mapping | list) and v not in ("", None)
        }
        return ", ".join(f"{in_words(k)} {_told(v)}" for k, v in plain.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list):
        return ", ".join(_told(entry) for entry in value)
    return str(value)


def run_convert(arguments: argparse.Namespace) -> int:
    """Write a model in another form.

    Raises:
        HistoslideError: it cannot be read, converted or written.
    """
    from histoslide.errors import HistoslideError
    from histoslide.model import default_bundle, save_bundle
    from histoslide.model.wsinfer import write_wsinfer

    path: Path = default_bundle() if arguments.model is None else arguments.model
    out: Path = arguments.out
    if arguments.to == "bundle" and out.suffix != ".safetensors":
        raise HistoslideError(f"--out {out} must end in .safetensors")
    if arguments.to == "wsinfer" and arguments.half:
        raise HistoslideError("--half is for bundles: WSInfer computes in the precision it loads")
    facts = {name: getattr(arguments, name) for name in PICKLE_OPTIONS}
    facts = {name: value for name, value in facts.items() if value is not None}
    if facts and not is_pickle(path):
        raise HistoslideError(
            f"{path.name} is a bundle and records its {', '.join(facts)} itself: these options are "
            "for a fastai export"
        )
    spec, state = read_weights(path, trust_pickle=arguments.trust_pickle, facts=facts)
    given = {"name": arguments.name, "licence": arguments.licence}
    spec = dataclasses.replace(spec, **{k: v for k, v in given.items() if v is not None})
    if arguments.to == "wsinfer":
        write_wsinfer(out, spec, state, overwrite=arguments.overwrite)
    else:
        save_bundle(out, spec, state, half=arguments.half, overwrite=arguments.overwrite)
    print(f"{path.name} → {out}")  # noqa: T201
    return EXIT_DONE
