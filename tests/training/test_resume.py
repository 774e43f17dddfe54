"""A run that is killed goes on as if nothing had happened."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from conftest import add_tiny, one_thread
from patches import DATA, QUICK, centre_patches
from torch import Tensor

from histoslide.errors import HistoslideError, OutputExistsError
from histoslide.training.checkpoint import FILE_NAME, why_unwritten
from histoslide.training.fit import LOG_NAME, TrainedModel, train
from histoslide.training.recipe import Augmentation, Recipe, Stage
from histoslide.training.records import EpochRecord
from histoslide.training.tensorboard import TensorBoard

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("tiny")

LONG = dataclasses.replace(
    QUICK,
    stages=(
        Stage(epochs=2, lr=1e-2, trainable_groups=1, crop_px=36),
        Stage(epochs=3, lr=(1e-3, 1e-2)),
    ),
    ema_decay=0.8,
    mixup=0.2,
    label_smoothing=0.1,
    augmentation=Augmentation(
        flip=True, flip_vert=True, max_rotate=20, max_lighting=0.2, stain=0.1, jpeg=0.5
    ),
)


class KilledError(Exception):
    """In place of a kill."""


def weights(trained: TrainedModel) -> dict[str, Tensor]:
    return dict(trained.learner.model.state_dict())


def run_and_kill(
    recipe: Recipe,
    folder: Path,
    *,
    epoch: int,
    step: int,
    workers: int = 0,
    board: Path | None = None,
) -> None:
    """Train until some steps into an epoch (counted from 1), then die."""

    def die(now: int, done: int, of: int, loss: float, rate: float) -> None:
        if now == epoch and done == step:
            raise KilledError("killed")

    callbacks = [] if board is None else [TensorBoard(board, DATA, recipe)]
    with pytest.raises(KilledError):
        train(
            DATA, recipe, name="x", device=CPU, folder=folder, workers=workers, on_batch=die,
            callbacks=callbacks,
        )  # fmt: skip


@pytest.fixture(scope="module")
def whole() -> TrainedModel:
    with pytest.MonkeyPatch.context() as patch, one_thread():
        add_tiny(patch)
        return train(DATA, LONG, name="x", device=CPU)


@pytest.mark.parametrize(("epoch", "step"), [(1, 2), (2, 1), (3, 1), (4, 3), (5, 4)])
def test_a_killed_run_ends_as_an_uninterrupted_one(
    whole: TrainedModel, tmp_path: Path, epoch: int, step: int
) -> None:
    run_and_kill(LONG, tmp_path, epoch=epoch, step=step)
    log = tmp_path / LOG_NAME
    done = log.read_text().splitlines() if log.exists() else []
    assert len(done) == epoch - 1
    trained = train(DATA, LONG, name="x", device=CPU, folder=tmp_path)
    expected = weights(whole)
    for name, value in weights(trained).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    for record, other in zip(trained.epochs, whole.epochs, strict=True):
        told, known = dataclasses.asdict(record), dataclasses.asdict(other)
        for clocked in ("seconds", "patches_per_second"):
            told.pop(clocked), known.pop(clocked)
        assert told == pytest.approx(known, rel=1e-4)
    assert trained.history.loss.tolist() == pytest.approx(whole.history.loss.tolist(), rel=1e-4)
    assert trained.history.lr.tolist() == whole.history.lr.tolist()
    assert trained.spec.temperature == pytest.approx(whole.spec.temperature, rel=1e-4)
    assert len(log.read_text().splitlines()) == 5


def test_a_run_killed_twice_and_again_at_its_end(whole: TrainedModel, tmp_path: Path) -> None:
    run_and_kill(LONG, tmp_path, epoch=2, step=3)
    run_and_kill(LONG, tmp_path, epoch=4, step=1)  # goes on in epoch 2
    train(DATA, LONG, name="x", device=CPU, folder=tmp_path)
    seen: list[EpochRecord] = []
    again = train(DATA, LONG, name="x", device=CPU, folder=tmp_path, on_epoch=seen.append)
    assert not seen
    for name, value in weights(again).items():
        torch.testing.assert_close(value, weights(whole)[name], rtol=1e-4, atol=1e-6)


def test_tensorboard_counts_on_where_a_killed_run_was(tmp_path: Path) -> None:
    """Every step and epoch is there once; what was written after the last whole epoch is not."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values: list[dict[str, list[tuple[int, float]]]] = []
    for name, kills in (("whole", []), ("killed", [(2, 3), (4, 2)])):
        board, folder = tmp_path / name / "board", tmp_path / name / "run"
        for epoch, step in kills:
            run_and_kill(LONG, folder, epoch=epoch, step=step, board=board)
        writer = TensorBoard(board, DATA, LONG)
        trained = train(DATA, LONG, name="x", device=CPU, folder=folder, callbacks=[writer])
        writer.embed(trained.learner)
        events = EventAccumulator(str(board))
        events.Reload()
        values.append(
            {
                tag: [(e.step, e.value) for e in events.Scalars(tag)]
                for tag in events.Tags()["scalars"]
            }
        )
    whole, killed = values
    assert [step for step, _ in whole["loss/step"]] == list(range(1, 21))
    assert [step for step, _ in whole["validation/AUC"]] == list(range(1, 6))
    assert whole.keys() == killed.keys()
    for tag, expected in whole.items():
        assert [step for step, _ in killed[tag]] == [step for step, _ in expected]
        assert [v for _, v in killed[tag]] == pytest.approx([v for _, v in expected], rel=1e-3)


