"""In which numbers to train: chosen by the device, the processor and the network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fastai.callback.fp16 import AMPMode
from torch import nn

from histoslide.errors import DataError


@dataclass(frozen=True, kw_only=True)
class TrainingPrecision:
    """What a run computes in, and why."""

    name: str
    """``fp32``, ``fp16`` or ``bf16``."""
    reason: str
    """For the log and the bundle, in a few words."""

    @property
    def amp_mode(self) -> AMPMode | None:
        """What fastai's mixed precision is to do; None for float32."""
        return {"fp16": AMPMode.FP16, "bf16": AMPMode.BF16}.get(self.name)


def choose_precision(
    asked: str, device: torch.device, network: nn.Module | None = None
) -> TrainingPrecision:
    """What to train in.

    ``auto`` is decided by rule, not by a timing: a run that is repeated or goes on later must
    compute as it did before.

    Args:
        asked: one of ``histoslide.training.recipe.PRECISIONS``.
        device: where.
        network: what is trained; matters to ``auto`` on the CPU.

    Raises:
        DataError: the device cannot train in this precision.
    """
    if asked == "auto":
        return _best(device, network)
    if asked == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise DataError(f"{device} has no bfloat16: pass --precision fp16 or fp32")
    if asked == "fp16" and device.type != "cuda":
        raise DataError(
            f"fp16 trains on CUDA only, not on {device}: pass --precision auto, bf16 or fp32"
        )
    if asked == "mixed":
        half = device.type == "cuda"
        return TrainingPrecision(name="fp16" if half else "fp32", reason="mixed, as fastai has it")
    return TrainingPrecision(name=asked, reason="as asked")


def _best(device: torch.device, network: nn.Module | None) -> TrainingPrecision:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return TrainingPrecision(name="bf16", reason="this GPU has bfloat16")
        return TrainingPrecision(name="fp16", reason="this GPU has no bfloat16")
    if device.type != "cpu":
        return TrainingPrecision(name="fp32", reason=f"the safe choice on {device.type}")
    if not has_fast_bfloat16():
        return TrainingPrecision(name="fp32", reason="this processor has no bfloat16 arithmetic")
    if network is not None and has_depthwise(network):
        # A product of one channel with one kernel is bound by memory, and what it gains there the
        # conversions cost: EfficientNet-Lite0 trains 1.3 times as fast in float32.
        reason = "depthwise convolutions gain nothing from bfloat16 on a processor"
        return TrainingPrecision(name="fp32", reason=reason)
    return TrainingPrecision(name="bf16", reason="this processor has bfloat16 arithmetic")


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself: AVX512-BF16 or AMX."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def has_depthwise(network: nn.Module) -> bool:
    """Whether a network has convolutions of one channel at a time."""
    return any(
        isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels
        for module in network.modules()
    )
