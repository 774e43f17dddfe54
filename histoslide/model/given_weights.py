"""Weights to start from, out of files of other libraries: their layers have other names.

Every naming is written out here; nothing is matched by order. That a naming is right is proved by
outputs, in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from histoslide.errors import BundleError
from histoslide.model.architectures import build_network
from histoslide.model.timm_body import is_timm
from histoslide.model.torch_file import read_torch_file

STATE_SUFFIXES = frozenset({".pth", ".pt", ".bin", ".safetensors"})
"""Endings of files with a plain state dict, in lower case."""

WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Where training programs put the state dict in what they save."""

_TORCHVISION = {
    "conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7",
}  # fmt: skip
"""Names of a torchvision ResNet and their places in the body that fastai cuts from it."""

_EFFICIENTNET = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
}
"""Layers outside of blocks in efficientnet-pytorch (lukemelas) and its descendants, and in timm."""

_EXPANDING = {
    "_expand_conv": "conv_pw", "_bn0": "bn1",
    "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
"""Likewise in a block that first widens."""

_SEPARABLE = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
"""Likewise in a block that does not."""


def read_state(path: Path) -> dict[str, Tensor]:
    """A plain state dict from a file, without running code of it.

    Args:
        path: ``.pth``, ``.pt`` or ``.bin`` as ``torch.save`` writes them, or ``.safetensors``.

    Raises:
        BundleError: it cannot be read so.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            found = load_file(path)
        else:
            found = read_torch_file(path)
    except FileNotFoundError:
        raise BundleError(f"{path} does not exist: pass a file of weights") from None
    except (BundleError, OSError, SafetensorError, ValueError) as error:  # also of unknown types
        line = " ".join(str(error).split())
        told = line if isinstance(error, BundleError) else f"{path} cannot be read ({line})"
        raise BundleError(f"{told}: save network.state_dict() in it") from error
    for name in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not (isinstance(found, Mapping) and all(isinstance(v, Tensor) for v in found.values())):
        raise BundleError(f"{path} holds no weights by name: save network.state_dict() in it")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def body_weights(state: Mapping[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """The weights of a body, named as histoslide names them.

    Args:
        state: a state dict in the naming of histoslide, of timm, of torchvision's ResNets or of
            efficientnet-pytorch. Layers after the body, as a classifier of ImageNet's classes, are
            left out.
        architecture: of the network that they are for.

    Raises:
        BundleError: they are not weights of it, in none of these namings.
    """
    with torch.device("meta"):  # names and shapes, no numbers
        body = build_network(architecture, 2)[0]
    own = {f"0.{name}": value for name, value in body.state_dict().items()}
    best: list[str] = []
    for rename in _namings(architecture, body):
        given = {rename(name): value for name, value in state.items()}
        wrong = [n for n, v in own.items() if n not in given or given[n].shape != v.shape]
        wrong = [name for name in wrong if not name.endswith(".num_batches_tracked")]
        if not wrong:
            steps = {n: torch.zeros_like(v, device="cpu") for n, v in own.items()}
            return {name: given.get(name, steps[name]) for name in own}
        if not best or len(wrong) < len(best):
            best = wrong
    raise BundleError(
        f"the weights to start from are not those of {architecture}: {len(best)} of its "
        f"{len(own)} tensors are missing or of another shape, the first is {best[0]}"
    )


def _namings(architecture: str, body: nn.Module) -> list[Callable[[str], str]]:
    """From the names in a file to ours."""
    namings: list[Callable[[str], str]] = [lambda name: name]
    if is_timm(architecture):
        namings.append(lambda name: f"0.network.{name}")
        blocks = getattr(body.network, "blocks", None)
        if isinstance(blocks, nn.Sequential) and hasattr(body.network, "conv_stem"):
            namings.append(_efficientnet_naming(blocks))
    else:
        namings.append(_torchvision_name)
    return namings


def _torchvision_name(name: str) -> str:
    first, _, rest = name.partition(".")
    return f"0.{_TORCHVISION[first]}.{rest}" if first in _TORCHVISION else name


def _efficientnet_naming(stages: Any) -> Callable[[str], str]:
    """That of efficientnet-pytorch, whose blocks are counted through all stages."""
    places = [(s, b, block) for s, stage in enumerate(stages) for b, block in enumerate(stage)]

    def rename(name: str) -> str:
        first, _, rest = name.partition(".")
        if first in _EFFICIENTNET:
            return f"0.network.{_EFFICIENTNET[first]}.{rest}"
        found = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", name)
        if found is None or int(found[1]) >= len(places):
            return name
        stage, index, block = places[int(found[1])]
        layers = _EXPANDING if hasattr(block, "conv_pwl") else _SEPARABLE
        layer = layers.get(found[2], found[2])
        return f"0.network.blocks.{stage}.{index}.{layer}.{found[3]}"

    return rename
