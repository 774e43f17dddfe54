"""A model that is ready to score: uint8 tiles in, probabilities out."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from histoslide.errors import BundleError, HistoslideError
from histoslide.model.architectures import load_network
from histoslide.model.bundle import default_bundle, load_bundle
from histoslide.model.spec import ModelSpec

CPU_BATCH = 32
"""Tiles a batch on a CPU: larger ones leave its caches and gain nothing."""

GPU_BATCH = 256
"""Tiles a batch on an accelerator: fills it with under 2 GB of activations for ResNet50."""


class Model:
    """A network and its spec on a device. Calls are serialised, so threads may share one."""

    def __init__(
        self, spec: ModelSpec, network: nn.Module, *, device: torch.device, sha256: str
    ) -> None:
        """Wrap a network that maps normalised (n, 3, h, w) tiles to (n, classes) logits.

        Args:
            spec: what the network is.
            network: moved to ``device`` and put into evaluation mode.
            device: where to compute.
            sha256: identifies the weights in a heatmap's metadata.
        """
        self.spec = spec
        self.device = device
        self.sha256 = sha256
        self._network = network.to(device).to(memory_format=torch.channels_last).eval()
        self._mean = torch.tensor(spec.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(spec.std, device=device).view(1, 3, 1, 1)
        self._lock = threading.Lock()

    @property
    def batch_size(self) -> int:
        """How many tiles to hand over at a time."""
        return CPU_BATCH if self.device.type == "cpu" else GPU_BATCH

    def prepare(self, tiles: Tensor) -> Tensor:
        """What the network sees of tiles: resized and normalised as the spec says.

        Args:
            tiles: RGB, uint8, shape (n, 3, input_px, input_px), on any device.

        Returns:
            float32, shape (n, 3, network_px, network_px), on the model's device.
        """
        spec = self.spec
        images = tiles.to(self.device).float().div_(255)
        if spec.network_px != spec.input_px:
            images = functional.interpolate(
                images, size=spec.network_px, mode="bilinear", antialias=True
            )
        images = (images - self._mean) / self._std
        return images.contiguous(memory_format=torch.channels_last)

    def logits(self, tiles: Tensor) -> Tensor:
        """Raw outputs of the network.

        Args:
            tiles: RGB, uint8, shape (n, 3, input_px, input_px), on any device.

        Returns:
            float32, shape (n, classes), on the model's device.
        """
        images = self.prepare(tiles)
        with self._lock, torch.inference_mode():
            return self._network(images).float()

    def probabilities(self, tiles: Tensor) -> Tensor:
        """Calibrated class probabilities of uint8 tiles; shapes as in ``logits``."""
        return functional.softmax(self.logits(tiles) / self.spec.temperature, dim=1)


def load_model(path: Path | None = None, *, device: torch.device | None = None) -> Model:
    """Load a bundle for scoring.

    Args:
        path: bundle file; None for the one that ships with histoslide.
        device: where to compute; None picks as ``pick_device``.

    Raises:
        BundleError: the bundle cannot be read, or its weights do not fit its architecture.
    """
    path = default_bundle() if path is None else path
    spec, state = load_bundle(path)
    try:
        return make_model(spec, state, device=device, sha256=file_sha256(path))
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None


def make_model(
    spec: ModelSpec,
    state: Mapping[str, Tensor],
    *,
    sha256: str,
    device: torch.device | None = None,
) -> Model:
    """Build a model for scoring from weights that are already in memory.

    Args:
        spec: what the weights are.
        state: state dict of the architecture that the spec names.
        sha256: identifies the weights in a heatmap's metadata.
        device: where to compute; None picks as ``pick_device``.

    Raises:
        BundleError: the weights do not fit the architecture.
    """
    network = load_network(spec.architecture, len(spec.classes), state)
    device = pick_device() if device is None else device
    return Model(spec, fold_batch_norm(network), device=device, sha256=sha256)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` takes CUDA, else Apple's MPS, else the CPU.

    Raises:
        HistoslideError: this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # as torch was built without it
        reason = str(error).splitlines()[0]
        raise HistoslideError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def fold_batch_norm(network: nn.Sequential) -> nn.Sequential:
    """Fold each batch norm of a ResNet body into the convolution before it (evaluation only).

    The sums are the same; the pass over all activations that a batch norm costs is saved.
    """
    _fold_children(network[0])
    return network


def _fold_children(module: nn.Module) -> None:
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        else:
            _fold_children(child)
        previous = (name, child)
