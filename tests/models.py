"""Small networks whose answers are known, for tests of where probabilities land."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from histoslide.model import Model, ModelSpec
from histoslide.model.architectures import ConcatPool


class CentreColour(nn.Module):
    """Logits whose softmax is the mean of one colour channel over the label footprint, 0-1."""

    def __init__(self, label_px: int, channel: int) -> None:
        super().__init__()
        self._label_px, self._channel = label_px, channel

    def forward(self, images: Tensor) -> Tensor:
        side = images.shape[-1]
        low = (side - self._label_px) // 2
        part = images[:, self._channel, low : low + self._label_px, low : low + self._label_px]
        share = part.mean(dim=(1, 2)).clamp(1e-6, 1 - 1e-6)
        return torch.stack([torch.log1p(-share), torch.log(share)], dim=1)


class ThreeColours(nn.Module):
    """Three logits whose softmax is the tile's mean colour, normalised to one."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.log(images.mean(dim=(2, 3)).clamp_min(1e-6))


def colour_model(
    channel: int = 0, *, input_px: int = 96, label_px: int = 32, mpp: float = 0.972
) -> Model:
    """A two-class model that reads one channel's mean over the footprint as P(tumour)."""
    spec = ModelSpec(
        name=f"colour-{channel}",
        architecture="none",
        classes=("normal", "tumour"),
        tumour_class="tumour",
        input_px=input_px,
        label_px=label_px,
        network_px=input_px,
        mpp=mpp,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    return Model(
        spec,
        CentreColour(label_px, channel),
        sha256=f"{channel}-{input_px}-{label_px}",
    )


def three_class_model() -> Model:
    """A model of three classes: the shares of red, green and blue."""
    spec = ModelSpec(
        name="colours",
        architecture="none",
        classes=("red", "green", "blue"),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        input_px=96,
        label_px=32,
        mpp=0.972,
    )
    return Model(spec, ThreeColours(), device="cpu", sha256="three")


def randomise_norms(network: nn.Module, *, std: float = 0.1) -> nn.Module:
    """Give every batch norm statistics and factors of its own, so that none is without effect."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=std)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, std=std)
    return network


AREA_SPEC = ModelSpec(
    name="areas",
    architecture="none",
    classes=("normal", "tumour"),
    tumour_class="tumour",
    mpp=0.972,
    mean=(0, 0, 0),
    std=(1, 1, 1),
    input_px=96,
    label_px=32,
)
"""Of models that areas can be scored with."""


def area_network(*, padded: bool) -> nn.Sequential:
    """Stride 32; without padding a feature sees its own 32 px only, so areas equal tiles."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 64 if padded else 32, stride=32, padding=16 if padded else 0)
    last = nn.Linear(8, 2)
    nn.init.normal_(last.weight, std=3.0)
    head = nn.Sequential(ConcatPool(), nn.Flatten(), nn.BatchNorm1d(8), last)
    return nn.Sequential(nn.Sequential(convolution, nn.ReLU()), head)


def area_model(*, padded: bool = False, **changes: Any) -> Model:
    spec = dataclasses.replace(AREA_SPEC, **changes)
    return Model(spec, area_network(padded=padded), device="cpu", sha256="areas")
