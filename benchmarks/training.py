"""Patches a second of training, and what each choice of the trainer does to it, as ratios.

    python benchmarks/training.py --arch resnet50 --rounds 3
    python benchmarks/training.py --arch timm/tf_efficientnet_lite0

Steps (forward, backward, optimiser) take turns in precision, memory format and batch size; ``auto``
is what ``--precision auto`` takes. Then batches are made, without a network: patches that are
decoded anew against those kept in memory, and each with the augmentation of ``--recipe``. On a
machine that others use too, ``--cpu-time`` counts processor time, best with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import simplejpeg
import torch
from torch import nn
from torch.nn import functional

from histoslide.datasets import ImageFiles, PatchData
from histoslide.model import pick_device
from histoslide.model.architectures import build_network
from histoslide.training.kept_patches import keep_patches
from histoslide.training.loaders import make_loaders
from histoslide.training.precision import choose_precision
from histoslide.training.recipe import Augmentation, Recipe
from histoslide.training.recipe_file import find_recipe

PATCHES = 512
"""Of the folder whose batches are made."""

Measured = Callable[[], int]
"""Does something once, and says with how many patches."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--recipe", default="pcam-robust")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--side", type=int, default=96, help="of a patch, in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a variant in a round")
    parser.add_argument("--cpu-time", action="store_true", help="not the time that passes")
    given = parser.parse_args()
    clock = time.process_time if given.cpu_time else time.perf_counter
    turns = partial(take_turns, rounds=given.rounds, seconds=given.seconds, clock=clock)
    device = torch.device(pick_device(given.device))
    show(turns(steps(given.arch, given.side, device)))
    recipe = dataclasses.replace(find_recipe(given.recipe), input_px=given.side, batch_size=64)
    with tempfile.TemporaryDirectory() as folder:
        data = written(Path(folder), given.side)
        show(turns(batches(data, recipe, device)))


def steps(arch: str, side: int, device: torch.device) -> dict[str, Measured]:
    """Training steps in one variant each; the first is what others are compared with."""
    auto = choose_precision("auto", device, build_network(arch, 2)).name
    half = "bf16" if auto != "fp16" else "fp16"
    found: dict[str, Measured] = {
        "fp32, rows first, batch 32": step(arch, side, device, "fp32", torch.contiguous_format, 32)
    }
    for precision in ("fp32", half):
        for size in (32, 64):
            mark = ", auto" if precision == auto and size == 64 else ""
            name = f"{precision}, channels last, batch {size}{mark}"
            found[name] = step(arch, side, device, precision, torch.channels_last, size)
    return found


def step(
    arch: str,
    side: int,
    device: torch.device,
    precision: str,
    order: torch.memory_format,
    size: int,
) -> Measured:
    """A training step on noise."""
    network: nn.Module = build_network(arch, 2).to(device).to(memory_format=order).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    images = torch.randn(size, 3, side, side, device=device).contiguous(memory_format=order)
    labels = torch.randint(0, 2, (size,), device=device)
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    cast = torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")

    def run() -> int:
        with cast:
            logits = network(images)
        functional.cross_entropy(logits.float(), labels).backward()
        optimiser.step()
        optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return size

    return run


def batches(data: PatchData, recipe: Recipe, device: torch.device) -> dict[str, Measured]:
    """Epochs of batches alone, in one variant each."""
    plain = dataclasses.replace(recipe, augmentation=Augmentation())
    found: dict[str, Measured] = {}
    for name, source in (("decoded anew", data), ("kept in memory", keep_patches(data, recipe))):
        for what, given in (("", plain), (f", augmented as {recipe.name}", recipe)):
            loader = make_loaders(source, given, device=device).train

            def run(loader: Any = loader) -> int:
                return sum(len(images) for images, _ in loader)

            found[f"batches: {name}{what}"] = run
    return found


def written(folder: Path, side: int) -> PatchData:
    """Smooth noise as JPEG files, as tissue is smooth."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(PATCHES, 3, side // 6, side // 6, generator=generator)
    smooth = functional.interpolate(coarse, side, mode="bicubic").clamp(0, 1) * 255
    paths = []
    for index, pixels in enumerate(smooth.byte().permute(0, 2, 3, 1).numpy()):
        paths.append(folder / f"{index}.jpg")
        paths[-1].write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=85))
    patches = ImageFiles(tuple(paths), np.arange(PATCHES) % 2)
    return PatchData(layout="folders", classes=("a", "b"), train=patches, valid=patches)


def take_turns(
    variants: dict[str, Measured], *, rounds: int, seconds: float, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Patches a second of every variant, of every round."""
    for run in variants.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            done, started = 0, clock()
            while (passed := clock() - started) < seconds:
                done += run()
            rates[name].append(done / passed)
    return rates


def show(rates: dict[str, list[float]]) -> None:
    """Print each variant beside the first."""
    first = median(next(iter(rates.values())))
    for name, found in rates.items():
        shown = " ".join(f"{rate:7.0f}" for rate in found)
        print(f"{name:58} {shown} patches/s  ×{median(found) / first:.2f}", flush=True)


if __name__ == "__main__":
    main()
