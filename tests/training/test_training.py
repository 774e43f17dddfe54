"""A small run learns what the centre tells, and its bundle predicts what its learner does."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import add_tiny
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.optimizer import Adam, OptimWrapper
from fastai.torch_core import TensorCategory, norm_bias_params
from fastai.vision.learner import vision_learner
from patches import DATA, QUICK, SIDE_PX, Memory, centre_patches
from torch import Tensor, nn
from torchvision.models import resnet18

from histoslide.datasets import ImageFiles
from histoslide.errors import BundleError, DataError, OutputExistsError
from histoslide.evaluation.patches.figures import fit_temperature
from histoslide.model import ModelSpec, load_model, pick_device, read_spec
from histoslide.model.architectures import BODY_SPLIT, ConcatPool, build_network
from histoslide.model.graphs import TileGraph
from histoslide.model.spec import TOTAL_STRIDE_PX
from histoslide.training.averaging import WeightAveraging
from histoslide.training.checkpoint import (
    FILE_NAME,
    load_checkpoint,
    run_settings,
    seed_epoch,
)
from histoslide.training.fit import LOG_NAME, TrainedModel, train, tumour_class
from histoslide.training.learner import (
    DevicePrecision,
    PlainBatches,
    class_weights,
    fit_stage,
    loss_function,
    make_learner,
    parameter_groups,
)
from histoslide.training.loaders import make_loaders, reseed
from histoslide.training.memory import fitting_batch_size, saved_bytes
from histoslide.training.mosaic import cut, lay
from histoslide.training.optimiser import optimiser
from histoslide.training.rates import find_rate
from histoslide.training.recipe import RECIPES, Augmentation, Recipe, Stage
from histoslide.training.records import EpochRecord

CPU = torch.device("cpu")

OF_OPTIMISER = ("weight_decay", "decay_norms", "epsilon", "batch_size")
"""Fields of a recipe that its optimiser and batches follow."""

pytestmark = pytest.mark.usefixtures("tiny")


@dataclass(frozen=True)
class Run:
    """A finished run and what it left behind."""

    trained: TrainedModel
    seen: list[EpochRecord]
    folder: Path
    bundle: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    bundle = folder / "m.safetensors"
    seen: list[EpochRecord] = []
    recipe = dataclasses.replace(
        QUICK,
        stages=(Stage(epochs=4, lr=2e-2, crop_px=32), Stage(epochs=5, lr=1e-2)),
        augmentation=Augmentation(flip=True, flip_vert=True, max_zoom=1.05, jpeg=0.3),
        ema_decay=0.5,
    )
    with pytest.MonkeyPatch.context() as patch:
        add_tiny(patch)
        trained = train(
            DATA, recipe, name="centre", device=CPU, folder=folder / "run", licence="CC0",
            on_epoch=seen.append,
        )  # fmt: skip
    trained.save(bundle)
    return Run(trained, seen, folder / "run", bundle)


def test_a_small_run_learns_from_the_centre(run: Run) -> None:
    assert run.trained.figures.accuracy > 0.9
    assert run.trained.figures.auc > 0.95
    assert run.trained.epochs[-1].accuracy > 0.9
    assert run.trained.epochs[-1].train_loss < run.trained.epochs[0].train_loss


def test_the_log_has_one_json_object_an_epoch(run: Run) -> None:
    lines = (run.folder / LOG_NAME).read_text().splitlines()
    records = [EpochRecord(**json.loads(line)) for line in lines]
    assert tuple(records) == run.trained.epochs == tuple(run.seen)
    assert [record.epoch for record in records] == list(range(1, 10))
    assert [record.stage for record in records] == [1] * 4 + [2] * 5
    assert all(record.seconds > 0 for record in records)


def valid_tiles() -> Tensor:
    tiles = torch.from_numpy(np.stack([DATA.valid.read(i) for i in range(len(DATA.valid))]))
    return tiles.permute(0, 3, 1, 2)


def learner_logits(learner: Learner) -> Tensor:
    """What the network says of the validation batches that fastai makes."""
    learner.model.eval()
    with torch.no_grad():
        return torch.cat(
            [learner.model(images.as_subclass(Tensor)) for images, _ in learner.dls.valid]
        )


def test_the_bundle_predicts_what_the_learner_does(run: Run) -> None:
    expected = learner_logits(run.trained.learner)
    model = load_model(run.bundle, device="cpu")
    logits = model.logits(valid_tiles())
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(run.trained.predictions.logits, expected, rtol=1e-3, atol=1e-3)
    guess = model.probabilities(valid_tiles()).argmax(axis=1)
    assert float((guess == DATA.valid.labels).mean()) == run.trained.figures.accuracy


def test_the_spec_tells_how_the_model_was_made(run: Run) -> None:
    spec = read_spec(run.bundle)
    assert spec.to_json() == run.trained.spec.to_json()
    assert (spec.name, spec.licence, spec.tumour_class) == ("centre", "CC0", "tumour")
    assert (spec.input_px, spec.network_px, spec.label_px) == (SIDE_PX, SIDE_PX, 32)
    told = run.trained.predictions
    assert spec.temperature == fit_temperature(
        torch.from_numpy(told.logits), torch.from_numpy(told.known_labels)
    )
    training = spec.training
    assert training["data"] == {
        "layout": "folders",
        "split": None,
        "train_patches": 64,
        "valid_patches": 24,
        "train_classes": {"normal": 32, "tumour": 32},
        "valid_classes": {"normal": 12, "tumour": 12},
        "left_out": {},
        "shown_an_epoch": 64,
        "unlabelled_patches": 0,
        "mined": [],
    }
    assert training["recipe"]["stages"][0]["crop_px"] == 32
    assert training["seed"] == 42
    assert len(training["epochs"]) == 9
    assert training["validation"]["accuracy"] == run.trained.figures.accuracy
    assert (
        training["validation"]["loss"] <= training["validation_before_calibration"]["loss"] + 1e-6
    )
    assert set(training["versions"]) == {"torch", "torchvision", "fastai", "timm"}
    assert "/" not in json.dumps(training["data"])


def test_a_saved_model_is_not_overwritten(run: Run) -> None:
    with pytest.raises(Exception, match="--overwrite"):
        run.trained.save(run.bundle)


def test_a_seed_repeats_a_run_and_another_does_not() -> None:
    change = Augmentation(flip=True, max_rotate=20, stain=0.1, jpeg=0.5)
    recipe = dataclasses.replace(QUICK, augmentation=change)
    runs = [train(DATA, recipe, name="x", device=CPU, seed=seed) for seed in (3, 3, 4)]
    losses = [[(e.train_loss, e.valid_loss) for e in run.epochs] for run in runs]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_run_may_start_from_given_weights() -> None:
    torch.manual_seed(0)
    initial = build_network("tiny", 2).state_dict()
    start = {name: value.clone() for name, value in initial.items()}
    recipe = dataclasses.replace(QUICK, imagenet=True, stages=(Stage(epochs=1, lr=1e-9),))
    trained = train(DATA, recipe, name="x", device=CPU, initial=initial)
    weight = trained.learner.model.state_dict()["0.0.weight"]
    torch.testing.assert_close(weight, start["0.0.weight"], rtol=1e-4, atol=1e-6)


def test_a_run_does_not_go_on_from_other_given_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = [build_network("tiny", 2).state_dict() for _ in range(2)]
    recipe = dataclasses.replace(QUICK, stages=(Stage(epochs=1, lr=1e-3),))
    train(DATA, recipe, name="x", device=CPU, seed=7, initial=given[0], folder=tmp_path)
    first, other, none = (
        run_settings(DATA, recipe, seed=7, initial=initial) for initial in (*given, None)
    )
    load_checkpoint(tmp_path / FILE_NAME, first)
    with pytest.raises(OutputExistsError, match="given weights sha256 differs"):
        load_checkpoint(tmp_path / FILE_NAME, other)
    with pytest.raises(OutputExistsError, match="starts from given weights was True, is False"):
        load_checkpoint(tmp_path / FILE_NAME, none)


def test_a_patch_of_another_size_is_named() -> None:
    recipe = dataclasses.replace(QUICK, input_px=48)
    with pytest.raises(
        DataError, match=r"^patch patch-\d+ is 40×40 px, the recipe expects 48×48: "
    ):
        train(DATA, recipe, name="x", device=CPU)


def test_a_patch_that_cannot_be_read_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(b"no image")
    bad = ImageFiles((path,) * 20, np.arange(20) % 2, given_names=tuple(map(str, range(20))))
    data = dataclasses.replace(DATA, train=bad)
    for workers in (0, 1):
        with pytest.raises(DataError) as caught:
            train(data, QUICK, workers=workers)
        assert str(caught.value).startswith(f"{path} cannot be read as an image")
        assert str(caught.value).endswith(": pass --skip-bad to leave such patches out")
        assert "\n" not in str(caught.value)


def test_a_resnet_trains_and_its_bundle_predicts_the_same(tmp_path: Path) -> None:
    data = dataclasses.replace(DATA, train=centre_patches(8, seed=2))
    recipe = dataclasses.replace(QUICK, architecture="resnet18", batch_size=8)
    trained = train(data, recipe, name="x", device=CPU)
    trained.save(tmp_path / "m.safetensors")
    logits = load_model(tmp_path / "m.safetensors", device="cpu").logits(valid_tiles())
    np.testing.assert_allclose(logits, learner_logits(trained.learner), rtol=1e-3, atol=1e-3)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_epoch_before(tmp_path: Path) -> None:
    class Poison(Callback):  # type: ignore[misc]
        order = 60

        def after_pred(self) -> None:
            if self.training and self.learn.epoch == 1:
                self.learn.pred = self.learn.pred * float("nan")

    recipe = dataclasses.replace(QUICK, stages=(Stage(epochs=3, lr=1e-3),))
    said = r"^the loss became nan in epoch 2: lower the learning rate with --lr; .* kept$"
    with pytest.raises(DataError, match=said):
        train(DATA, recipe, name="x", device=CPU, folder=tmp_path, callbacks=[Poison()])
    kept = torch.load(tmp_path / FILE_NAME, weights_only=True)
    assert len(kept["records"]) == 1
    assert all(torch.isfinite(v).all() for v in kept["network"].values())
    assert len((tmp_path / LOG_NAME).read_text().splitlines()) == 1


def test_the_best_epoch_is_kept_or_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is so high at the end that the last epoch undoes what the first learned."""
    losses: list[float] = []
    stages = (Stage(epochs=3, lr=0.3, pct_start=0.9, div=1e3),)
    recipe = dataclasses.replace(QUICK, stages=stages, monitor="valid_loss")
    for keep in ("best", "last"):
        trained = train(DATA, dataclasses.replace(recipe, keep=keep), name="x", device=CPU)
        records = [record.valid_loss for record in trained.epochs]
        assert min(records) < records[-1]
        losses.append(float(trained.spec.training["validation_before_calibration"]["loss"]))
        assert losses[-1] == pytest.approx(
            min(records) if keep == "best" else records[-1], rel=0.01
        )
    assert losses[0] < losses[1]


