"""Which model looks first for another, and at which probabilities that one looks again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from histoslide.errors import HistoslideError
from histoslide.model.bundle import SHIPPED, default_bundle, file_sha256, shipped_bundle
from histoslide.model.fast_paths import FirstLookGate, read_fast_paths
from histoslide.model.first_look import ONE_SCALE, Scale
from histoslide.storage.records import Absent


@dataclass(frozen=True, kw_only=True)
class ChosenLook:
    """A first look that is to be taken."""

    bundle: Path
    """Of the model that looks first."""
    threshold: float
    """Probability of tumour, on the other's scale, from which that one looks again."""
    certain: float | None
    """That from which it need not, for this one's word is enough; None where none is."""
    scale: Scale
    """From its probabilities to the other's."""
    weight: float
    """Of its log-odds in the value of a cell that both have seen, 0-1."""


def choose_first_look(
    bundle: Path | None,
    *,
    sha256: str,
    first: Path | None = None,
    threshold: float | None = None,
    unasked: bool = False,
) -> ChosenLook | None:
    """The first look to take before a model, or None where it has none.

    Args:
        bundle: of the model that looks again; None for the one that ships.
        sha256: of that file.
        first: bundle of the model that looks first; None for the one in the model's record.
        threshold: instead of what the record says is in doubt: all from there on is looked at
            again. Without a record both models must be on one scale already.
        unasked: take only what passed its gate and is there.

    Raises:
        BundleError: the record is damaged.
        HistoslideError: the model that looks first is not there, or nothing was measured of it.
    """
    bundle = default_bundle() if bundle is None else bundle
    paths = read_fast_paths(bundle, sha256=sha256)
    gate = None if paths is None or isinstance(paths.first_look, Absent) else paths.first_look
    if unasked:
        if gate is None or not gate.passed:
            return None
        found = find_first_look(bundle, gate.weights_sha256, gate.file)
        return None if found is None else _chosen(found, gate, None)
    if first is None:
        if gate is None:
            return None
        found = find_first_look(bundle, gate.weights_sha256, gate.file)
        if found is None:
            raise HistoslideError(
                f"{gate.file}, which looks first for {bundle.name}, is neither beside it nor "
                "ships: name it with --first-look"
            )
        return _chosen(found, gate, threshold)
    if gate is not None and file_sha256(first) == gate.weights_sha256:
        return _chosen(first, gate, threshold)
    if threshold is None:
        raise HistoslideError(
            f"nothing was measured of a first look by {first.name} for {bundle.name}: run "
            f"histoslide model calibrate PATCHES --model {bundle.name} --first-look {first.name} "
            "--slides SLIDES, or give --cascade-threshold"
        )
    return ChosenLook(bundle=first, threshold=threshold, certain=None, scale=ONE_SCALE, weight=0)


def find_first_look(bundle: Path, sha256: str, *names: str) -> Path | None:
    """A bundle of these weights beside another, by name, or among those that ship.

    Args:
        bundle: the other.
        sha256: of the file that is looked for.
        names: that it may have.
    """
    beside = [bundle.with_name(name) for name in names]
    for path in dict.fromkeys((*beside, *map(shipped_bundle, SHIPPED))):
        if path.is_file() and file_sha256(path) == sha256:
            return path
    return None


def _chosen(bundle: Path, gate: FirstLookGate, threshold: float | None) -> ChosenLook:
    return ChosenLook(
        bundle=bundle,
        threshold=gate.threshold if threshold is None else threshold,
        certain=gate.certain if threshold is None else None,
        scale=gate.scale,
        weight=gate.weight,
    )
