"""A small run learns what the centre tells, and its bundle predicts what its learner does."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from numpy.typing import NDArray
from torch import Tensor, nn

from histoslide.datasets import PatchData
from histoslide.errors import BundleError, DataError
from histoslide.model import load_bundle, load_model, read_spec
from histoslide.model.architectures import ARCHITECTURES, build_network, fastai_head
from histoslide.patch_evaluation.figures import fit_temperature
from histoslide.training.averaging import WeightAveraging
from histoslide.training.fit import (
    EpochRecord,
    TrainedModel,
    make_learner,
    predict_logits,
    train,
    tumour_class,
)
from histoslide.training.loaders import batch_transform, centre_crop, make_loaders
from histoslide.training.recipe import RECIPES, Augmentation, Recipe, Stage

CPU = torch.device("cpu")
SIDE_PX = 40


@dataclass(frozen=True)
class Memory:
    """Patches in memory."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> Sequence[str]:
        return [f"patch-{i}" for i in range(len(self))]

    @property
    def slides(self) -> None:
        return None

    def read(self, index: int) -> NDArray[np.uint8]:
        patch: NDArray[np.uint8] = self.pixels[index]
        return patch


def centre_patches(count: int, seed: int) -> Memory:
    """Noise whose centre 32×32 px are purple (1) or pink (0); the rim says nothing."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = rng.integers(0, 256, (count, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    edge = (SIDE_PX - 32) // 2
    inside = slice(edge, SIDE_PX - edge)
    noise = rng.integers(0, 40, (count, 32, 32, 3), dtype=np.uint8)
    colour = np.array([(215, 120, 170), (90, 40, 140)], dtype=np.uint8)
    pixels[:, inside, inside] = noise + colour[labels][:, None, None, :]
    return Memory(pixels, labels.astype(np.int64))


def make_tiny(classes: int, imagenet: bool) -> nn.Sequential:
    """A network laid out as a ResNet, small enough to train in a moment."""
    assert not imagenet

    def block(before: int, after: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        )

    stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    layers = [block(8, 8, 1), block(8, 16, 2), block(16, 16, 1), block(16, 16, 1)]
    return nn.Sequential(nn.Sequential(*stem, *layers), fastai_head(16, classes))


@pytest.fixture(autouse=True, scope="module")
def tiny() -> Iterator[None]:
    """A new network is one more entry. One thread is fastest for it, and repeats exactly."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cast("dict[str, object]", ARCHITECTURES), "tiny", make_tiny)
        yield
    torch.set_num_threads(threads)


DATA = PatchData(
    layout="folders",
    classes=("normal", "tumour"),
    train=centre_patches(64, seed=0),
    valid=centre_patches(24, seed=1),
)

QUICK = Recipe(
    name="quick",
    architecture="tiny",
    imagenet=False,
    stages=(Stage(epochs=1, lr=1e-3),),
    batch_size=16,
    input_px=SIDE_PX,
)


@dataclass(frozen=True)
class Run:
    """A finished run and what it left behind."""

    trained: TrainedModel
    seen: list[EpochRecord]
    log: Path
    checkpoint: Path
    bundle: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    log, checkpoint, bundle = (
        folder / name for name in ("log.jsonl", "last.safetensors", "m.safetensors")
    )
    seen: list[EpochRecord] = []
    recipe = dataclasses.replace(
        QUICK,
        stages=(Stage(epochs=5, lr=2e-2, crop_px=32), Stage(epochs=5, lr=5e-3)),
        augmentation=Augmentation(zoom=0.05, jpeg=0.3),
        ema_decay=0.5,
    )
    trained = train(
        DATA,
        recipe,
        name="centre",
        device=CPU,
        log=log,
        checkpoint=checkpoint,
        licence="CC0",
        on_epoch=seen.append,
    )
    trained.save(bundle)
    return Run(trained, seen, log, checkpoint, bundle)


