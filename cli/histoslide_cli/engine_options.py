"""How cells come by their probabilities: ``--backend``, ``--precision``, ``--mode``, ``--tta``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from histoslide_cli.model_choice import (
    add_model_options,
    choose_model,
    is_pickle,
    model_file,
)

if TYPE_CHECKING:
    from histoslide.model.choosing_first_look import ChosenLook
    from histoslide.scoring.lazy import BlockModel
    from histoslide.scoring.mode import ScoreMode
    from histoslide.scoring.runners import Runner

logger = logging.getLogger("histoslide.cli")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """The options."""
    group = parser.add_argument_group("how it is computed")
    group.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    group.add_argument(
        "--backend",
        choices=("auto", "torch", "openvino"),
        default="auto",
        help="what runs the network; auto takes the fastest that was measured to be as good as "
        "torch in fp32 for this model (default: auto)",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16", "int8"),
        default="auto",
        help="of the network; auto as for --backend (default: auto)",
    )
    group.add_argument(
        "--mode",
        choices=("auto", "exact", "cascade", "dense"),
        default="auto",
        help="exact: every tile by itself; cascade: every tile by the model of --first-look, then "
        "by --model where that leaves a doubt (and the mean of both there, where that was measured "
        "to be better); dense: whole areas in one pass, not the same; auto: cascade where model "
        "calibrate --first-look has measured that it loses nothing, else exact (default: auto)",
    )
    group.add_argument(
        "--first-look",
        type=model_file,
        metavar="FILE",
        help="bundle that looks first in --mode cascade, or light (default: the one that was "
        "calibrated for the model; without any, whole areas by the model itself)",
    )
    group.add_argument(
        "--cascade-threshold",
        type=float,
        metavar="P",
        help="look again in --mode cascade at everything from this probability at the first look "
        "on, 0-1 (default: between the two that were calibrated, below which and from which the "
        "first look is enough)",
    )
    group.add_argument(
        "--tta",
        action="store_true",
        help="average the logits of each tile's eight symmetries and store how far they differ: "
        "eight times the work",
    )
    group.add_argument(
        "--dask",
        metavar="WHERE",
        help="compute on a cluster: the address of a dask scheduler, its scheduler file, or "
        "local:N for N worker processes here; all must see the slides and --out under the same "
        "paths",
    )


def engine_defaults(*, device: str) -> argparse.Namespace:
    """What the options are where a command has none but the device: those of ``score``."""
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    add_engine_options(parser)
    parser.set_defaults(stride=None)
    return parser.parse_args(["--device", device])


def said_of(model: BlockModel) -> str:
    """The line that says who computes, and where."""
    look = model.first_look
    first = "" if look is None else f"; {look.name}, {look.engine}, looks first"
    without = "" if look is None else " (--mode exact does without)"
    return f"model {model.spec.name} on {model.device}, {model.engine}{first}{without}"


@contextmanager
def chosen_engine(arguments: argparse.Namespace) -> Iterator[tuple[BlockModel, Runner | None]]:
    """The model that computes, and what runs the blocks; None for threads of this process.

    Raises:
        HistoslideError: the model, the backend or the cluster cannot be used.
    """
    from histoslide.errors import HistoslideError
    from histoslide.machine.background import begin
    from histoslide.model import pick_device

    backend = None if arguments.backend == "auto" else arguments.backend
    precision = None if arguments.precision == "auto" else arguments.precision
    if arguments.dask is None:
        device = pick_device(arguments.device)
        model = choose_model(arguments, device=device, backend=backend, precision=precision)
        if backend is None and precision is None:
            _say_what_would_be_faster(arguments, model, device)
        stride_px = arguments.stride or model.spec.label_px
        look = chosen_first_look(arguments, model)
        if look is None:
            mode = score_mode(arguments)
            # Only what is kept: converting shuts up warnings in all threads, and may be in vain.
            begin(lambda: mode.compile(model, stride_px=stride_px, only_kept=True))
            yield model, None
            return
        from histoslide.model import load_model
        from histoslide.scoring.cascade import Cascade

        first = load_model(look.bundle, device=device, backend=backend, precision=precision)
        cascade = Cascade.of(model, first, look)
        both = cascade.here()
        begin(lambda: cascade.mode.compile(both, stride_px=stride_px, only_kept=True))
        yield cascade, None
        return
    if find_spec("distributed") is None:
        raise HistoslideError("--dask needs distributed: pip install 'histoslide[cluster]'")
    if arguments.model is not None and is_pickle(arguments.model):
        raise HistoslideError(
            "--dask takes bundles only: make one with histoslide model convert --to bundle"
        )
    from histoslide.scoring.cluster import Cluster

    with Cluster.connect(arguments.dask) as cluster:
        if cluster.dashboard:
            logger.info("dashboard of the cluster: %s", cluster.dashboard)
        kind = {"device": arguments.device, "backend": backend, "precision": precision}
        there: BlockModel = cluster.load_model(arguments.model, **kind)
        if (look := chosen_first_look(arguments, there)) is not None:
            from histoslide.scoring.cascade import Cascade

            there = Cascade.of(there, cluster.load_model(look.bundle, **kind), look)
        yield there, cluster


def _say_what_would_be_faster(
    arguments: argparse.Namespace, model: BlockModel, device: str
) -> None:
    """One line where a model of one's own is computed in full precision for want of a measure."""
    from histoslide.model.choosing import supported
    from histoslide.model.engine import FULL_PRECISION
    from histoslide.model.fast_paths import fast_paths_file

    path: Path | None = arguments.model
    if path is None or is_pickle(path) or fast_paths_file(path).exists():
        return
    if model.engine == FULL_PRECISION and supported(device)[0] != FULL_PRECISION:
        logger.info(
            "%s is computed in full precision, since no faster way was measured for it: histoslide "
            "model calibrate PATCHES --model %s does that, and makes it several times faster on "
            "most CPUs",
            path.name,
            path.name,
        )


