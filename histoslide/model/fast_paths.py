"""Which faster ways of computing a bundle were measured and found as good as float32.

The record lies beside the bundle, ``model.fast-paths.json`` for ``model.safetensors``, and names
the weights that it is about. Without it a model is computed in float32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histoslide.errors import BundleError, HistoslideError
from histoslide.model.choosing import refuse_engine, supported
from histoslide.model.engine import FULL_PRECISION, ActivationRange, BackendName, Engine, Precision
from histoslide.model.first_look import Scale
from histoslide.storage.records import (
    ABSENT,
    Absent,
    Count,
    FileName,
    Share,
    builtins_from_json,
    from_builtins,
    to_builtins,
    to_json,
)
from histoslide.storage.writing import whole_file

MAX_AUC_LOSS = 0.002
"""A faster path may change the area under the ROC curve by this much, either way."""

MOST_LOST = 0.001
"""A first look must lose less than this part of what the model alone calls positive."""

MOST_CHANGED = 0.05
"""Difference of probability that another look may make where the first is certain; it may make a
larger one for less than ``MOST_LOST`` of such tiles. No colour of a heatmap shows less."""

POSITIVE = 0.5
"""Probability from which a cell is called so."""

_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Gate:
    """How a precision compares with float32 on labelled patches."""

    auc: float
    """Area under the ROC curve."""
    auc_fp32: float
    """The same patches in float32."""
    largest_difference: float
    """Of the tumour probability of a patch."""
    mean_difference: float
    """Mean absolute difference of the tumour probability."""
    patches: int
    """How many were compared."""
    computed_by: str
    """Backend and its version."""

    @property
    def passed(self) -> bool:
        """Whether the path is as good as float32."""
        return abs(self.auc - self.auc_fp32) <= MAX_AUC_LOSS


@dataclass(frozen=True, kw_only=True)
class SlideGate:
    """What a first look changes of one slide."""

    slide: str
    """Name of its file."""
    cells: Count
    """That were scored."""
    again: Share
    """Part of them that is looked at again."""
    positive: Count
    """Those that are positive where both look at everything."""
    lost: Count
    """Those of them that are not after a first look."""
    sure: Count = 0
    """Cells of which the first look is certain."""
    changed: Count = 0
    """Those of them whose probability by both is another one, by more than ``MOST_CHANGED``."""
    lesions: Count
    """That are found where both look at everything."""
    lesions_alike: bool
    """Whether the same are found after a first look, each of the same class of size."""


@dataclass(frozen=True, kw_only=True)
class FirstLookGate:
    """How well a lighter model looks first for this one.

    What is lost is told from both models looking at everything; where the first has no weight, that
    is this model alone.
    """

    name: str
    """Of the model that looks first."""
    file: FileName
    """Of its bundle: beside this one, or one that ships."""
    weights_sha256: str
    """Of that file."""
    threshold: Share
    """Probability of tumour, on this model's scale, below which this one need not look again."""
    certain: Share | None = None
    """That from which it need not, since both together say next to the same; None where too little
    was seen to tell: then it looks at all from ``threshold`` on."""
    scale: Scale
    """From the other's probabilities to this one's."""
    weight: Share
    """Of the other's log-odds in the value of what both have seen; 0 where this one is as good
    alone."""
    engines: tuple[str, str]
    """What computed this model and the other."""
    data: str
    """Name of the patches; both thresholds, scale and weight come of one half of them, and all but
    the weight of the slides too."""
    patches: Count
    """In the other half, which the following speak of."""
    auc: Share
    """Area under the ROC curve with a first look."""
    auc_alone: Share
    """That of this model alone."""
    auc_everywhere: Share
    """That where both look at everything."""
    positive: Count
    """Patches that are positive where both look at everything."""
    lost: Count
    """Those of them that are not after a first look."""
    sure: Count = 0
    """Patches of which the first look is certain."""
    changed: Count = 0
    """Those of them whose probability by both is another one, by more than ``MOST_CHANGED``."""
    slides: tuple[SlideGate, ...]
    """Each slide that it was tried on."""

    @property
    def lost_share(self) -> float:
        """Part of the positive patches and cells that is lost."""
        positive = self.positive + sum(slide.positive for slide in self.slides)
        lost = self.lost + sum(slide.lost for slide in self.slides)
        return lost / max(1, positive)

    @property
    def changed_share(self) -> float:
        """Part of the patches and cells that the first look is certain of that both change."""
        sure = self.sure + sum(slide.sure for slide in self.slides)
        changed = self.changed + sum(slide.changed for slide in self.slides)
        return changed / max(1, sure)

    @property
    def passed(self) -> bool:
        """Whether score may take the first look unasked.

        It ranks patches as well as this model alone and as both do everywhere, loses and changes
        next to nothing, and finds the same lesions on its slides, which have some.
        """
        return (
            self.auc >= max(self.auc_alone, self.auc_everywhere) - MAX_AUC_LOSS
            and self.lost_share < MOST_LOST
            and self.changed_share < MOST_LOST
            and any(slide.lesions for slide in self.slides)
            and all(slide.lesions_alike for slide in self.slides)
        )


