"""Patches kept in memory are those that would be read anew."""

import dataclasses

import numpy as np
import psutil
import pytest
import torch
from patches import DATA, QUICK, SIDE_PX, Memory, centre_patches
from torch import Tensor

from histoslide.datasets import UNKNOWN, PatchData, WithoutLabels
from histoslide.errors import DataError
from histoslide.training import fit
from histoslide.training.fit import train
from histoslide.training.kept_patches import KeptPatches, keep_patches
from histoslide.training.loaders import make_loaders, without_patches
from histoslide.training.recipe import Augmentation

CPU = torch.device("cpu")

MORE = dataclasses.replace(
    DATA,
    unlabelled=WithoutLabels(centre_patches(10, seed=7)),
    repeats=np.where(np.arange(64) < 6, 3, 1),
)
"""Ten patches without labels, and the first six of training three times."""

pytestmark = pytest.mark.usefixtures("tiny")


def shown(data: PatchData, *, train: bool) -> tuple[Tensor, Tensor]:
    """All batches of an epoch, joined."""
    torch.manual_seed(0)
    recipe = dataclasses.replace(QUICK, batch_size=6)
    loaders = make_loaders(data, recipe, device=CPU)
    loader = loaders.train.new(shuffle=False, drop_last=False) if train else loaders.valid
    loader.kept = (loaders.train if train else loaders.valid).kept
    pairs = [(x.as_subclass(Tensor), y.as_subclass(Tensor)) for x, y in loader]
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


@pytest.mark.parametrize("part", [True, False], ids=["train", "valid"])
@pytest.mark.parametrize("data", [DATA, MORE], ids=["labelled", "more"])
def test_an_epoch_shows_the_same_from_memory(data: PatchData, part: bool) -> None:
    kept = keep_patches(data, QUICK)
    assert isinstance(kept.train, KeptPatches)
    assert keep_patches(kept, QUICK) is kept
    images, labels = shown(data, train=part)
    again, same = shown(kept, train=part)
    assert torch.equal(images, again)
    assert torch.equal(labels, same)


def test_an_epoch_shows_repeats_and_unlabelled_patches() -> None:
    _, labels = shown(keep_patches(MORE, QUICK), train=True)
    assert len(labels) == len(MORE.shown) == 64 + 6 * 2 + 10
    assert (labels == UNKNOWN).sum() == 10
    assert labels[:18].tolist() == np.repeat(DATA.train.labels[:6], 3).tolist()
    assert shown(MORE, train=False)[1].tolist() == DATA.valid.labels.tolist()


def test_a_run_from_memory_is_the_run_that_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = dataclasses.replace(QUICK, augmentation=Augmentation(flip=True, stain=0.2))
    kept = train(DATA, recipe, device=CPU)
    monkeypatch.setattr(fit, "keep_patches", lambda data, recipe: data)
    read = train(DATA, recipe, device=CPU)
    assert [e.train_loss for e in kept.epochs] == [e.train_loss for e in read.epochs]


def test_they_are_kept_only_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = (64 + 24) * SIDE_PX**2 * 3

    def pretend(available: float) -> None:
        memory = type("Memory", (), {"available": available})
        monkeypatch.setattr(psutil, "virtual_memory", memory)

    pretend(needed / 0.4 - 1000)
    assert keep_patches(DATA, QUICK) is DATA
    pretend(needed / 0.4 + 1000)
    told: list[tuple[int, int]] = []
    kept = keep_patches(DATA, QUICK, on_patches=lambda done, total: told.append((done, total)))
    assert told[-1] == (88, 88)
    np.testing.assert_array_equal(kept.valid.read(3), DATA.valid.read(3))
    assert list(kept.train.names) == list(DATA.train.names)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # the other process keeps its own
    assert keep_patches(DATA, QUICK) is DATA


def test_patches_that_are_resized_one_by_one_are_not_kept() -> None:
    assert keep_patches(DATA, dataclasses.replace(QUICK, presize_px=64)) is DATA


def test_a_patch_of_another_size_is_named() -> None:
    small = np.zeros((4, 20, 20, 3), dtype=np.uint8)
    data = dataclasses.replace(DATA, valid=Memory(small, np.array([0, 1, 0, 1])))
    with pytest.raises(DataError, match="patch patch-0 is 20×20 px, the recipe expects 40×40"):
        keep_patches(data, QUICK)


def test_compression_changes_training_patches_only() -> None:
    recipe = dataclasses.replace(QUICK, augmentation=Augmentation(jpeg=1.0))
    loaders = make_loaders(keep_patches(DATA, QUICK), recipe, device=CPU)
    order = list(range(8))
    images, _ = loaders.train.kept.batch(order)
    original = np.stack([DATA.train.read(i) for i in order]).transpose(0, 3, 1, 2)
    difference = np.abs(images.as_subclass(Tensor).numpy().astype(int) - original)
    assert (difference.reshape(8, -1).max(axis=1) > 0).all()
    assert difference.mean() < 40
    images, _ = loaders.valid.kept.batch(order)
    held = np.stack([DATA.valid.read(i) for i in order]).transpose(0, 3, 1, 2)
    assert np.array_equal(images.as_subclass(Tensor).numpy(), held)


def test_an_export_takes_no_patches_along() -> None:
    loaders = make_loaders(keep_patches(DATA, QUICK), QUICK, device=CPU)
    with without_patches(loaders):
        assert loaders.train.kept is None
    assert loaders.train.kept is not None