def test_weights_of_another_number_of_classes_start_a_run() -> None:
    torch.manual_seed(0)
    initial = build_network("tiny", 5).state_dict()
    recipe = dataclasses.replace(QUICK, stages=(Stage(epochs=1, lr=1e-9),))
    trained = train(DATA, recipe, name="x", device=CPU, initial=initial)
    state = trained.learner.model.state_dict()
    torch.testing.assert_close(state["0.0.weight"], initial["0.0.weight"], rtol=1e-4, atol=1e-6)
    assert len(state["1.8.weight"]) == 2


def test_weights_of_another_architecture_are_refused() -> None:
    with pytest.raises(BundleError, match=r"^the weights to start from are not those of tiny$"):
        train(DATA, QUICK, name="x", device=CPU, initial=build_network("resnet18", 2).state_dict())


# --- freezing -------------------------------------------------------------------------------------


def parts_that_moved(recipe: Recipe) -> tuple[set[str], set[str]]:
    """Blocks of the network of which a parameter, or a batch norm statistic, changed."""
    torch.manual_seed(0)
    initial = build_network("tiny", 2).state_dict()
    start = {name: value.clone() for name, value in initial.items()}
    trained = train(DATA, recipe, name="x", device=CPU, initial=initial)
    network = trained.learner.model
    names = {name for name, _ in network.named_parameters()}
    state = network.state_dict()
    moved = {name for name in state if not torch.equal(state[name], start[name])}
    blocks = [{".".join(n.split(".")[:2]) for n in part} for part in (moved & names, moved - names)]
    return blocks[0], blocks[1]