def test_a_small_run_learns_from_the_centre(run: Run) -> None:
    assert run.trained.figures.accuracy > 0.9
    assert run.trained.figures.auc > 0.95
    assert run.trained.epochs[-1].accuracy > 0.9
    assert run.trained.epochs[-1].train_loss < run.trained.epochs[0].train_loss


def test_the_log_has_one_json_object_an_epoch(run: Run) -> None:
    lines = run.log.read_text().splitlines()
    records = [EpochRecord(**json.loads(line)) for line in lines]
    assert tuple(records) == run.trained.epochs == tuple(run.seen)
    assert [record.epoch for record in records] == list(range(1, 11))
    assert [record.stage for record in records] == [1] * 5 + [2] * 5
    assert all(record.seconds > 0 for record in records)


def test_the_bundle_predicts_what_the_learner_does(run: Run) -> None:
    expected, labels = predict_logits(run.trained.learner)
    assert labels.tolist() == DATA.valid.labels.tolist()
    model = load_model(run.bundle, device=CPU)
    logits = model.logits(valid_tiles(SIDE_PX))
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    guess = model.probabilities(valid_tiles(SIDE_PX)).argmax(dim=1)
    assert float((guess == labels).float().mean()) == run.trained.figures.accuracy


def valid_tiles(side_px: int) -> Tensor:
    tiles = torch.from_numpy(np.stack([DATA.valid.read(i) for i in range(len(DATA.valid))]))
    return centre_crop(tiles.permute(0, 3, 1, 2), side_px)


def test_the_spec_tells_how_the_model_was_made(run: Run) -> None:
    spec = read_spec(run.bundle)
    assert spec.to_json() == run.trained.spec.to_json()
    assert (spec.name, spec.licence, spec.tumour_class) == ("centre", "CC0", "tumour")
    assert (spec.input_px, spec.network_px, spec.label_px) == (SIDE_PX, SIDE_PX, 32)
    assert spec.temperature == fit_temperature(*predict_logits(run.trained.learner))
    told = spec.training
    assert told["data"] == {"layout": "folders", "train_patches": 64, "valid_patches": 24}
    assert told["recipe"]["stages"][0]["crop_px"] == 32
    assert told["seed"] == 42
    assert len(told["epochs"]) == 10
    assert told["validation"]["accuracy"] == run.trained.figures.accuracy
    assert told["validation"]["loss"] <= told["validation_before_calibration"]["loss"] + 1e-6
    assert set(told["versions"]) == {"torch", "torchvision", "fastai"}
    assert "/" not in json.dumps(told["data"])


def test_the_checkpoint_loads_and_holds_the_last_weights(run: Run) -> None:
    spec, state = load_bundle(run.checkpoint)
    assert spec.architecture == "tiny"
    _, final = load_bundle(run.bundle)
    assert all(torch.equal(state[name], final[name]) for name in final)
    assert load_model(run.checkpoint, device=CPU).spec == spec


def test_a_saved_model_is_not_overwritten(run: Run) -> None:
    with pytest.raises(Exception, match="--overwrite"):
        run.trained.save(run.bundle)


