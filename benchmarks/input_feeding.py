"""Does reading patches keep a network waiting?

    python benchmarks/input_feeding.py pcam/ [kaggle/] [--arch resnet50] [--steps 20]

Reports, for the first folder, the share of training time that is spent waiting for patches, with
decoding in the training process as ``histoslide train`` does on a CPU, and for every layout at hand
the patches that one core reads and batches in a second. From that follows how many cores feed a GPU
of 2,000 patches a second. Shares and rates are of one run on one machine: compare, do not quote.
"""

import argparse
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch

from histoslide.datasets import PatchData, PatchFolder, Subset
from histoslide.datasets.pcam_hdf5 import split_files
from histoslide.training.learner import make_learner
from histoslide.training.loaders import make_loaders
from histoslide.training.network import start_network
from histoslide.training.recipe import RECIPES, Recipe, Stage

CPU = torch.device("cpu")
GPU_RATE = 2000
"""Patches a second that a fast GPU trains a ResNet50 on, at 96 px in half precision."""

GPU_CORES = 16
"""Cores beside such a GPU."""

SAMPLE = 2048
"""Patches that are read for a rate."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    recipe = Recipe(
        name="feeding",
        architecture=arguments.arch,
        imagenet=False,
        stages=(Stage(epochs=1),),
        augmentation=RECIPES["pcam"].augmentation,
    )
    with tempfile.TemporaryDirectory() as folder:
        first = PatchFolder(root=arguments.data[0]).divide(duplicates="keep")
        sets = {
            str(path): PatchFolder(root=path).divide(duplicates="keep") for path in arguments.data
        }
        sets["the first as HDF5"] = as_hdf5(first, Path(folder))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for name, data in sets.items():
            rate = reading_rate(data, recipe)
            share = GPU_RATE / (rate * GPU_CORES)
            print(
                f"{name}: {rate:,.0f} patches/s a core; {GPU_CORES} cores need {share:.0%} of "
                f"their time to feed {GPU_RATE:,} patches/s"
            )
    torch.set_num_threads(threads)
    waiting, rate = waiting_share(first, recipe, arguments.steps)
    print(f"training {arguments.arch}: {rate:.1f} patches/s, waiting for patches {waiting:.1%}")


def reading_rate(data: PatchData, recipe: Recipe) -> float:
    """Patches a second that one core decodes and puts into batches, without augmentation."""
    count = min(SAMPLE, len(data.train))
    few = PatchData(
        layout=data.layout,
        classes=data.classes,
        train=Subset(data.train, np.random.default_rng(0).permutation(len(data.train))[:count]),
        valid=data.valid,
    )
    loader = make_loaders(few, recipe, recipe.stages[0], device=CPU).train
    loader.after_batch = lambda batch: batch  # happens on the device
    start = time.perf_counter()
    read = sum(len(labels) for _, labels in loader)
    return read / (time.perf_counter() - start)


def waiting_share(data: PatchData, recipe: Recipe, steps: int) -> tuple[float, float]:
    """The part of training time spent waiting for decoded patches, and patches a second."""
    network = start_network(data, recipe, device=CPU, seed=0)
    learner = make_learner(data, recipe, recipe.stages[0], network, device=CPU)
    loader = learner.dls.train
    after_batch = loader.after_batch
    waited = patches = 0.0
    spent = [0.0]

    def timed(batch: object) -> object:
        before = time.perf_counter()
        out = after_batch(batch)
        spent[0] += time.perf_counter() - before
        return out

    loader.after_batch = timed
    network.train()
    batches = iter(loader)
    next(batches)  # the first one pays for the start
    spent[0] = 0.0
    start = time.perf_counter()
    for _ in range(steps):
        before = time.perf_counter()
        images, labels = next(batches)
        waited += time.perf_counter() - before
        loss = learner.loss_func(network(images.as_subclass(torch.Tensor)), labels)
        loss.backward()
        learner.opt.step()
        learner.opt.zero_grad()
        patches += len(labels)
    total = time.perf_counter() - start
    return (waited - spent[0]) / total, patches / total  # augmenting is work, not waiting


def as_hdf5(data: PatchData, folder: Path) -> PatchData:
    """Some patches in the layout of the official files."""
    for split, patches in (("train", data.train), ("valid", data.valid)):
        count = min(SAMPLE, len(patches))
        order = np.random.default_rng(1).permutation(len(patches))[:count]
        pixels, targets = split_files(folder, split)
        with h5py.File(pixels, "w") as file:
            file["x"] = np.stack([patches.read(int(i)) for i in order])
        with h5py.File(targets, "w") as file:
            file["y"] = patches.labels[order].reshape(-1, 1, 1, 1).astype(np.uint8)
    return PatchFolder(root=folder).divide(duplicates="keep")


if __name__ == "__main__":
    main()