BODY_START = {"0.0", "0.1", "0.4", "0.5"}


def test_all_groups_learn_by_default() -> None:
    parameters, statistics = parts_that_moved(QUICK)
    assert parameters >= BODY_START | {"0.6", "0.7", "1.4", "1.8"}
    assert statistics >= {"0.1", "0.4", "0.5", "0.6", "0.7", "1.2", "1.6"}


@pytest.mark.parametrize(("groups", "frozen"), [(1, BODY_START | {"0.6", "0.7"}), (2, BODY_START)])
def test_frozen_groups_do_not_learn(groups: int, frozen: set[str]) -> None:
    stage = Stage(epochs=1, lr=1e-2, trainable_groups=groups, train_frozen_norms=False)
    parameters, _ = parts_that_moved(dataclasses.replace(QUICK, stages=(stage,)))
    assert not parameters & frozen
    assert parameters >= {"1.2", "1.4", "1.6", "1.8"}
    assert ("0.7" in parameters) == (groups == 2)


def test_a_later_stage_thaws_what_an_earlier_one_froze() -> None:
    stages = (Stage(epochs=1, lr=1e-3, trainable_groups=1), Stage(epochs=1, lr=1e-3))
    parameters, _ = parts_that_moved(dataclasses.replace(QUICK, stages=stages))
    assert parameters >= BODY_START


# --- averaging ------------------------------------------------------------------------------------


class Spy(Callback):  # type: ignore[misc]
    """Call a function with the weights after each step and before each validation."""

    order = 75  # after the averaging

    def __init__(self, note: Callable[[str, dict[str, Tensor]], None]) -> None:
        self._note = note

    def _say(self, event: str) -> None:
        state = self.learn.model.state_dict()
        self._note(event, {name: value.clone().double() for name, value in state.items()})

    def after_step(self) -> None:
        self._say("step")

    def before_validate(self) -> None:
        self._say("validate")

    def before_train(self) -> None:
        self._say("train")


def test_averaging_equals_the_formula() -> None:
    decay = 0.8
    torch.manual_seed(0)
    items = [(torch.randn(4), torch.tensor(i % 2)) for i in range(24)]
    loaders = DataLoaders(
        *(DataLoader(items, bs=6, shuffle=s, num_workers=0) for s in (True, False)), device=CPU
    )
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    events: list[tuple[str, dict[str, Tensor]]] = []
    learner = Learner(
        loaders,
        network,
        loss_func=nn.CrossEntropyLoss(),
        opt_func=lambda groups, **kw: OptimWrapper(groups, opt=torch.optim.AdamW, **kw),
        cbs=[WeightAveraging(decay), Spy(lambda event, state: events.append((event, state)))],
    )
    with learner.no_bar(), learner.no_logging():
        learner.fit(3, 0.05)
    names = [name for name, value in network.state_dict().items() if value.is_floating_point()]
    average: dict[str, Tensor] = {}
    live: dict[str, Tensor] = {}
    for event, state in events:
        if event == "step":
            for name in names:  # the first step starts the average
                old = average.get(name, state[name])
                average[name] = decay * old + (1 - decay) * state[name]
            live = state
        elif event == "validate":
            for name in names:
                torch.testing.assert_close(state[name], average[name], rtol=1e-5, atol=1e-6)
        elif live:  # a new epoch goes on from the live weights
            assert all(torch.equal(state[name], live[name]) for name in names)
    assert [event for event, _ in events].count("step") == 12
    assert [event for event, _ in events].count("validate") == 3
    final = network.state_dict()
    for name in names:
        torch.testing.assert_close(final[name].double(), average[name], rtol=1e-5, atol=1e-6)
    assert any((final[name].double() - live[name]).abs().max() > 1e-3 for name in names)


# --- loaders --------------------------------------------------------------------------------------


def test_loaders_pair_every_patch_with_its_label() -> None:
    count = 20
    pixels = np.zeros((count, SIDE_PX, SIDE_PX, 3), np.uint8)
    pixels[:] = np.arange(count, dtype=np.uint8)[:, None, None, None] * 12
    numbered = Memory(pixels, (np.arange(count) % 2).astype(np.int64))
    data = dataclasses.replace(DATA, train=numbered, valid=numbered)
    recipe = dataclasses.replace(QUICK, batch_size=6, mean=(0, 0, 0), std=(1, 1, 1))
    loaders = make_loaders(data, recipe, recipe.stages[0], device=CPU)
    for loader, expected in ((loaders.train, 18), (loaders.valid, 20)):
        numbers: list[int] = []
        for images, labels in loader:
            assert images.shape[1:] == (3, SIDE_PX, SIDE_PX)
            batch = (images[:, 0, 0, 0] * 255 / 12).round().int()
            assert (batch % 2).tolist() == labels.tolist()
            numbers += batch.tolist()
        assert len(set(numbers)) == len(numbers) == expected
    assert numbers == list(range(count))