def test_every_checkpoint_holds_the_weights_that_were_judged(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.safetensors"
    recipe = dataclasses.replace(QUICK, stages=(Stage(epochs=2, lr=1e-3),), ema_decay=0.9)
    labels = torch.from_numpy(DATA.valid.labels)
    losses: list[tuple[float, float]] = []

    def check(record: EpochRecord) -> None:
        logits = load_model(checkpoint, device=CPU).logits(valid_tiles(SIDE_PX))
        loss = float(nn.functional.cross_entropy(logits, labels))
        losses.append((record.valid_loss, loss))

    train(DATA, recipe, name="x", device=CPU, checkpoint=checkpoint, on_epoch=check)
    assert len(losses) == 2
    for judged, kept in losses:
        assert kept == pytest.approx(judged, rel=1e-3)


def test_a_seed_repeats_a_run_and_another_does_not() -> None:
    recipe = dataclasses.replace(QUICK, augmentation=Augmentation(zoom=0.1, stain=0.1, jpeg=0.5))
    runs = [train(DATA, recipe, name="x", device=CPU, seed=seed) for seed in (3, 3, 4)]
    losses = [[(e.train_loss, e.valid_loss) for e in run.epochs] for run in runs]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_last_stage_that_crops_makes_a_model_of_the_crop() -> None:
    recipe = dataclasses.replace(QUICK, stages=(Stage(epochs=1, lr=1e-3, crop_px=36),))
    trained = train(DATA, recipe, name="x", device=CPU)
    assert (trained.spec.input_px, trained.spec.network_px) == (36, 36)
    transform = batch_transform(recipe, recipe.stages[0], training=False)
    images, _ = transform((valid_tiles(SIDE_PX), torch.zeros(24)))
    spec = trained.spec
    expected = valid_tiles(spec.input_px).float() / 255
    expected = (expected - torch.tensor(spec.mean).view(3, 1, 1)) / torch.tensor(spec.std).view(
        3, 1, 1
    )
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


def test_a_run_may_start_from_given_weights() -> None:
    torch.manual_seed(0)
    initial = build_network("tiny", 2).state_dict()
    start = {name: value.clone() for name, value in initial.items()}
    recipe = dataclasses.replace(QUICK, imagenet=True, stages=(Stage(epochs=1, lr=1e-9),))
    trained = train(DATA, recipe, name="x", device=CPU, initial=initial)
    weight = trained.learner.model.state_dict()["0.0.weight"]
    torch.testing.assert_close(weight, start["0.0.weight"], rtol=1e-4, atol=1e-6)


def test_a_patch_of_another_size_is_named() -> None:
    recipe = dataclasses.replace(QUICK, input_px=48)
    with pytest.raises(DataError, match=r"^patch patch-\d+ is 40×40 px, the recipe expects 48×48$"):
        train(DATA, recipe, name="x", device=CPU)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    initial = build_network("tiny", 2).state_dict()
    initial["1.8.weight"][0, 0] = torch.nan
    log, checkpoint = tmp_path / "log.jsonl", tmp_path / "last.safetensors"
    with pytest.raises(
        DataError, match=r"^the loss became nan in epoch 1: lower the learning rate with --lr$"
    ):
        train(DATA, QUICK, name="x", device=CPU, initial=initial, log=log, checkpoint=checkpoint)
    assert not log.exists()
    assert not checkpoint.exists()


def test_a_checkpoint_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    checkpoint = tmp_path / "file" / "last.safetensors"
    with pytest.raises(BundleError, match=r"^/.*last\.safetensors cannot be written: .*$"):
        train(DATA, QUICK, name="x", device=CPU, checkpoint=checkpoint)


def test_a_resnet_trains_and_its_bundle_predicts_the_same(tmp_path: Path) -> None:
    data = dataclasses.replace(DATA, train=centre_patches(8, seed=2))
    recipe = dataclasses.replace(QUICK, architecture="resnet18", batch_size=8)
    trained = train(data, recipe, name="x", device=CPU)
    trained.save(tmp_path / "m.safetensors")
    expected, _ = predict_logits(trained.learner)
    logits = load_model(tmp_path / "m.safetensors", device=CPU).logits(valid_tiles(SIDE_PX))
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


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
    stage = Stage(epochs=1, lr=1e-2, trainable_groups=groups)
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
    recipe = dataclasses.replace(
        QUICK, batch_size=6, mean=(0, 0, 0), std=(1, 1, 1), augmentation=Augmentation()
    )
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


def test_fewer_patches_than_a_batch_are_still_trained_on() -> None:
    small = dataclasses.replace(DATA, train=centre_patches(6, seed=2))
    loaders = make_loaders(small, QUICK, QUICK.stages[0], device=CPU)
    assert [len(labels) for _, labels in loaders.train] == [6]


@pytest.mark.parametrize(("side", "crop"), [(96, 48), (96, 96), (96, 33), (7, 4)])
def test_the_crop_is_from_the_centre(side: int, crop: int) -> None:
    ramp = torch.arange(side).float()
    images = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)])[None]
    cropped = centre_crop(images, crop)
    assert cropped.shape == (1, 2, crop, crop)
    middle = cropped.mean(dim=(0, 2, 3))
    assert (middle - (side - 1) / 2).abs().max() <= 0.5


