"""What a run computes in, by device, processor and network."""

from collections.abc import Callable

import pytest
import torch
from fastai.callback.fp16 import AMPMode
from patches import make_tiny
from torch import nn

from histoslide.errors import DataError
from histoslide.training import precision
from histoslide.training.precision import choose_precision, has_depthwise

CPU, CUDA, MPS = (torch.device(kind) for kind in ("cpu", "cuda", "mps"))

DEPTHWISE = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool, bool], None]:
    """Sets whether the processor, and whether the GPU, has bfloat16."""

    def pretend(processor: bool, gpu: bool) -> None:
        monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: processor)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: gpu)

    return pretend


@pytest.mark.parametrize(
    ("device", "network", "has", "expected"),
    [
        (CPU, make_tiny(2, False), True, "bf16"),
        (CPU, make_tiny(2, False), False, "fp32"),
        (CPU, DEPTHWISE, True, "fp32"),
        (CUDA, DEPTHWISE, True, "bf16"),
        (CUDA, make_tiny(2, False), False, "fp16"),
        (MPS, make_tiny(2, False), True, "fp32"),
    ],
)
def test_auto_takes_what_gains(
    machine: Callable[[bool, bool], None],
    device: torch.device,
    network: nn.Module,
    has: bool,
    expected: str,
) -> None:
    machine(has, has)
    chosen = choose_precision("auto", device, network)
    assert chosen.name == expected
    assert chosen.reason
    modes = {"fp32": None, "fp16": AMPMode.FP16, "bf16": AMPMode.BF16}
    assert chosen.amp_mode == modes[expected]


def test_what_is_asked_for_is_taken_or_refused(machine: Callable[[bool, bool], None]) -> None:
    machine(False, False)
    assert choose_precision("bf16", CPU, DEPTHWISE).name == "bf16"
    assert choose_precision("mixed", CPU).name == "fp32"
    assert choose_precision("mixed", CUDA).name == "fp16"
    with pytest.raises(DataError, match="cuda has no bfloat16"):
        choose_precision("bf16", CUDA)
    with pytest.raises(DataError, match="fp16 trains on CUDA only, not on cpu"):
        choose_precision("fp16", CPU)


def test_grouped_convolutions_are_not_depthwise() -> None:
    assert has_depthwise(DEPTHWISE)
    assert not has_depthwise(nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(1, 4, 3)))