@dataclass(frozen=True, kw_only=True)
class FastPaths:
    """What was measured of a bundle's faster paths."""

    weights_sha256: str
    """Of the bundle's file."""
    data: str
    """Name of the patches that it was measured on."""
    gates: Mapping[Precision, Gate] = field(default_factory=dict)
    """By precision."""
    ranges: Mapping[str, ActivationRange] = field(default_factory=dict)
    """Of ``histoslide.model.int8.activation_ranges``, by convolution."""
    first_look: FirstLookGate | Absent = ABSENT
    """Of a model that looks first, where one was tried."""

    def passed(self, precision: Precision) -> bool:
        """Whether a precision may be used unasked."""
        gate = self.gates.get(precision)
        return precision == "fp32" or (gate is not None and gate.passed)


def ranges_sha256(ranges: Mapping[str, ActivationRange]) -> str:
    """Tells ranges apart: with others, int8 gives other probabilities."""
    return hashlib.sha256(json.dumps(dict(ranges), sort_keys=True).encode()).hexdigest()


def fast_paths_file(bundle: Path) -> Path:
    """Where the record of a bundle lies."""
    return bundle.with_name(f"{bundle.stem}.fast-paths.json")


def read_fast_paths(bundle: Path, *, sha256: str) -> FastPaths | None:
    """The record beside a bundle, or None where there is none.

    Args:
        bundle: its file.
        sha256: of that file.

    Raises:
        BundleError: the record is damaged, or is about other weights.
    """
    path = fast_paths_file(bundle)
    if not path.exists():
        return None
    again = "delete it, or run histoslide model calibrate again"
    try:
        raw = path.read_bytes()
        content = builtins_from_json(raw, source=path, error=BundleError)
        found = from_builtins(content, dict[str, Any], source=path, error=BundleError)
        if (version := found.pop("version", None)) != _VERSION:
            raise BundleError(f"{path} is of another version, {version!r:.40}")
        paths = from_builtins(found, FastPaths, source=path, error=BundleError, exact=True)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error}): {again}") from error
    except BundleError as error:
        raise BundleError(f"{error}: {again}") from None
    if paths.weights_sha256 != sha256:
        raise BundleError(f"{path} is about other weights than {bundle.name} holds: {again}")
    return paths


def write_fast_paths(bundle: Path, paths: FastPaths) -> Path:
    """Write the record of a bundle beside it, and return its path."""
    target = fast_paths_file(bundle)
    with whole_file(target) as partial:
        content = {"version": _VERSION, **to_builtins(paths)}
        partial.write_text(to_json(content, indent=1, ascii_only=True), encoding="utf-8")
    return target


def choose_engine(
    device: str,
    paths: FastPaths | None,
    *,
    backend: BackendName | None = None,
    precision: Precision | None = None,
) -> Engine:
    """What to compute with: what was asked for, else the fastest way that passed its gate.

    Args:
        device: where.
        paths: the bundle's record.
        backend: asked for, or None.
        precision: asked for, or None.

    Raises:
        HistoslideError: what was asked for cannot run here, or needs a record that is not there.
    """
    chosen = _asked_for(backend, precision) or _fastest(device, paths, backend, precision)
    if chosen is None:
        default: BackendName = "openvino" if precision == "int8" else FULL_PRECISION.backend
        chosen = Engine(backend=backend or default, precision=precision or FULL_PRECISION.precision)
    refuse_engine(chosen, device)
    if chosen.precision == "int8" and (paths is None or not paths.ranges):
        raise HistoslideError(
            "--precision int8 needs a model whose ranges were measured: run histoslide model "
            "calibrate on it first"
        )
    return chosen


def _asked_for(backend: BackendName | None, precision: Precision | None) -> Engine | None:
    """The engine that was asked for by both its names."""
    if backend is None or precision is None:
        return None
    return Engine(backend=backend, precision=precision)


def _fastest(
    device: str,
    paths: FastPaths | None,
    backend: BackendName | None,
    precision: Precision | None,
) -> Engine | None:
    """The fastest engine of what was asked for; a precision that was not, must have passed."""
    for engine in supported(device):
        asked = backend in {None, engine.backend} and precision in {None, engine.precision}
        passed = paths is not None and paths.passed(engine.precision)
        if asked and (precision is not None or passed):
            return engine
    return None
