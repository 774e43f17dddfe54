"""Recipes say what the notebooks did, refuse what cannot work, and change as they are told."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastai.optimizer import SGD
from patches import QUICK
from torch import nn

from histoslide.datasets import Split
from histoslide.errors import DataError
from histoslide.training.rates import scale_rates
from histoslide.training.recipe import (
    RECIPES,
    Augmentation,
    Recipe,
    Stage,
    fine_tune_stages,
)
from histoslide.training.recipe_file import change_recipe, find_recipe, parse_settings


def fastai_rates(lr: object) -> list[float]:
    """The rates that fastai sets for three parameter groups."""
    groups = [list(nn.Linear(1, 1).parameters()) for _ in range(3)]
    optimiser = SGD(groups, lr=0.1)
    optimiser.set_hyper("lr", lr)
    return [float(hypers["lr"]) for hypers in optimiser.hypers]


@pytest.mark.parametrize(
    ("lr", "fastai"),
    [
        (1e-3, 1e-3),
        ((1e-6, 1e-5), slice(1e-6, 1e-5)),
        ((1e-5, 1e-3), slice(1e-5, 1e-3)),
        ((3e-4, 3e-4, 3e-3), slice(3e-3)),
    ],
)
def test_rates_are_what_fastai_makes_of_them(lr: float | tuple[float, ...], fastai: object) -> None:
    assert Stage(epochs=1, lr=lr).rates == pytest.approx(fastai_rates(fastai), rel=1e-12)


def test_fine_tune_has_the_stages_of_fastai(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastai.callback.schedule import Learner

    calls: list[tuple[int, list[float], dict[str, Any]]] = []

    class Recording:
        frozen = False

        def freeze(self) -> None:
            self.frozen = True

        def unfreeze(self) -> None:
            self.frozen = False

        def fit_one_cycle(self, epochs: int, lr: object, **settings: Any) -> None:
            calls.append((epochs, fastai_rates(lr), settings | {"frozen": self.frozen}))

    Learner.fine_tune(Recording(), 4, base_lr=1e-2, freeze_epochs=2, lr_mult=50)
    stages = fine_tune_stages(4, base_lr=1e-2, freeze_epochs=2, lr_mult=50)
    for stage, (epochs, rates, settings) in zip(stages, calls, strict=True):
        assert stage.epochs == epochs
        assert stage.rates == pytest.approx(rates)
        assert stage.pct_start == settings["pct_start"]
        assert stage.div == settings.get("div", 25.0)
        assert (stage.trainable_groups == 1) == settings["frozen"]


def test_the_pcam_recipe_is_the_notebook() -> None:
    recipe = RECIPES["pcam"]
    first, second = recipe.stages
    assert (recipe.architecture, recipe.imagenet) == ("resnet50", True)
    assert (first.epochs, first.trainable_groups, first.train_frozen_norms) == (5, 1, True)
    assert (second.epochs, second.trainable_groups, second.lr) == (2, None, (1e-6, 1e-5))
    assert (recipe.input_px, recipe.network_px, recipe.label_px) == (96, 224, 32)
    change = recipe.augmentation
    assert (change.max_rotate, change.max_zoom, change.max_lighting) == (45, 1.15, 0.5)
    assert (change.p_affine, change.p_lighting, change.max_warp) == (0.5, 0.5, 0)


def test_the_colorectal_recipe_is_the_notebook() -> None:
    recipe = RECIPES["colorectal"]
    first, second = recipe.stages
    assert (first.epochs, first.lr, first.trainable_groups) == (3, 1e-3, 1)
    assert (second.epochs, second.lr, second.trainable_groups) == (5, (1e-5, 1e-3), None)
    assert (recipe.presize_px, recipe.network_px, recipe.augmentation.min_scale) == (460, 224, 0.75)
    assert recipe.precision == "mixed"


def test_the_recipes_that_ship_are_whole() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.epochs == sum(stage.epochs for stage in recipe.stages)
        assert recipe.stages[-1].crop_px is None


# --- what cannot work ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    ["p_flip", "max_warp", "max_shift", "max_lighting", "min_scale", "stain", "sharpness", "jpeg"],
)
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_an_augmentation_outside_0_to_1_is_refused(field: str, value: float) -> None:
    with pytest.raises(DataError, match=f"augmentation {field} must be in 0-1, not {value}"):
        Augmentation(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_rotate": 181}, "max_rotate must be in 0-180, not 181"),
        ({"min_zoom": 0}, "min_zoom must be in 0-1 and above 0, not 0"),
        ({"max_zoom": 0.9}, "max_zoom must be 1 or more, not 0.9"),
        ({"min_scale": 0}, "min_scale must be above 0, not 0"),
        ({"max_lighting": 1}, "max_lighting must be below 1, not 1"),
    ],
)
def test_an_impossible_augmentation_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        Augmentation(**changes)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"lr": 0.0}, "not 0.0"),
        ({"lr": -1e-3}, "not -0.001"),
        ({"lr": float("nan")}, "not nan"),
        ({"lr": (1e-3, 0)}, "one to 3 positive numbers"),
        ({"lr": (1e-3,) * 4}, "one to 3 positive numbers"),
        ({"trainable_groups": 0}, "must be 1 to 3, not 0"),
        ({"trainable_groups": 4}, "must be 1 to 3, not 4"),
        ({"pct_start": 1.0}, "pct_start must be in 0-1"),
        ({"div": 0}, "div must be positive"),
    ],
)
def test_an_impossible_stage_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        Stage(**({"epochs": 1, "lr": 1e-3} | changes))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": ()}, "'quick' has no stage"),
        ({"batch_size": 1}, "batch_size must be at least 2, not 1"),
        ({"mpp": 0.0}, "mpp must be a positive number, not 0.0"),
        ({"epsilon": 0.0}, "epsilon must be above 0, not 0.0"),
        ({"input_px": 0}, "input_px must be at least 1, not 0"),
        ({"network_px": 0}, "network_px must be at least 1, not 0"),
        ({"presize_px": 0}, "presize_px must be at least 1, not 0"),
        ({"label_px": 0}, "label_px must be 1 to 40, the side of the patches, not 0"),
        ({"label_px": 41}, "label_px must be 1 to 40, the side of the patches, not 41"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in 0-1 and below 1, not 1.0"),
        ({"weight_decay": -1}, "weight_decay must be 0 or more, not -1"),
        ({"precision": "fp8"}, "'fp8'"),
        ({"keep": "first"}, "keep must be best or last, not 'first'"),
        ({"monitor": "f1"}, "'f1'"),
        ({"patience": 0}, "patience must be at least 1, not 0"),
        ({"class_weights": "heavy"}, "not 'heavy'"),
        ({"class_weights": (1.0, -1.0)}, "not (1.0, -1.0)"),
        ({"stages": (Stage(epochs=1, crop_px=32),)}, "must see whole patches, not crops of 32"),
        ({"stages": (Stage(epochs=1, crop_px=64), Stage(epochs=1))}, "64 px is larger than"),
        ({"stages": (Stage(epochs=1, crop_px=31), Stage(epochs=1))}, "31 px would cut into the 32"),
    ],
)
def test_an_impossible_recipe_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        dataclasses.replace(QUICK, **changes)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Augmentation(max_zoom=1.3), "by 11.1 px, more than 8"),
        (Augmentation(max_shift=0.1), "by 9.6 px, more than 8"),
        (Augmentation(max_zoom=1.15, max_shift=0.02), "by 8.2 px, more than 8"),
        (Augmentation(min_zoom=0.5, p_affine=1), "min_zoom 0.5 and max_shift 0.0 would move the"),
        (Augmentation(min_zoom=0.8, max_zoom=1.1), "min_zoom 0.8 and max_shift 0.0 would move"),
        (Augmentation(min_zoom=0.9, max_zoom=1.3), "max_zoom 1.3 and max_shift 0.0 would move"),
        (Augmentation(min_zoom=0.9, max_shift=0.04), "by 8.6 px, more than 8"),
        (Augmentation(max_zoom=3.5, zoom_centred=True), "would cut into the centre 32 px"),
        (Augmentation(min_scale=0.75), "min_scale 0.75 would move the centre 32 px"),
        (Augmentation(max_warp=0.2), "max_warp 0.2 would move the centre 32 px"),
    ],
)
def test_what_moves_the_label_off_the_centre_is_refused(change: Augmentation, said: str) -> None:
    with pytest.raises(DataError) as caught:
        Recipe(name="x", stages=(Stage(epochs=1),), augmentation=change)
    assert said in str(caught.value)
    # Where the label speaks of the whole patch, all of them are welcome.
    Recipe(name="x", stages=(Stage(epochs=1),), augmentation=change, label_px=96)


def test_a_centred_zoom_may_be_larger() -> None:
    centred = Augmentation(min_zoom=0.5, max_zoom=2.9, zoom_centred=True)
    assert Recipe(name="x", stages=(Stage(epochs=1),), augmentation=centred)


# --- files and options ----------------------------------------------------------------------------


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'base = "pcam"\nbatch_size = 128\nnetwork_px = 96\n'
        "[augmentation]\nstain = 0.1\n"
        "[[stages]]\nepochs = 3\nlr = [1e-5, 1e-3]\n[[stages]]\nepochs = 1\nlr = 1e-4\n"
    )
    recipe = find_recipe(str(path))
    pcam = RECIPES["pcam"]
    assert recipe == dataclasses.replace(
        pcam,
        name="mine",
        batch_size=128,
        network_px=96,
        augmentation=dataclasses.replace(pcam.augmentation, stain=0.1),
        stages=(Stage(epochs=3, lr=(1e-5, 1e-3)), Stage(epochs=1, lr=1e-4)),
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recorded_recipe_can_be_given_again(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(RECIPES[name].as_dict()))
    assert find_recipe(str(path)) == RECIPES[name]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch_size = ", "cannot be read"),
        ("batch_size = 64", "names no stages"),
        ('base = "best"', "no recipe 'best': choose from pcam"),
        ('base = "pcam"\nbatchsize = 64', "has no 'batchsize': it has name, architecture"),
        ('base = "pcam"\nbatch_size = "many"', "Expected `int`, got `str` - at `$.batch_size`"),
        ('base = ["pcam"]', "no recipe ['pcam']"),
        ('base = "pcam"\nname = 3', "at `$.name`"),
        ('base = "pcam"\nmean = [0.5, 0.5]', "at `$.mean`"),
        ('base = "pcam"\nimagenet = "no"', "Expected `bool`"),
        ('base = "pcam"\n[[stages]]\nepochs = 1\nlr = ["high"]', "at `$.stages[0].lr[0]`"),
        ('base = "pcam"\n[augmentation]\nstain = [0.1]', "at `$.augmentation.stain`"),
        ("base = " + "[" * 100_000, "nested too deeply"),
        ('name = "a\0"', "Illegal character"),
        ('base = "pcam"\n[augmentation]\ntint = 1', "augmentation has no 'tint'"),
        ('base = "pcam"\naugmentation = 3', "augmentation must be a table, not 3"),
        ('base = "pcam"\nstages = []', "one or more tables"),
        ('base = "pcam"\n[[stages]]\nlr = 1.0', "a table with epochs"),
    ],
)
def test_a_bad_file_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert_one_line(path, said)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not JSON"),
        (b"[]", "Expected `object`"),
        (b'{"base": ' + b"[" * 100_000, "nested|recursion"),
        (b'{"base": "pcam", "batch_size": "many"}', r"at `\$\.batch_size`"),
        (b'{"base": "pcam", "name": "a\0"}', "not JSON: Invalid control"),
        (b'{"base": "pcam", "name": "\xff"}', "not JSON"),
        (b'{"base": "pcam", "augmentation": {"stain": NaN}}', "stain must be in 0-1, not nan"),
    ],
)
def test_a_bad_json_file_is_one_line(raw: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(raw)
    assert_one_line(path, said, pattern=True)


def assert_one_line(path: Path, said: str, *, pattern: bool = False) -> None:
    """A recipe file is refused in one line that names it."""
    with pytest.raises(DataError) as caught:
        find_recipe(str(path))
    assert re.search(said if pattern else re.escape(said), str(caught.value))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(DataError, match="'pcan': choose from pcam, colorectal, fine-tune"):
        find_recipe("pcan")


def test_settings_are_toml_with_dots() -> None:
    values = parse_settings(
        ["batch_size=32", "augmentation.stain=0.1", "augmentation.flip=false", "keep=last"]
    )
    assert values == {
        "batch_size": 32,
        "augmentation": {"stain": 0.1, "flip": False},
        "keep": "last",
    }
    recipe = change_recipe(RECIPES["pcam"], values)
    assert (recipe.batch_size, recipe.keep) == (32, "last")
    assert (recipe.augmentation.stain, recipe.augmentation.max_rotate) == (0.1, 45)


@pytest.mark.parametrize("setting", ["batch_size", "=3", "batch size=3", "a=", 'a="b'])
def test_a_setting_that_is_none_is_refused(setting: str) -> None:
    with pytest.raises(DataError, match="is not KEY=VALUE"):
        parse_settings([setting])


def test_a_recipe_says_how_to_divide(tmp_path: Path) -> None:
    assert RECIPES["colorectal"].division(seed=7) == Split(kind="auto", fraction=0.2, seed=7)
    path = tmp_path / "split.csv"
    path.write_text("name,part\n")
    recipe = dataclasses.replace(QUICK, split=str(path))
    assert recipe.division() == Split(kind="file", file=path)


def test_scaled_rates_keep_their_proportions() -> None:
    recipe = scale_rates(RECIPES["pcam"], 6e-3)
    assert recipe.stages[0].rates == pytest.approx((6e-4, 6e-4, 6e-3))
    assert np.array(recipe.stages[1].lr) == pytest.approx((2e-6, 2e-5))