@pytest.mark.parametrize("name", RECIPES)
def test_validation_patches_are_prepared_as_the_model_does(name: str) -> None:
    """Epochs are judged, and the best one is chosen, by what the bundle will see."""
    recipe = RECIPES[name]
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (4, recipe.input_px, recipe.input_px, 3), dtype=np.uint8)
    patches = Memory(pixels, np.arange(4) % 2)
    data = dataclasses.replace(DATA, train=patches, valid=patches)
    images, _ = make_loaders(data, recipe, device=CPU).valid.one_batch()
    spec = ModelSpec(
        name=name,
        architecture=recipe.architecture,
        classes=data.classes,
        tumour_class="tumour",
        input_px=recipe.input_px,
        label_px=recipe.label_px,
        network_px=recipe.side_px(recipe.stages[-1]),
        mean=recipe.normalisation[0],
        std=recipe.normalisation[1],
        mpp=0.972,
    )
    expected = TileGraph(spec, nn.Identity()).prepare(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    torch.testing.assert_close(images.as_subclass(Tensor), expected, rtol=0, atol=1e-5)


def test_fewer_patches_than_a_batch_are_still_trained_on() -> None:
    small = dataclasses.replace(DATA, train=centre_patches(6, seed=2))
    loaders = make_loaders(small, QUICK, QUICK.stages[0], device=CPU)
    assert [len(labels) for _, labels in loaders.train] == [6]


def test_a_notebook_needs_say_no_more_than_data_and_recipe() -> None:
    assert str(make_loaders(DATA, QUICK).device) == pick_device()
    crops = Stage(epochs=1, crop_px=32)
    staged = dataclasses.replace(QUICK, stages=(crops, *QUICK.stages), batch_size=8)
    for stage, side_px in ((None, SIDE_PX), (crops, 32)):
        images, _ = make_loaders(DATA, staged, stage).one_batch()
        assert images.shape == (8, 3, side_px, side_px)
    trained = train(DATA, QUICK)
    assert trained.spec.name == "quick"
    assert str(trained.learner.dls.device) == pick_device()


def test_who_goes_on_by_hand_gets_other_batches() -> None:
    """What seeds the epochs of a run, and keeps its books, does not stay with its Learner."""
    recipe = dataclasses.replace(QUICK, ema_decay=0.5)
    seen: list[tuple[float, ...]] = []

    class Batches(Callback):  # type: ignore[misc]
        def after_batch(self) -> None:
            if self.training:
                seen.append(tuple(self.xb[0].flatten(1).sum(dim=1).tolist()))

    trained = train(DATA, recipe, callbacks=[Batches()])
    ours = [type(cb) for cb in trained.learner.cbs if "histoslide" in type(cb).__module__]
    assert ours == [PlainBatches]
    trained.learner.add_cb(Batches())
    with trained.learner.no_bar(), trained.learner.no_logging():
        trained.learner.fit(1, 1e-4)
    assert len(set(seen)) == len(seen) == 8


def test_no_folder_of_a_split_file_is_recorded(tmp_path: Path) -> None:
    recipe = dataclasses.replace(QUICK, split=str(tmp_path / "split.csv"))
    facts = train(DATA, recipe).spec.training
    assert facts["recipe"]["split"] == "split.csv"
    assert str(tmp_path) not in json.dumps(facts)


def test_a_learner_measures_accuracy_and_auc() -> None:
    learner = make_learner(DATA, QUICK, QUICK.stages[0], build_network("tiny", 2), device=CPU)
    assert [metric.name for metric in learner.metrics] == ["accuracy", "roc_auc_score"]


# --- what fastai would build ----------------------------------------------------------------------


def resnet_learners(recipe: Recipe, stage: Stage) -> tuple[Learner, Learner]:
    """Ours, and what ``vision_learner`` makes of the same data for a notebook."""
    network = build_network("resnet18", 2)
    ours = make_learner(DATA, recipe, stage, network, device=CPU)
    theirs = vision_learner(ours.dls, resnet18, pretrained=False, normalize=False)
    return ours, theirs


@pytest.mark.parametrize("frozen", [True, False])
def test_groups_and_freezing_are_those_of_a_notebook(frozen: bool) -> None:
    stage = Stage(epochs=1, trainable_groups=1 if frozen else None)
    ours, theirs = resnet_learners(QUICK, stage)
    theirs.freeze() if frozen else theirs.unfreeze()
    own, other = ours.opt.param_lists, theirs.opt.param_lists
    assert len(own) == len(other) == 3
    for mine, his in zip(own, other, strict=True):
        assert [p.shape for p in mine] == [p.shape for p in his]
        assert [p.requires_grad for p in mine] == [p.requires_grad for p in his]


@pytest.mark.parametrize("name", ["colorectal", "fine-tune"])
def test_constants_of_the_optimiser_are_those_of_fastai(name: str) -> None:
    recipe = dataclasses.replace(QUICK, **{k: getattr(RECIPES[name], k) for k in OF_OPTIMISER})
    ours, theirs = resnet_learners(recipe, recipe.stages[0])
    theirs.create_opt()
    for mine, his in zip(ours.opt.hypers, theirs.opt.hypers, strict=True):
        for key in ("mom", "sqr_mom", "eps"):
            assert mine[key] == his[key]
        assert his["wd"] == recipe.weight_decay == ours.wd
    assert theirs.wd_bn_bias == recipe.decay_norms
    assert ours.dls.bs == 64 == recipe.batch_size


def test_the_optimiser_of_the_pcam_recipe_is_that_of_fastai_1() -> None:
    """Values of ``Learner``, ``AdamW`` and ``OptimWrapper.step`` in fastai 1.0.61."""
    recipe = RECIPES["pcam"]
    opt = optimiser(recipe)([[nn.Parameter(torch.ones(3))]], lr=0.1)
    assert opt.hypers[0]["eps"] == torch.optim.Adam([torch.ones(1)]).defaults["eps"] == 1e-8
    assert (opt.hypers[0]["mom"], opt.hypers[0]["sqr_mom"]) == (0.9, 0.99)
    assert (recipe.weight_decay, recipe.decay_norms, recipe.batch_size) == (1e-2, True, 64)


@pytest.mark.parametrize("shape", [(7,), (7, 1)])
@pytest.mark.parametrize("decay_norms", [True, False])
def test_a_step_is_that_of_fastais_adam(decay_norms: bool, shape: tuple[int, ...]) -> None:
    recipe = dataclasses.replace(QUICK, decay_norms=decay_norms)
    weights = [nn.Parameter(torch.linspace(-1, 1, 7).view(shape)) for _ in range(2)]
    ours = optimiser(recipe)([[weights[0]]], lr=0.1)
    theirs = Adam([[weights[1]]], lr=0.1, mom=0.9, wd=0.5)
    theirs.state[weights[1]]["do_wd"] = decay_norms or len(shape) > 1  # as its Learner sets it
    ours.set_hypers(wd=0.5)
    for step in range(5):
        for weight, opt in zip(weights, (ours, theirs), strict=True):
            weight.grad = torch.cos(weight.detach() * (step + 1))
            opt.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)
    assert [len(group) for group in ours.param_lists] == [1]


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_what_has_one_dimension_is_what_fastai_does_not_decay(architecture: str) -> None:
    network = build_network(architecture, 2)
    spared = {id(p) for p in norm_bias_params(network)}
    assert spared == {id(p) for p in network.parameters() if p.ndim <= 1}