def chosen_first_look(arguments: argparse.Namespace, model: BlockModel) -> ChosenLook | None:
    """Who looks first for a model, and how; None where nobody does.

    Raises:
        HistoslideError: the record of the model cannot be read, or the one that looks first is
            not there or was not calibrated.
    """
    from histoslide.model.choosing_first_look import choose_first_look

    path: Path | None = arguments.model
    if arguments.mode not in ("auto", "cascade") or arguments.tta:
        return None
    if path is not None and is_pickle(path):
        return None  # it has no record beside it
    return choose_first_look(
        path,
        sha256=model.sha256,
        first=arguments.first_look,
        threshold=arguments.cascade_threshold,
        unasked=arguments.mode == "auto",
    )


def score_mode(arguments: argparse.Namespace) -> ScoreMode:
    """What the options say of modes, apart from a first look.

    Raises:
        HistoslideError: settings that do not go together.
    """
    from histoslide.errors import HistoslideError
    from histoslide.scoring.mode import DEFAULT_CASCADE_THRESHOLD, ScoreMode

    threshold = arguments.cascade_threshold
    for option, value in (
        ("--cascade-threshold", threshold),
        ("--first-look", arguments.first_look),
    ):
        if value is not None and arguments.mode != "cascade":
            raise HistoslideError(
                f"{option} is for --mode cascade, not {arguments.mode}: leave one out"
            )
    bundles = [path for path in (arguments.model, arguments.first_look) if path is not None]
    if arguments.first_look is not None and any(map(is_pickle, bundles)):
        raise HistoslideError(
            "--first-look takes bundles only: make one with histoslide model convert --to bundle"
        )
    return ScoreMode(
        mode="exact" if arguments.mode == "auto" else arguments.mode,
        tta=arguments.tta,
        cascade_threshold=DEFAULT_CASCADE_THRESHOLD if threshold is None else threshold,
    )
