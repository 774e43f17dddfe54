"""A model as WSInfer reads it: ``torchscript_model.pt`` and ``config.json`` in a folder.

WSInfer (Kaczmarzyk et al. 2024, npj Precision Oncology 8:9) and its QuPath extension cut a tile of
``patch_size_pixels`` at ``spacing_um_px``, apply the listed transforms, run the network and apply a
softmax, whatever the file says. There is no place for a calibration temperature, so it is part of
the network's last layer here: the softmax of the logits is the calibrated probability.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from histoslide.errors import BundleError, reason
from histoslide.model.architectures import load_network
from histoslide.model.networks import fold_batch_norm
from histoslide.model.spec import ModelSpec
from histoslide.storage.records import to_json
from histoslide.storage.writing import refuse_existing, whole_file

WEIGHTS_NAME = "torchscript_model.pt"
"""The only name under which WSInfer and its QuPath extension look for the network."""

CONFIG_NAME = "config.json"
"""The only name under which they look for the configuration."""

SPEC_NAME = "histoslide.json"
"""Entry of the TorchScript archive with the whole spec: licence, label footprint, training."""

CONFIG_VERSION = "1.0"
"""The one version of WSInfer's model configuration."""


def write_wsinfer(
    folder: Path, spec: ModelSpec, state: Mapping[str, Tensor], *, overwrite: bool = False
) -> None:
    """Write the two files; each is either the whole new one or what was there before.

    Args:
        folder: where to; made if missing. WSInfer calls the model by the folder's name.
        spec: what the weights are.
        state: the network's state dict.
        overwrite: replace the two files where they exist; others in the folder are left alone.

    Raises:
        OutputExistsError: a file exists and ``overwrite`` is false.
        BundleError: the weights do not fit the spec's architecture, or a file cannot be written.
    """
    weights, config = folder / WEIGHTS_NAME, folder / CONFIG_NAME
    for path in (weights, config):
        refuse_existing(path, overwrite=overwrite)
    network = load_network(spec.architecture, len(spec.classes), state)
    network = calibrate(fold_batch_norm(network), spec.temperature)
    try:
        with whole_file(weights) as new_weights, whole_file(config) as new_config:
            _save_torchscript(network, spec, new_weights)
            text = to_json(wsinfer_config(spec), ascii_only=True)
            new_config.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BundleError(f"{folder} cannot be written: {reason(error)}") from error


def wsinfer_config(spec: ModelSpec) -> dict[str, Any]:
    """The configuration of a model, as WSInfer's JSON schema of version 1.0 wants it.

    All sizes are in pixels at ``spacing_um_px``. The resize is always listed, also where it
    changes nothing: QuPath rounds tiles to whole slide pixels, and they come out a pixel larger or
    smaller than asked for.
    """
    return {
        "spec_version": CONFIG_VERSION,
        "architecture": spec.architecture,
        "num_classes": len(spec.classes),
        "class_names": list(spec.classes),
        "patch_size_pixels": spec.input_px,
        "spacing_um_px": float(spec.mpp),
        "transform": [
            {"name": "Resize", "arguments": {"size": spec.network_px}},
            {"name": "ToTensor"},
            {
                "name": "Normalize",
                "arguments": {
                    "mean": [float(value) for value in spec.mean],
                    "std": [float(value) for value in spec.std],
                },
            },
        ],
    }


def calibrate(network: nn.Sequential, temperature: float) -> nn.Sequential:
    """Divide the last linear layer by the temperature, in place: logits come out calibrated."""
    *_, last = network.modules()
    assert isinstance(last, nn.Linear), "every network of ours ends in a linear layer"
    with torch.no_grad():
        last.weight.div_(temperature)
        if last.bias is not None:
            last.bias.div_(temperature)
    return network


def _save_torchscript(network: nn.Module, spec: ModelSpec, path: Path) -> None:
    example = torch.zeros(1, 3, spec.network_px, spec.network_px)
    archive = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # torch would rather have us export, but TorchScript is what WSInfer and QuPath load.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        # Traced, not scripted: our networks have no branches, and a trace holds only plain
        # operators, which the older torch inside QuPath knows too.
        traced = torch.jit.trace(network, example, check_trace=False)
        torch.jit.save(traced, archive, _extra_files={SPEC_NAME: spec.to_json()})
    # torch stores where each line of Python stood, with absolute paths and so the user's name.
    # Loading does not need it.
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(path, "w") as stripped:
        for entry in whole.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                stripped.writestr(entry, whole.read(entry))