def test_two_stages_end_with_the_weights_of_a_notebook() -> None:
    """The calls of the second notebook, on fastai's own Learner and on ours: equal weights.

    The weight decay is a hundred times the notebook's, so that a few steps show it.
    """
    data = dataclasses.replace(DATA, train=centre_patches(32, seed=2))
    stages = (
        Stage(epochs=1, lr=1e-3, trainable_groups=1),
        Stage(epochs=2, lr=(1e-5, 1e-3)),
    )
    recipe = dataclasses.replace(
        RECIPES["colorectal"],
        architecture="resnet18", stages=stages, weight_decay=1.0, batch_size=16,
        precision="fp32", input_px=SIDE_PX, label_px=SIDE_PX, presize_px=64, network_px=32,
    )  # fmt: skip
    torch.manual_seed(0)
    network = build_network("resnet18", 2)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    for stage in stages:
        ours = make_learner(data, recipe, stage, network, device=CPU)
        if stage is stages[0]:
            theirs = vision_learner(ours.dls, resnet18, pretrained=False, normalize=False, wd=1.0)
            theirs.model.load_state_dict(start)
            theirs.freeze()
        else:
            theirs.unfreeze()
        reseed(ours.dls, seed_epoch(1, 0))
        fit_stage(ours, stage)
        reseed(theirs.dls, seed_epoch(1, 0))
        lr = slice(*stage.lr) if isinstance(stage.lr, tuple) else stage.lr
        with theirs.no_bar(), theirs.no_logging():
            theirs.fit_one_cycle(stage.epochs, lr)
    for (name, mine), his in zip(
        network.state_dict().items(), theirs.model.state_dict().values(), strict=True
    ):
        moved = (his - start[name]).double().norm()
        assert moved > 0, name
        # Adam makes a step of what is left of a gradient of zero, so rounding shows here and
        # there; batch norms that decay where they should not are 20 times off.
        assert (mine - his).double().norm() < 0.1 * moved, name


@pytest.mark.parametrize("lr", [1e-3, (1e-5, 1e-3)])
def test_the_schedule_is_that_of_fit_one_cycle(lr: float | tuple[float, float]) -> None:
    stage = Stage(epochs=2, lr=lr, pct_start=0.3)
    learners = [
        make_learner(DATA, QUICK, stage, build_network("tiny", 2), device=CPU) for _ in range(2)
    ]
    seen: list[list[list[tuple[float, float]]]] = [[], []]

    class Rates(Callback):  # type: ignore[misc]
        order = 62

        def __init__(self, rows: list[list[tuple[float, float]]]) -> None:
            self.rows = rows

        def before_batch(self) -> None:
            if self.training:
                self.rows.append([(float(h["lr"]), float(h["mom"])) for h in self.learn.opt.hypers])

    for learner, rows in zip(learners, seen, strict=True):
        learner.add_cb(Rates(rows))
    fit_stage(learners[0], stage)
    theirs = slice(*lr) if isinstance(lr, tuple) else lr
    with learners[1].no_bar(), learners[1].no_logging():
        learners[1].fit_one_cycle(2, theirs, pct_start=0.3)
    assert len(seen[0]) == 8
    assert np.array(seen[0]) == pytest.approx(np.array(seen[1]), rel=1e-9)


