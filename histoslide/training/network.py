"""The network that a run starts from."""

from __future__ import annotations

import torch
from fastai.torch_core import set_seed
from torch import Tensor, nn

from histoslide.datasets import PatchData
from histoslide.errors import BundleError
from histoslide.model.architectures import build_network
from histoslide.training.recipe import Recipe


def start_network(
    data: PatchData,
    recipe: Recipe,
    *,
    device: torch.device,
    seed: int,
    initial: dict[str, Tensor] | None = None,
) -> nn.Module:
    """Build the recipe's network with ImageNet, random or given weights.

    Args:
        data: how many classes there are.
        recipe: architecture and where to start from.
        device: where the network will be.
        seed: of random weights.
        initial: state dict to start from: of a whole network, whose last layer is left out where it
            is of another number of classes, or of a body alone.

    Raises:
        BundleError: the given weights are of another architecture.
        WeightsUnavailableError: ImageNet weights are asked for and cannot be had.
    """
    set_seed(seed, reproducible=True)
    network = build_network(
        recipe.architecture, len(data.classes), imagenet=recipe.imagenet and initial is None
    )
    if initial is not None:
        _load(network, initial, recipe.architecture)
    return network.to(device).to(memory_format=torch.channels_last)


def _load(network: nn.Module, initial: dict[str, Tensor], architecture: str) -> None:
    own = network.state_dict()
    last = [
        name for name in own if name.rpartition(".")[0] == next(reversed(own)).rpartition(".")[0]
    ]
    given = {
        name: value
        for name, value in initial.items()
        if name not in last or value.shape == own[name].shape
    }
    if not any(name.startswith("1.") for name in given):  # a body: the head starts as it is
        given |= {name: value for name, value in own.items() if name.startswith("1.")}
    missing = set(own) - set(given) - set(last)
    wrong = [n for n, value in given.items() if n not in own or own[n].shape != value.shape]
    if missing or wrong:
        raise BundleError(f"the weights to start from are not those of {architecture}")
    network.load_state_dict(own | given)
