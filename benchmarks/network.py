"""Tiles a second of the network alone, without any reading, by backend and precision.

    python benchmarks/network.py --rounds 3

The variants take turns on the tiles of one batch. ``int8 without bf16`` computes what int8 leaves
in floating point in float32, as processors do that have no bfloat16.
"""

from __future__ import annotations

import argparse
import time
from unittest import mock

import torch

from histoslide.model import Model, load_model, openvino_backend
from histoslide.model.engine import Precision
from histoslide.model.openvino_extra import has_cpu_bf16

SECONDS = 2.0
"""Of a variant in a round."""


def built(precision: Precision, *, bf16: bool) -> Model:
    """The model that ships, compiled."""
    with mock.patch.object(openvino_backend, "has_cpu_bf16", return_value=bf16):
        model = load_model(device="cpu", backend="openvino", precision=precision)
        model.logits(tiles_of(model))
    return model


def tiles_of(model: Model) -> torch.Tensor:
    """A batch of noise."""
    side = model.spec.input_px
    return torch.randint(0, 256, (model.batch_size, 3, side, side), dtype=torch.uint8)


def rate(model: Model) -> float:
    """Tiles a second."""
    tiles, done, started = tiles_of(model), 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < SECONDS:
        model.logits(tiles)
        done += len(tiles)
    return done / passed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    variants = {"fp32": built("fp32", bf16=False), "int8 without bf16": built("int8", bf16=False)}
    if has_cpu_bf16():
        variants |= {"int8": built("int8", bf16=True), "bf16": built("bf16", bf16=True)}
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(given.rounds):
        for name, model in variants.items():
            rates[name].append(rate(model))
    for name, found in rates.items():
        print(f"openvino {name:18}", *(f"{value:5.0f}" for value in found), "tiles/s")


if __name__ == "__main__":
    main()
