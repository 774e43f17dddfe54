"""A network learns what its teachers say of the patches that it sees."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from patches import DATA, QUICK, Memory, centre_patches
from torch import Tensor, nn

from histoslide.datasets import PatchData, WithoutLabels
from histoslide.errors import DataError, OutputExistsError
from histoslide.model import ModelSpec, save_bundle
from histoslide.model.architectures import build_network
from histoslide.training.fit import train
from histoslide.training.learner import make_learner
from histoslide.training.recipe import Augmentation, Recipe, Stage
from histoslide.training.teachers import Teacher, Teaching, read_teachers

CPU = torch.device("cpu")

TAUGHT = dataclasses.replace(QUICK, teacher_weight=1.0, stages=(Stage(epochs=6, lr=2e-2),))

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What a run has learnt that tells the classes apart."""
    path = tmp_path / "teacher.safetensors"
    trained = train(DATA, dataclasses.replace(QUICK, stages=TAUGHT.stages), device=CPU)
    assert trained.figures.auc > 0.95
    trained.save(path)
    return path


def with_wrong_labels(data: PatchData) -> PatchData:
    train = data.train
    assert isinstance(train, Memory)
    return dataclasses.replace(data, train=dataclasses.replace(train, labels=1 - train.labels))


def test_a_network_learns_from_teachers_what_labels_get_wrong(bundle: Path) -> None:
    data = with_wrong_labels(DATA)
    teachers = read_teachers([bundle], TAUGHT, DATA.classes)
    assert train(data, TAUGHT, device=CPU, seed=1).figures.auc < 0.2
    taught = train(data, TAUGHT, device=CPU, seed=1, teachers=teachers)
    assert taught.figures.auc > 0.9
    (record,) = taught.spec.training["teachers"]
    assert record == {"name": "quick", "file": bundle.name, "sha256": teachers[0].sha256}


def test_a_network_learns_from_patches_without_labels(bundle: Path) -> None:
    """Labelled ones are noise here, so all that can be learnt is what the teacher says."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    data = dataclasses.replace(
        DATA,
        train=Memory(noise, np.array([0, 1, 0, 1])),
        unlabelled=WithoutLabels(centre_patches(80, seed=9)),
    )
    recipe = dataclasses.replace(TAUGHT, teacher_weight=0.7)
    teachers = read_teachers([bundle], recipe, DATA.classes)
    taught = train(data, recipe, device=CPU, teachers=teachers)
    assert taught.figures.auc > 0.9
    facts = taught.spec.training["data"]
    assert (facts["train_patches"], facts["unlabelled_patches"]) == (4, 80)
    assert facts["shown_an_epoch"] == 84


@pytest.mark.parametrize(
    ("recipe", "teachers"), [(TAUGHT, False), (dataclasses.replace(TAUGHT, mixup=0.3), True)]
)
def test_patches_without_labels_need_a_teacher(
    bundle: Path, recipe: Recipe, teachers: bool
) -> None:
    data = dataclasses.replace(DATA, unlabelled=WithoutLabels(centre_patches(8, seed=9)))
    given = read_teachers([bundle] * teachers, recipe, DATA.classes)
    with pytest.raises(DataError, match="learnt from teachers alone: pass --teacher BUNDLE"):
        train(data, recipe, device=CPU, teachers=given)


class Constant(nn.Module):
    """Says the same of every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