@pytest.mark.parametrize(
    ("stage", "highest"),
    [(0, (3e-4, 3e-4, 3e-3)), (1, (1e-6, 10**-5.5, 1e-5))],  # lr_range of slice(3e-3), …
)
def test_the_schedule_of_the_pcam_recipe_is_that_of_fastai_1(
    stage: int, highest: tuple[float, ...]
) -> None:
    """The formulas of ``OneCycleScheduler`` in fastai 1.0.61, with its defaults."""
    seen: list[list[tuple[float, float]]] = []

    class Rates(Callback):  # type: ignore[misc]
        order = 62

        def before_batch(self) -> None:
            if self.training:
                seen.append([(float(h["lr"]), float(h["mom"])) for h in self.learn.opt.hypers])

    asked = dataclasses.replace(RECIPES["pcam"].stages[stage], epochs=5)
    learner = make_learner(DATA, QUICK, asked, build_network("tiny", 2), device=CPU)
    learner.add_cb(Rates())
    fit_stage(learner, asked)
    count = 20
    assert len(seen) == count
    rising = int(count * 0.3)

    def cosine(start: float, end: float, part: float) -> float:
        return end + (start - end) / 2 * (np.cos(np.pi * part) + 1)

    for step, groups in enumerate(seen):
        for (rate, momentum), top in zip(groups, highest, strict=True):
            if step < rising:
                part = step / rising
                expected = cosine(top / 25, top, part), cosine(0.95, 0.85, part)
            else:
                part = (step - rising) / (count - rising)
                expected = cosine(top, top / (25 * 1e4), part), cosine(0.85, 0.95, part)
            assert (rate, momentum) == pytest.approx(expected, rel=1e-6)


def test_groups_follow_the_layers_of_the_body() -> None:
    network = build_network("tiny", 2)
    groups = parameter_groups(network)
    assert sum(len(group) for group in groups) == len(list(network.parameters()))


# --- settings that change the fit -----------------------------------------------------------------


def test_mixup_mixes_and_label_smoothing_smooths() -> None:
    recipe = dataclasses.replace(QUICK, mixup=0.4, label_smoothing=0.1)
    learner = make_learner(DATA, recipe, recipe.stages[0], build_network("tiny", 2), device=CPU)
    mixup = next(cb for cb in learner.cbs if isinstance(cb, MixUp))
    assert float(mixup.distrib.concentration0) == pytest.approx(0.4)
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([0])
    smooth = -(
        0.95 * torch.log_softmax(logits, 1)[0, 0] + 0.05 * torch.log_softmax(logits, 1)[0, 1]
    )
    assert float(learner.loss_func(logits, labels)) == pytest.approx(float(smooth))
    trained = train(DATA, recipe, name="x", device=CPU)
    assert np.isfinite(trained.history.loss).all()


@pytest.mark.parametrize(("count", "rows", "cols"), [(12, 3, 4), (7, 1, 7), (64, 8, 8)])
def test_a_mosaic_holds_every_image_once_and_is_cut_where_it_was_laid(
    count: int, rows: int, cols: int
) -> None:
    images = torch.rand(count, 3, 4, 6)
    mosaic = lay(images)
    assert mosaic.shape == (1, 3, rows * 4, cols * 6)
    place = cols + 1 if rows > 1 else 3  # the second of the second row; the fourth of one row
    top, left = place // cols * 4, place % cols * 6
    assert torch.equal(mosaic[0, :, top : top + 4, left : left + 6], images[place])
    assert torch.equal(cut(mosaic, count), images)
    assert torch.equal(cut(mosaic[:, :, ::2, ::2], count), images[:, :, ::2, ::2])


@pytest.mark.parametrize(("radius", "surroundings_matter"), [(0, False), (1, True)])
def test_in_a_mosaic_a_patch_has_the_others_of_its_batch_around_it(
    radius: int, surroundings_matter: bool
) -> None:
    look = nn.Conv2d(3, 4, 2 * radius + 1, padding=radius)
    fill = [nn.Identity() for _ in range(BODY_SPLIT - 1)]
    body = nn.Sequential(look, *fill, nn.AvgPool2d(TOTAL_STRIDE_PX), nn.Conv2d(4, 4, 1))
    network = nn.Sequential(body, nn.Sequential(ConcatPool(), nn.Flatten(), nn.Linear(8, 2)))
    recipe = dataclasses.replace(QUICK, network_px=2 * TOTAL_STRIDE_PX)
    losses: dict[float, list[float]] = {}
    valid: set[float] = set()
    for part in (0.0, 1.0):
        stage = Stage(epochs=1, lr=1e-30, mosaic=part)  # nothing is learnt, so that losses compare
        learner = make_learner(DATA, recipe, stage, network, device=CPU)
        reseed(learner.dls, seed_epoch(1, 0))
        fit_stage(learner, stage)
        losses[part] = [float(loss) for loss in learner.recorder.losses]
        valid.add(float(learner.recorder.values[-1][1]))
        assert not body._forward_hooks
        assert not body._forward_pre_hooks
    assert len(valid) == 1
    assert (losses[0.0] != pytest.approx(losses[1.0], rel=1e-6)) == surroundings_matter


@pytest.mark.parametrize("part", [-0.1, 1.1])
def test_no_more_batches_than_all_are_mosaics(part: float) -> None:
    with pytest.raises(DataError, match="stage's mosaic must be in 0-1"):
        Stage(epochs=1, mosaic=part)


def test_a_mosaic_that_could_not_be_cut_again_is_refused() -> None:
    stage = Stage(epochs=1, mosaic=0.5)
    with pytest.raises(DataError, match=r"mosaic of 40 px .* multiple of 32 px"):
        dataclasses.replace(QUICK, stages=(stage,))
    assert dataclasses.replace(QUICK, stages=(stage,), network_px=96).stages == (stage,)