def test_a_stage_may_resize() -> None:
    stage = Stage(epochs=1, lr=1e-3, crop_px=32, network_px=64)
    transform = batch_transform(QUICK, stage, training=False)
    images, _ = transform((valid_tiles(SIDE_PX), torch.zeros(24)))
    assert images.shape == (24, 3, 64, 64)


def test_a_learner_measures_accuracy_and_auc() -> None:
    learner = make_learner(DATA, QUICK, QUICK.stages[0], nn.Identity(), device=CPU)
    assert [metric.name for metric in learner.metrics] == ["accuracy", "roc_auc_score"]


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["zoom", "stain", "lighting", "sharpness", "jpeg"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_an_augmentation_outside_0_to_1_is_refused(field: str, value: float) -> None:
    with pytest.raises(DataError, match=f"{field} must lie in 0-1, not {value}"):
        Augmentation(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 0}, "not 0"),
        ({"epochs": -2}, "not -2"),
        ({"lr": 0.0}, "not 0.0"),
        ({"lr": -1e-3}, "not -0.001"),
        ({"lr": float("nan")}, "not nan"),
        ({"trainable_groups": 0}, "not 0"),
    ],
)
def test_an_impossible_stage_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        Stage(**({"epochs": 1, "lr": 1e-3} | changes))
    assert said in str(caught.value)


def test_a_recipe_needs_a_stage() -> None:
    with pytest.raises(DataError, match="'empty' has no stage"):
        Recipe(name="empty", stages=())


def test_a_crop_beyond_the_patch_is_refused() -> None:
    with pytest.raises(DataError, match=r"64 px.*40 px"):
        dataclasses.replace(QUICK, stages=(Stage(epochs=1, lr=1e-3, crop_px=64),))


def test_the_recipes_that_ship_are_whole() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.epochs == sum(stage.epochs for stage in recipe.stages)
        assert json.loads(json.dumps(recipe.as_dict()))["name"] == name
        assert recipe.stages[-1].crop_px is None


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("normal", "tumour"), "tumour"),
        (("Tumor", "Normal"), "Tumor"),
        (("0", "1"), "1"),
        (("negative", "POSITIVE"), "POSITIVE"),
        (("normal", "tumour", "fat"), None),
    ],
)
def test_the_tumour_class_is_known_by_its_name(
    classes: tuple[str, ...], expected: str | None
) -> None:
    assert tumour_class(classes) == expected


@pytest.mark.parametrize("classes", [("cancer", "tumor"), ("cat", "dog"), ("abnormal", "normal")])
def test_of_two_classes_one_must_mean_tumour(classes: tuple[str, str]) -> None:
    """Guessing wrong would show a heatmap of normal tissue as one of tumour."""
    with pytest.raises(DataError, match=f"{classes[0]}, {classes[1]} means tumour: pass --tumour"):
        tumour_class(classes)
    assert tumour_class(classes, classes[0]) == classes[0]
    with pytest.raises(DataError, match="no class 'bird'"):
        tumour_class(classes, "bird")


def test_a_crop_must_hold_the_label_footprint() -> None:
    with pytest.raises(DataError, match="31 px would cut into the 32 px"):
        dataclasses.replace(QUICK, stages=(Stage(epochs=1, lr=1e-3, crop_px=31),))


def test_a_spec_of_an_unknown_architecture_is_refused_before_training() -> None:
    with pytest.raises(BundleError, match="'resnet9'"):
        train(DATA, dataclasses.replace(QUICK, architecture="resnet9"), name="x", device=CPU)
