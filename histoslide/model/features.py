"""What a network sees in a tile before it decides: the input of its last layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from histoslide.errors import BundleError
from histoslide.model.architectures import load_network
from histoslide.model.bundle import load_bundle
from histoslide.model.graphs import TileGraph

BATCH = 64
"""Tiles at a time."""

Features = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Maps RGB tiles, uint8 of shape (n, input_px, input_px, 3), to (n, features)."""


def load_features(bundle: Path, *, device: str = "cpu") -> Features:
    """The penultimate features of a bundle's network, in float32.

    Args:
        bundle: file of the model.
        device: where to compute, as torch names it.

    Raises:
        BundleError: the bundle cannot be read, or its network does not end in a linear layer.
    """
    spec, state = load_bundle(bundle)
    network = load_network(spec.architecture, len(spec.classes), state)
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].out_features != len(spec.classes):
        raise BundleError(f"{bundle}: its network does not end in a linear layer, so it has no "
                          "features to compare tiles by")  # fmt: skip
    seen: list[Tensor] = []
    linear[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    graph = TileGraph(spec, network).to(device).eval()

    def features(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = []
        for start in range(0, len(tiles), BATCH):
            part = np.ascontiguousarray(tiles[start : start + BATCH].transpose(0, 3, 1, 2))
            with torch.inference_mode():
                graph(torch.from_numpy(part).to(device))
            found.append(seen.pop().float().cpu().numpy())
        return np.concatenate(found) if found else np.zeros((0, linear[-1].in_features), np.float32)

    return features
