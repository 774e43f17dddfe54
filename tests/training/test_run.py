"""A whole training run from Python: the same records as the command's, in the same places."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import histoslide.training.run as run_module
from histoslide.datasets import PatchFolder
from histoslide.errors import DataError, HistoslideError, OutputExistsError
from histoslide.model import read_spec
from histoslide.training.recipe import Recipe, Stage
from histoslide.training.recipe_file import find_recipe
from histoslide.training.records import EpochRecord
from histoslide.training.run import TrainingRun, run_training

RECIPE = Recipe(
    name="quick",
    architecture="tiny",
    imagenet=False,
    stages=(Stage(epochs=1),),
    valid_fraction=0.4,
    batch_size=4,
    input_px=32,
    label_px=32,
)

pytestmark = pytest.mark.usefixtures("tiny")


def write_patches(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, low in (("0", 0), ("1", 128)):
        (root / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(low, low + 128, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}-{i}.png")
    return root


def test_a_run_from_python_leaves_what_the_command_leaves(tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}

    @contextmanager
    def watch(label: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: seen.__setitem__(label, (done, total))

    run = TrainingRun(
        patches=PatchFolder(root=write_patches(tmp_path / "patches"), patch_px=32),
        recipe=RECIPE,
        out=tmp_path / "m.safetensors",
        class_names=("normal", "tumour"),
        workers=0,
        device="cpu",
    )
    epochs: list[EpochRecord] = []
    finished = run_training(run, watch=watch, on_epoch=epochs.append)
    assert [record.epoch for record in epochs] == [1]
    assert seen["reading"] == (24, 24)
    assert finished.report == tmp_path / "m.run" / "report.html"
    assert find_recipe(str(tmp_path / "m.run" / "recipe.json")) == RECIPE
    spec = read_spec(run.out)
    assert (spec.name, spec.tumour_class) == ("m", "tumour")
    assert spec == finished.model.spec
    assert not (tmp_path / "m.run" / "checkpoint.pt").exists()
    with pytest.raises(OutputExistsError, match=r"m\.safetensors"):
        run_training(run)


def test_folders_0_and_1_are_normal_and_tumour(tmp_path: Path) -> None:
    patches = PatchFolder(root=write_patches(tmp_path / "patches"), patch_px=32)

    def classes(**options: Any) -> tuple[str, ...]:
        run = TrainingRun(patches=patches, recipe=RECIPE, out=tmp_path / "m.safetensors", **options)
        return run_module._open(run, None).classes

    assert classes() == ("normal", "tumour")
    assert classes(class_names=("stroma", "gland")) == ("stroma", "gland")
    assert classes(tumour="0") == ("0", "1"), "somebody means something else by them"


def test_what_a_run_cannot_do_is_said_first(tmp_path: Path) -> None:
    patches, out = PatchFolder(root=tmp_path / "none"), tmp_path / "m.safetensors"
    with pytest.raises(HistoslideError, match=r"m\.pkl must end in \.safetensors"):
        TrainingRun(patches=patches, recipe=RECIPE, out=tmp_path / "m.pkl")
    with pytest.raises(HistoslideError, match="must be 0 or more, not -1"):
        TrainingRun(patches=patches, recipe=RECIPE, out=out, workers=-1)
    with pytest.raises(DataError, match="none is not a folder of patches"):
        run_training(TrainingRun(patches=patches, recipe=RECIPE, out=out))
