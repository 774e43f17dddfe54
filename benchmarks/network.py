"""Tiles a second of the network alone, without any reading, by backend and precision.

    python benchmarks/network.py --rounds 3
    python benchmarks/network.py --model light --batches 8 16 32 64 128

The variants take turns on the tiles of one batch. ``int8 without bf16`` computes what int8 leaves
in floating point in float32, as processors do that have no bfloat16. ``--batches`` tries other
sizes than ``score`` takes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch

from histoslide.model import Model, load_model, openvino_backend, shipped_bundle
from histoslide.model.bundle import SHIPPED
from histoslide.model.engine import Precision
from histoslide.model.openvino_extra import has_cpu_bf16
from histoslide.model.work import Tiles

SECONDS = 2.0
"""Of a variant in a round."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way of computing a network."""

    precision: Precision
    bf16: bool
    """Whether the processor is said to have it."""
    batch: int
    """Tiles."""

    def __str__(self) -> str:
        """For the table."""
        without = " without bf16" if self.precision == "int8" and not self.bf16 else ""
        return f"{self.precision}{without}, batches of {self.batch}"

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Let models compile and compute in this way."""
        with (
            mock.patch.object(openvino_backend, "has_cpu_bf16", return_value=self.bf16),
            mock.patch.object(Tiles, "graph_items", return_value=self.batch),
        ):
            yield

    def rate(self, model: Model) -> float:
        """Tiles a second, of noise."""
        side = model.spec.input_px
        tiles = torch.randint(0, 256, (self.batch, 3, side, side), dtype=torch.uint8)
        with self.in_force():
            model.logits(tiles)
            done, started = 0, time.perf_counter()
            while (passed := time.perf_counter() - started) < SECONDS:
                model.logits(tiles)
                done += len(tiles)
        return done / passed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", choices=SHIPPED, default="default")
    parser.add_argument("--batches", type=int, nargs="+", default=[32], metavar="TILES")
    given = parser.parse_args()
    path = shipped_bundle(given.model)
    ways: list[tuple[Precision, bool]] = [("fp32", False), ("int8", False)]
    if has_cpu_bf16():
        ways += [("int8", True), ("bf16", True)]
    models: dict[Variant, Model] = {}
    for batch in given.batches:
        for precision, bf16 in ways:
            variant = Variant(precision=precision, bf16=bf16, batch=batch)
            with variant.in_force():
                models[variant] = load_model(
                    path, device="cpu", backend="openvino", precision=precision
                )
    rates: dict[Variant, list[float]] = {variant: [] for variant in models}
    for _ in range(given.rounds):
        for variant, model in models.items():
            rates[variant].append(variant.rate(model))
    for variant, found in rates.items():
        print(f"openvino {variant!s:34}", *(f"{value:5.0f}" for value in found), "tiles/s")


if __name__ == "__main__":
    main()