def test_balanced_weights_make_classes_count_alike() -> None:
    labels = np.array([0] * 30 + [1] * 10)
    pixels = np.zeros((40, SIDE_PX, SIDE_PX, 3), np.uint8)
    data = dataclasses.replace(DATA, train=Memory(pixels, labels))
    balanced = dataclasses.replace(QUICK, class_weights="balanced")
    weights = class_weights(data, balanced)
    assert weights is not None
    assert weights == pytest.approx([40 / 2 / 30, 40 / 2 / 10])
    assert sum(w * n for w, n in zip(weights, (30, 10), strict=True)) == pytest.approx(40)
    given = dataclasses.replace(QUICK, class_weights=(1.0, 3.0))
    assert class_weights(data, given) == [1.0, 3.0]
    assert class_weights(data, QUICK) is None
    loss = loss_function(data, balanced, CPU)
    expected = (np.log(2) * weights[0] + 2 * np.log(2) * weights[1]) / (weights[0] + 2 * weights[1])
    assert float(loss(torch.zeros(3, 2), torch.tensor([0, 1, 1]))) == pytest.approx(expected)
    assert np.isfinite(train(data, balanced, name="x", device=CPU).history.loss).all()
    learner = make_learner(data, given, given.stages[0], build_network("tiny", 2), device=CPU)
    logits, targets = torch.zeros(2, 2), torch.tensor([0, 1])
    each = learner.loss_func.func.weight
    assert each.tolist() == [1.0, 3.0]
    assert float(learner.loss_func(logits, targets)) == pytest.approx(np.log(2))
    with pytest.raises(DataError, match="3 numbers for the 2 classes normal, tumour"):
        class_weights(data, dataclasses.replace(QUICK, class_weights=(1.0, 2.0, 3.0)))


def test_a_class_that_training_lacks_weighs_nothing() -> None:
    """With a large weight, label smoothing would pull every patch towards it."""
    pixels = np.zeros((40, SIDE_PX, SIDE_PX, 3), np.uint8)
    labels = np.array([0] * 30 + [2] * 10)
    data = dataclasses.replace(
        DATA, classes=("a", "b", "c"), train=Memory(pixels, labels), valid=Memory(pixels, labels)
    )
    recipe = dataclasses.replace(QUICK, class_weights="balanced", label_smoothing=0.3)
    weights = class_weights(data, recipe)
    assert weights == pytest.approx([40 / 2 / 30, 0, 40 / 2 / 10])
    loss = loss_function(data, recipe, CPU)
    logits = torch.zeros(3, 3, requires_grad=True)
    loss(logits, torch.tensor([0, 2, 0])).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] > 0).all()  # going down takes probability from it
    # A validation batch of nothing else: its mean over no weight at all would be no number.
    assert float(loss(logits.detach(), TensorCategory([1, 1, 1]))) == 0


def test_bfloat16_trains_on_the_cpu() -> None:
    recipe = dataclasses.replace(QUICK, precision="bf16")
    seen: list[torch.dtype] = []

    class Types(Callback):  # type: ignore[misc]
        order = 5  # before mixed precision turns the logits back

        def after_pred(self) -> None:
            seen.append(self.learn.pred.dtype)

    trained = train(DATA, recipe, name="x", device=CPU, callbacks=[Types()])
    assert set(seen) == {torch.bfloat16}
    assert np.isfinite(trained.history.loss).all()


def test_half_precision_says_what_it_needs() -> None:
    recipe = dataclasses.replace(QUICK, precision="fp16")
    with pytest.raises(DataError, match="fp16 trains on CUDA only, not on cpu: pass --precision"):
        train(DATA, recipe, name="x", device=CPU)
    mixed = dataclasses.replace(QUICK, precision="mixed")
    learner = make_learner(DATA, mixed, mixed.stages[0], build_network("tiny", 2), device=CPU)
    assert not any(isinstance(cb, DevicePrecision) for cb in learner.cbs)


