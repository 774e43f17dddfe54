"""``--model``: one place where the commands come by a model."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from histoslide.model import Model, ModelSpec
    from histoslide.model.engine import BackendName, Precision

logger = logging.getLogger("histoslide.cli")

PICKLE_SUFFIXES = frozenset({".pkl", ".pickle"})
"""Endings of files that are opened as pickles, in lower case."""


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--model`` and ``--trust-pickle``."""
    add_model_option(parser)
    add_trust_option(parser)


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """``--model`` alone."""
    parser.add_argument(
        "--model",
        type=model_file,
        metavar="FILE",
        help="bundle, or light: the small quick one that ships (default: the ResNet50 that ships)",
    )


def model_file(text: str) -> Path:
    """The file that ``--model`` means: a path, or the name of a bundle that ships."""
    from histoslide.model import SHIPPED, shipped_bundle

    return shipped_bundle(text) if text in SHIPPED else Path(text)


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """``--trust-pickle`` alone."""
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="open a fastai export.pkl as model; a pickle runs code, so only one you trust",
    )


def choose_model(
    arguments: argparse.Namespace,
    *,
    device: str,
    backend: BackendName | None = None,
    precision: Precision | None = None,
) -> Model:
    """The model that ``--model`` names, ready to score.

    Args:
        arguments: with ``model`` and ``trust_pickle``.
        device: where to compute.
        backend: see ``histoslide.model.load_model``.
        precision: likewise.

    Raises:
        HistoslideError: it cannot be read, is a pickle and not said to be trusted, or cannot be
            computed so.
    """
    from histoslide.model import file_sha256, load_model, make_model

    path: Path | None = arguments.model
    if path is None or not is_pickle(path):
        return load_model(path, device=device, backend=backend, precision=precision)
    spec, state = read_weights(path, trust_pickle=arguments.trust_pickle)
    return make_model(
        spec,
        state,
        device=device,
        sha256=file_sha256(path),
        backend=backend,
        precision=precision,
    )


def read_weights(
    path: Path, *, trust_pickle: bool, facts: Mapping[str, Any] | None = None
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Spec and weights of a bundle or of a trusted fastai export.

    Args:
        path: the file; a pickle is told by its ending.
        trust_pickle: whether the user said ``--trust-pickle``.
        facts: what the user said about a pickle: fields of ``ExportFacts``.

    Raises:
        HistoslideError: it cannot be read, or is a pickle and not said to be trusted.
    """
    from histoslide.model import load_bundle

    if not is_pickle(path):
        return load_bundle(path)
    refuse_pickle(path, trust_pickle=trust_pickle)
    with warnings.catch_warnings():
        # What libraries say of each other while fastai is imported is not for our user.
        warnings.simplefilter("ignore")
        from histoslide.training.fastai_export import ExportFacts, read_export
    return read_export(path, ExportFacts(**facts or {}))


def is_pickle(path: Path) -> bool:
    """Whether a file is opened as a pickle."""
    return path.suffix.lower() in PICKLE_SUFFIXES


def refuse_pickle(path: Path, *, trust_pickle: bool) -> None:
    """Make sure that a pickle is only opened for who asked for it.

    Raises:
        BundleError: it is not said to be trusted.
    """
    from histoslide.errors import BundleError

    if not trust_pickle:
        raise BundleError(
            f"{path} is a pickle, and opening one runs whatever code it holds: pass --trust-pickle "
            "if you trust who made it, or ask them for a .safetensors bundle"
        )
