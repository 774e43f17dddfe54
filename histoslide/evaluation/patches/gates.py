"""The accuracy gate of faster ways of computing: are they as good as float32 on real patches?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from histoslide.datasets.patches import PatchSet, Subset
from histoslide.errors import DataError
from histoslide.evaluation.patches.predictions import predict_patches, read_batches
from histoslide.model import Model, file_sha256, load_bundle, make_model
from histoslide.model.engine import Precision
from histoslide.model.fast_paths import FastPaths, Gate
from histoslide.model.graphs import TileGraph
from histoslide.model.int8 import activation_ranges
from histoslide.model.networks import folded_network
from histoslide.model.openvino_extra import has_cpu_bf16, has_openvino

DEFAULT_RANGE_PATCHES = 512
"""Patches whose activations set the ranges; more change them little."""


def measure_fast_paths(
    bundle: Path,
    patches: PatchSet,
    *,
    data: str,
    class_map: NDArray[np.int64],
    precisions: Sequence[Precision] = ("int8", "bf16"),
    range_patches: int = DEFAULT_RANGE_PATCHES,
    progress: Callable[[str, int, int], None] | None = None,
) -> FastPaths:
    """Measure the ranges of a model's activations, and how its faster paths compare with float32.

    The CPU computes all of it. Where OpenVINO cannot compute in bfloat16 here, torch does.

    Args:
        bundle: file of the model, which must have a tumour class.
        patches: labelled; a random part of them sets the ranges, the others are compared.
        data: what they are called in the record.
        class_map: the model's class of each class of the patches.
        precisions: to compare.
        range_patches: how many patches set the ranges.
        progress: called with (precision, patches done, patches in all).

    Raises:
        DataError: too few patches, only one class among them, or a model without a tumour class.
        HistoslideError: the bundle or a patch cannot be read, or OpenVINO is missing for int8.
    """
    spec, state = load_bundle(bundle)
    if spec.tumour_index is None:
        raise DataError(f"{bundle} has no tumour class, whose probability is compared")
    if len(patches) < 2 * range_patches:
        raise DataError(
            f"{len(patches)} patches are too few: {range_patches} set the ranges, and at least as "
            "many are compared"
        )
    order = np.random.default_rng(0).permutation(len(patches))
    for_ranges, compared = (
        Subset(patches, np.sort(part)) for part in np.split(order, [range_patches])
    )
    sha256 = file_sha256(bundle)
    network = folded_network(spec, state)
    reference = Model(spec, network, sha256=sha256)
    prepare = TileGraph(spec, network).prepare
    batches = read_batches(for_ranges, reference)
    ranges = activation_ranges(network, (prepare(torch.from_numpy(tiles)) for tiles in batches))
    so_far = FastPaths(weights_sha256=sha256, data=data, ranges=ranges)
    labels = class_map[compared.labels] == spec.tumour_index
    if labels.all() or not labels.any():
        raise DataError(f"{data}: the patches to compare are all of one class")

    def scores(model: Model, precision: Precision) -> NDArray[np.float64]:
        def report(done: int, total: int) -> None:
            if progress is not None:
                progress(precision, done, total)

        found = predict_patches(model, compared, progress=report)
        return found.probabilities(spec.temperature)[:, spec.tumour_index]

    exact = scores(reference, "fp32")
    gates: dict[Precision, Gate] = {}
    for precision in precisions:
        with_openvino = precision == "int8" or (precision == "bf16" and has_cpu_bf16())
        model = make_model(
            spec,
            state,
            sha256=sha256,
            device="cpu",
            fast_paths=so_far,
            backend="openvino" if with_openvino else "torch",
            precision=precision,
        )
        found = scores(model, precision)
        difference = np.abs(found - exact)
        by = "openvino" if with_openvino and has_openvino() else "torch"
        gates[precision] = Gate(
            auc=float(roc_auc_score(labels, found)),
            auc_fp32=float(roc_auc_score(labels, exact)),
            largest_difference=float(difference.max()),
            mean_difference=float(difference.mean()),
            patches=len(compared),
            computed_by=f"{by} {version(by)}",
        )
    return FastPaths(weights_sha256=sha256, data=data, gates=gates, ranges=ranges)