def test_patience_ends_a_stage_and_a_resumed_run_knows_it(tmp_path: Path) -> None:
    # With a rate of nothing no epoch is better than the first.
    idle = Stage(epochs=6, lr=1e-12)
    recipe = dataclasses.replace(
        QUICK, stages=(idle, idle), patience=2, ema_decay=0.5, monitor="auc"
    )
    whole = train(DATA, recipe, name="x", device=CPU)
    assert [record.stage for record in whole.epochs] == [1, 1, 1, 2, 2, 2]
    run_and_kill(recipe, tmp_path, epoch=3, step=2)
    resumed = train(DATA, recipe, name="x", device=CPU, folder=tmp_path)
    assert [record.stage for record in resumed.epochs] == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("changes", "seed", "said"),
    [
        ({"weight_decay": 0.3}, 42, "weight_decay was 0.01, is 0.3"),
        ({}, 7, "seed was 42, is 7"),
        ({"augmentation": Augmentation(stain=0.5)}, 42, "augmentation.stain was 0.1, is 0.5"),
    ],
)
def test_a_run_with_other_settings_is_refused(
    tmp_path: Path, changes: dict[str, object], seed: int, said: str
) -> None:
    run_and_kill(LONG, tmp_path, epoch=2, step=1)
    other = dataclasses.replace(LONG, **changes)  # type: ignore[arg-type]
    with pytest.raises(OutputExistsError) as caught:
        train(DATA, other, name="x", device=CPU, folder=tmp_path, seed=seed)
    assert said in str(caught.value)
    assert "--overwrite" in str(caught.value)


def test_other_data_are_another_run(tmp_path: Path) -> None:
    run_and_kill(LONG, tmp_path, epoch=2, step=1)
    same = centre_patches(64, seed=0)
    more = dataclasses.replace(DATA, train=dataclasses.replace(same, labels=1 - same.labels))
    with pytest.raises(OutputExistsError, match="training set sha256"):
        train(more, LONG, name="x", device=CPU, folder=tmp_path)


def test_a_damaged_checkpoint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a checkpoint")
    with pytest.raises(HistoslideError, match=r"^.*checkpoint\.pt cannot be read: .*--overwrite"):
        train(DATA, LONG, name="x", device=CPU, folder=tmp_path)


def test_what_torch_says_of_a_full_disk_is_understood() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here, a disk that is always full")
    with pytest.raises((OSError, RuntimeError)) as caught:
        torch.save(torch.zeros(10_000), "/dev/full")
    assert why_unwritten(caught.value).lower().startswith("no space left")


def test_a_full_disk_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_and_kill(LONG, tmp_path, epoch=2, step=1)
    before = (tmp_path / FILE_NAME).read_bytes()

    def full(values: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(HistoslideError, match=r"No space left on device\): make room"):
            train(DATA, LONG, name="x", device=CPU, folder=tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [FILE_NAME, LOG_NAME]
    log = [json.loads(line) for line in (tmp_path / LOG_NAME).read_text().splitlines()]
    assert [record["epoch"] for record in log] == [1, 2]
    trained = train(DATA, LONG, name="x", device=CPU, folder=tmp_path)
    assert [record.epoch for record in trained.epochs] == [1, 2, 3, 4, 5]