def test_a_batch_that_does_not_fit_is_summed_from_halves() -> None:
    network = build_network("tiny", 2)
    each = saved_bytes(network, SIDE_PX)
    half = saved_bytes(network, SIDE_PX // 2)
    assert 2 < each / half < 4.5  # activations grow with the area, what the head keeps does not
    assert fitting_batch_size(network, 64, SIDE_PX, free_bytes=10**12) == 64
    tight = int(20 * each * 1.6 / 0.8)
    assert fitting_batch_size(network, 64, SIDE_PX, free_bytes=tight) in {8, 16}
    assert fitting_batch_size(network, 64, SIDE_PX, free_bytes=0) == 2


def test_measuring_memory_leaves_the_network_alone() -> None:
    network = build_network("tiny", 2).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    saved_bytes(network, SIDE_PX)
    assert not network.training
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_summed_gradients_step_once_a_batch() -> None:
    steps: list[int] = []

    class Steps(Callback):  # type: ignore[misc]
        def after_step(self) -> None:
            steps.append(self.learn.iter)

    stage = QUICK.stages[0]
    learner = make_learner(DATA, QUICK, stage, build_network("tiny", 2), device=CPU, batch_size=4)
    learner.add_cb(Steps())
    fit_stage(learner, stage)
    assert steps == [3, 7, 11, 15]


@pytest.fixture
def tens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for ten patches: of the 64 there are, batches of 20 or 32 leave 20 over."""
    monkeypatch.setattr("histoslide.training.learner.fitting_batch_size", lambda *_, **__: 10)


def weights_of(trained: TrainedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trained.learner.model.state_dict().items()}


@pytest.mark.usefixtures("tens")
def test_an_interrupted_run_that_sums_gradients_ends_as_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    recipe = dataclasses.replace(
        QUICK, stages=(Stage(epochs=2, lr=1e-2),) * 2, batch_size=32, keep="last"
    )
    expected = weights_of(train(DATA, recipe, device=CPU))
    for last in (1, 2, 3):

        def stop(record: EpochRecord, last: int = last) -> None:
            if record.epoch == last + 1:  # the checkpoint is of the epoch before
                raise KeyboardInterrupt

        folder = tmp_path / str(last)
        with pytest.raises(KeyboardInterrupt):
            train(DATA, recipe, device=CPU, folder=folder, on_epoch=stop)
        again = weights_of(train(DATA, recipe, device=CPU, folder=folder))
        assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_what_does_not_fill_a_batch_is_dropped_and_forgotten() -> None:
    stage = Stage(epochs=2, lr=1e-3)
    recipe = dataclasses.replace(QUICK, stages=(stage,), batch_size=24)
    learner = make_learner(DATA, recipe, stage, build_network("tiny", 2), device=CPU, batch_size=20)
    steps: list[tuple[int, int]] = []

    class Steps(Callback):  # type: ignore[misc]
        def after_step(self) -> None:
            steps.append((self.learn.epoch, self.learn.iter))

    learner.add_cb(Steps())
    fit_stage(learner, stage)
    assert steps == [(0, 1), (1, 1)]  # of three batches an epoch, the third is left over
    assert not any(p.grad is not None and p.grad.any() for p in learner.model.parameters())


def test_less_than_a_batch_is_a_step_of_all_there_is() -> None:
    """The one step of an epoch equals that of a batch of these patches, however it was summed."""
    small = dataclasses.replace(DATA, train=centre_patches(16, seed=2))
    stage = Stage(epochs=1, lr=1e-3)
    gradients: list[list[Tensor]] = []

    class Gradients(Callback):  # type: ignore[misc]
        order = 9  # after the accumulation

        def before_step(self) -> None:
            found = [p.grad for p in self.learn.model.parameters()]
            gradients.append([gradient.clone() for gradient in found if gradient is not None])

    torch.manual_seed(0)
    network = build_network("tiny", 2).eval()
    start = {name: value.clone() for name, value in network.state_dict().items()}
    for batch_size, asked in ((16, 16), (4, 64)):
        network.load_state_dict(start)
        recipe = dataclasses.replace(QUICK, batch_size=asked)
        learner = make_learner(small, recipe, stage, network, device=CPU, batch_size=batch_size)
        learner.add_cbs([Gradients(), Settled()])
        fit_stage(learner, stage)
    assert len(gradients) == 2
    assert len(gradients[0]) == len(list(network.parameters()))
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, summed, rtol=1e-3, atol=1e-6)


class Settled(Callback):  # type: ignore[misc]
    """Batch norms as in validation, so that a patch does not depend on those beside it."""

    def before_batch(self) -> None:
        self.learn.model.eval()


def test_the_finder_suggests_a_rate_from_the_curve_it_saw() -> None:
    recipe = dataclasses.replace(QUICK, batch_size=8)
    search = find_rate(DATA, recipe, device=CPU)
    again = find_rate(DATA, recipe, device=CPU)
    assert search.suggestion == again.suggestion
    assert search.losses.tolist() == again.losses.tolist()
    assert len(search.lrs) == len(search.losses) > 50
    assert search.lrs[0] < 1e-6
    assert np.all(np.diff(search.lrs) > 0)
    assert search.suggestion is not None
    assert 1e-5 < search.suggestion < 1
    # It lies where the loss falls: before its lowest point, below where it started.
    at = int(np.argmin(np.abs(search.lrs - search.suggestion)))
    assert at < int(np.argmin(search.losses))


# --- classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("normal", "tumour"), "tumour"),
        (("Tumor", "Normal"), "Tumor"),
        (("0", "1"), "1"),
        (("1", "Normal"), "1"),
        (("negative", "POSITIVE"), "POSITIVE"),
        (("normal", "tumour", "fat"), None),
    ],
)
def test_the_tumour_class_is_known_by_its_name(
    classes: tuple[str, ...], expected: str | None
) -> None:
    assert tumour_class(classes) == expected


@pytest.mark.parametrize(
    "classes",
    [("cancer", "tumor"), ("cat", "dog"), ("abnormal", "normal"), ("1", "2"), ("1", "other")],
)
def test_of_two_classes_one_must_mean_tumour(classes: tuple[str, str]) -> None:
    """Guessing wrong would show a heatmap of normal tissue as one of tumour."""
    with pytest.raises(DataError, match=f"{classes[0]}, {classes[1]} means tumour: pass --tumour"):
        tumour_class(classes)
    assert tumour_class(classes, classes[0]) == classes[0]
    with pytest.raises(DataError, match="no class 'bird'"):
        tumour_class(classes, "bird")


def test_a_spec_of_an_unknown_architecture_is_refused_before_training() -> None:
    with pytest.raises(BundleError, match="'resnet9'"):
        train(DATA, dataclasses.replace(QUICK, architecture="resnet9"), name="x", device=CPU)


# --- several processes ----------------------------------------------------------------------------

TOGETHER = """
import sys, json
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import conftest, pytest, dataclasses
from patches import DATA, QUICK
from histoslide.training.distributed import process_group
from histoslide.training.fit import train
from histoslide.training.recipe import Stage
conftest.add_tiny(pytest.MonkeyPatch())
torch.set_num_threads(1)
folder = Path(sys.argv[2])
recipe = dataclasses.replace(QUICK, stages=(Stage(epochs=2, lr=1e-2),), ema_decay=0.5)
with process_group(torch.device("cpu")) as device:
    trained = train(DATA, recipe, name="x", device=device, folder=folder / "run")
    rank = torch.distributed.get_rank()
state = trained.learner.model.state_dict()
total = float(sum(v.double().abs().sum() for k, v in state.items() if "running" not in k))
steps = len(trained.history.loss)
values = {"total": total, "steps": steps, "auc": trained.epochs[-1].auc}
(folder / f"{rank}.json").write_text(json.dumps(values))
"""


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        str(script), str(Path(__file__).parents[1]), str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["total"] == pytest.approx(second["total"], rel=1e-6)
    assert first["auc"] == second["auc"]
    assert first["steps"] == 2 * 64 // 16 // 2  # each takes half of the batches
    records = (tmp_path / "run" / LOG_NAME).read_text().splitlines()
    assert len(records) == 2
