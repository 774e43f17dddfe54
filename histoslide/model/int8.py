"""Eight-bit convolutions: the ranges that activations take, and a network that rounds to them.

The rounding is written into the network as fake quantisation (Jacob et al. 2018, "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"); a backend that sees
it, as OpenVINO does, computes the convolutions in integers. The same network in torch simulates
what the integers will give.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from histoslide.model.engine import ActivationRange
from histoslide.model.timm_body import pad_alike, pads_itself

_TOP_ACTIVATION = 255
"""Activations are rounded to 0-255; zero is one of these numbers: convolutions pad with it."""

_TOP_WEIGHT = 63
"""Weights are rounded to -63..63, one bit less than would fit: without VNNI, x86 adds two products
of 8 bits in 16, and 2 · 255 · 63 is the largest such sum that never overflows."""

_CLIPPED_SHARE = 1e-5
"""Part of the activations of a batch that may lie beyond the range: outliers would coarsen all."""


def activation_ranges(network: nn.Module, batches: Iterable[Tensor]) -> dict[str, ActivationRange]:
    """The range of what each convolution is given.

    Args:
        network: batch norms folded, in evaluation mode.
        batches: normalised images, (n, 3, h, w), of what the network will see.

    Returns:
        By name of the convolution: the upper end of what is never negative, as behind a ReLU, else
        both ends. The one that is given the image is left out and stays in floating point: it has
        little to compute, and all others would inherit its rounding.
    """
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}
    image: Tensor | None = None
    first: set[str] = set()

    def watch(name: str) -> None:
        def look(_: nn.Module, inputs: tuple[Tensor]) -> None:
            if inputs[0] is image:
                first.add(name)
            values = inputs[0].flatten()
            clipped = int(len(values) * _CLIPPED_SHARE) + 1
            top = float(torch.topk(values, clipped).values[-1])
            highest[name] = max(highest.get(name, 0.0), top)
            if values.min() < 0:
                bottom = float(torch.topk(values, clipped, largest=False).values[-1])
                lowest[name] = min(lowest.get(name, 0.0), bottom)

        hooks.append(convolutions[name].register_forward_pre_hook(look))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    convolutions = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    try:
        for name in convolutions:
            watch(name)
        with torch.inference_mode():
            for image in batches:
                network(image)
    finally:
        for hook in hooks:
            hook.remove()
    ranges: dict[str, ActivationRange] = {}
    for name, top in highest.items():
        bottom = lowest.get(name, 0.0)
        if name not in first and max(top, 0.0) > bottom:
            ranges[name] = top if bottom == 0 else (bottom, max(top, 0.0))
    return ranges


def quantised(network: nn.Module, ranges: Mapping[str, ActivationRange]) -> nn.Module:
    """A copy of a network whose convolutions round their inputs and weights to eight bits.

    Args:
        network: batch norms folded.
        ranges: of ``activation_ranges``; convolutions that it does not name stay as they are, and
            so do those that compute in a way of their own.
    """
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        if name in ranges and (type(module) is nn.Conv2d or _pads_itself(module)):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, _RoundedConv(module, ranges[name]))
    return network


def _pads_itself(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and pads_itself(module)


class _RoundedConv(nn.Module):
    scales: Tensor
    zeros: Tensor

    def __init__(self, convolution: nn.Conv2d, spanned: ActivationRange) -> None:
        super().__init__()
        self._convolution = convolution
        lowest, highest = spanned if isinstance(spanned, tuple) else (0.0, spanned)
        self._step = (highest - lowest) / _TOP_ACTIVATION
        self._zero = round(-lowest / self._step)
        scales = convolution.weight.detach().abs().amax(dim=(1, 2, 3)).clamp_min(1e-12)
        self.register_buffer("scales", scales / _TOP_WEIGHT)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int32))

    def forward(self, images: Tensor) -> Tensor:
        convolution = self._convolution
        rounded = torch.fake_quantize_per_tensor_affine(
            images, self._step, self._zero, 0, _TOP_ACTIVATION
        )
        weight = torch.fake_quantize_per_channel_affine(
            convolution.weight, self.scales, self.zeros, 0, -_TOP_WEIGHT, _TOP_WEIGHT
        )
        if _pads_itself(convolution):
            rounded = pad_alike(convolution, rounded)
        return functional.conv2d(
            rounded,
            weight,
            convolution.bias,
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            convolution.groups,
        )