class Echo(nn.Module):
    """Puts out the means of the red and the green it is shown."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))[:, :2]


def teacher(network: nn.Module, **changes: object) -> Teacher:
    spec = ModelSpec(
        name="t",
        architecture="tiny",
        classes=DATA.classes,
        input_px=40,
        network_px=40,
        label_px=32,
        mpp=0.972,
    )
    spec = dataclasses.replace(spec, **changes)  # type: ignore[arg-type]
    return Teacher(file="t.safetensors", sha256="", spec=spec, network=network)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_the_loss_is_the_mean_of_teachers_beside_the_labels(weight: float) -> None:
    heat = 3.0
    recipe = dataclasses.replace(QUICK, teacher_weight=weight, teacher_temperature=heat)
    teachers = [teacher(Constant(1.0, -1.0), temperature=2.0), teacher(Constant(0.0, 4.0))]
    seen: list[tuple[Tensor, Tensor, float]] = []

    class Listener(Callback):  # type: ignore[misc]
        def before_backward(self) -> None:
            seen.append((self.pred.detach(), self.yb[0], float(self.learn.loss_grad.detach())))

    network = build_network("tiny", 2)
    learner = make_learner(DATA, recipe, recipe.stages[0], network, device=CPU, teachers=teachers)
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, 1e-3, cbs=[Listener()])
    calibrated = [torch.tensor([0.5, -0.5]), torch.tensor([0.0, 4.0])]
    target = torch.stack([(logits / heat).softmax(dim=0) for logits in calibrated]).mean(dim=0)
    assert len(seen) == 4
    for logits, labels, loss in seen:
        guess = (logits / heat).log_softmax(dim=1)
        divergence = (target * (target.log() - guess)).sum(dim=1).mean() * heat**2
        own = nn.functional.cross_entropy(logits, labels)
        assert loss == pytest.approx(float((1 - weight) * own + weight * divergence), rel=1e-4)


def test_teachers_see_the_same_view_as_they_were_trained_to() -> None:
    """Their own normalisation of what was augmented, at their own size of network."""
    side = 36
    recipe = dataclasses.replace(
        QUICK, augmentation=Augmentation(flip=True, brightness=0.5), teacher_temperature=1.0
    )
    other = teacher(Echo(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0), network_px=side)
    shown: list[Tensor] = []
    other.network.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    learner = make_learner(
        DATA, recipe, recipe.stages[0], build_network("tiny", 2), device=CPU, teachers=[other]
    )
    learner.dls.train.rng.seed(0)
    batches: list[Tensor] = []

    class Keep(Callback):  # type: ignore[misc]
        def after_pred(self) -> None:
            if self.training:
                batches.append(self.xb[0])

    with learner.no_bar(), learner.no_logging():
        learner.fit(1, 1e-3, cbs=[Keep()])
    assert len(shown) == len(batches) == 4
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in recipe.normalisation)
    for images, given in zip(shown, batches, strict=True):
        pixels = nn.functional.interpolate(
            given * std + mean, side, mode="bilinear", antialias=True
        )
        expected = (pixels - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / torch.tensor(
            [0.5, 0.25, 1.0]
        ).view(1, 3, 1, 1)
        torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-5)


def test_a_teacher_is_shown_crops_at_its_own_scale() -> None:
    stage = Stage(epochs=1, crop_px=20)
    other = teacher(Echo(), network_px=80)
    sides: list[int] = []
    other.network.register_forward_pre_hook(lambda _, given: sides.append(given[0].shape[-1]))
    teaching = Teaching([other], QUICK, stage, CPU)
    (desk,) = teaching._desks
    desk.ask(torch.zeros(2, 3, 20, 20), 1.0)
    assert sides == [40]


@pytest.mark.parametrize(
    ("recipe", "classes", "message"),
    [
        (QUICK, ("tumour", "normal"), "tells normal, tumour apart.*--class-names"),
        (
            dataclasses.replace(QUICK, input_px=48),
            DATA.classes,
            "40 px at 0.972 µm/px, the patches are 48 px",
        ),
        (dataclasses.replace(QUICK, mpp=0.5), DATA.classes, "the patches are 40 px at 0.5"),
    ],
)
def test_a_teacher_of_something_else_is_refused(
    tmp_path: Path, recipe: Recipe, classes: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "t.safetensors"
    save_bundle(path, teacher(Echo()).spec, build_network("tiny", 2).state_dict())
    with pytest.raises(DataError, match=message):
        read_teachers([path], recipe, classes)


def test_a_run_does_not_go_on_under_another_teacher(bundle: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(TAUGHT, stages=(Stage(epochs=1),))
    teachers = read_teachers([bundle], recipe, DATA.classes)
    train(DATA, recipe, device=CPU, teachers=teachers, folder=tmp_path / "run")
    with pytest.raises(OutputExistsError, match=r"teachers was .*quick.*, is"):
        train(DATA, recipe, device=CPU, folder=tmp_path / "run")
