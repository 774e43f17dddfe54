"""How cells come by their probabilities: ``--backend``, ``--precision``, ``--mode``, ``--tta``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from histoslide_cli.model_choice import choose_model, is_pickle

if TYPE_CHECKING:
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
        choices=("exact", "cascade", "dense"),
        default="exact",
        help="exact: every tile by itself; dense: whole areas in one pass, several times faster "
        "and not the same; cascade: dense, then exact tiles where there may be tumour "
        "(default: exact)",
    )
    group.add_argument(
        "--cascade-threshold",
        type=float,
        metavar="P",
        help="dense probability from which --mode cascade looks again, 0-1",
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
        mode, stride_px = score_mode(arguments), arguments.stride or model.spec.label_px
        # Only what is kept: converting shuts up warnings in all threads, and may be in vain.
        begin(lambda: mode.compile(model, stride_px=stride_px, only_kept=True))
        yield model, None
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
        yield (
            cluster.load_model(
                arguments.model, device=arguments.device, backend=backend, precision=precision
            ),
            cluster,
        )


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


def score_mode(arguments: argparse.Namespace) -> ScoreMode:
    """What the options say of modes.

    Raises:
        HistoslideError: settings that do not go together.
    """
    from histoslide.errors import HistoslideError
    from histoslide.scoring.mode import DEFAULT_CASCADE_THRESHOLD, ScoreMode

    threshold = arguments.cascade_threshold
    if threshold is not None and arguments.mode != "cascade":
        raise HistoslideError(
            f"--cascade-threshold is for --mode cascade, not {arguments.mode}: leave one out"
        )
    return ScoreMode(
        mode=arguments.mode,
        tta=arguments.tta,
        cascade_threshold=DEFAULT_CASCADE_THRESHOLD if threshold is None else threshold,
    )
