"""Labelled patches are found in each layout, and what is wrong with a set is said by name."""

import gzip
import multiprocessing
import pickle
import shutil
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from patch_files import (
    ALL_FILES,
    contents,
    gzip_file,
    number_of,
    write_images,
    write_kaggle,
    write_split,
)
from PIL import Image

from histoslide.datasets import (
    UNKNOWN,
    ImageFiles,
    Joined,
    PatchFolder,
    PatchSet,
    Split,
    Subset,
)
from histoslide.datasets.pcam_hdf5 import Hdf5Patches, Hdf5Pixels
from histoslide.datasets.unpack import unpacked_bytes
from histoslide.errors import DataError


@pytest.mark.parametrize(
    ("train", "valid"), [("train", "valid"), ("training", "validation"), ("train", "val")]
)
def test_folders_with_their_own_split(tmp_path: Path, train: str, valid: str) -> None:
    write_images(tmp_path / train / "normal", range(5))
    write_images(tmp_path / train / "tumour", range(10, 13), ".tif")
    write_images(tmp_path / valid / "normal", range(20, 22), ".PNG")
    write_images(tmp_path / valid / "tumour", range(30, 31))
    data = PatchFolder(root=tmp_path).divide()
    assert data.layout == "folders"
    assert data.classes == ("normal", "tumour")
    assert contents(data.train) == [(i, 0) for i in range(5)] + [(i, 1) for i in range(10, 13)]
    assert contents(data.valid) == [(20, 0), (21, 0), (30, 1)]
    assert list(data.train.names)[:2] == ["p0000", "p0001"]


@pytest.mark.parametrize(
    ("other", "pair"), [("train", ("val", "validation")), ("valid", ("train", "training"))]
)
def test_two_folders_of_one_part_are_refused(
    tmp_path: Path, other: str, pair: tuple[str, str]
) -> None:
    """Neither is taken silently; but one without images, as tools leave them, does no harm."""
    for first, part in enumerate((other, *pair)):
        write_images(tmp_path / part / "a", range(300 * first, 300 * first + 2))
        write_images(tmp_path / part / "b", range(300 * first + 100, 300 * first + 102))
    with pytest.raises(DataError, match=rf"has the folders {pair[0]} and {pair[1]}, both"):
        PatchFolder(root=tmp_path).divide()
    for name in ("a", "b"):
        shutil.rmtree(tmp_path / pair[1] / name)
    data = PatchFolder(root=tmp_path).divide()
    assert data.split is not None
    assert data.split.kind == "official"
    assert (len(data.train), len(data.valid)) == (4, 4)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for label, name in enumerate(("normal", "tumour")):
        write_images(tmp_path / name, range(label * 10, label * 10 + 4))
        (tmp_path / name / "notes.txt").write_text("not a patch")
        (tmp_path / name / ".hidden.png").write_text("not a patch")
    (tmp_path / "empty").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "readme.md").write_text("hello")
    data = PatchFolder(root=tmp_path).divide(Split(fraction=0.25))
    assert data.classes == ("normal", "tumour")
    assert len(data.train) + len(data.valid) == 8


def test_a_random_split_is_disjoint_complete_and_repeatable(tmp_path: Path) -> None:
    write_images(tmp_path / "a", range(12))
    write_images(tmp_path / "b", range(100, 108))
    everything = {(i, 0) for i in range(12)} | {(i, 1) for i in range(100, 108)}
    splits = []
    for seed in range(42, 48):
        data = PatchFolder(root=tmp_path).divide(Split(fraction=0.5, seed=seed))
        train, valid = contents(data.train), contents(data.valid)
        assert (len(train), len(valid)) == (10, 10)
        assert set(train) | set(valid) == everything
        assert not set(train) & set(valid)
        again = PatchFolder(root=tmp_path).divide(Split(fraction=0.5, seed=seed))
        assert (contents(again.train), contents(again.valid)) == (train, valid)
        splits.append(frozenset(valid))
    assert len(set(splits)) > 3


def test_a_random_split_names_what_it_reads(tmp_path: Path) -> None:
    write_images(tmp_path / "a", range(12))
    write_images(tmp_path / "b", range(100, 108))
    for part in (
        PatchFolder(root=tmp_path).divide(Split(fraction=0.5)).train,
        PatchFolder(root=tmp_path).divide(Split(fraction=0.5)).valid,
    ):
        assert [f"p{number:04}" for number, _ in contents(part)] == list(part.names)


def test_extra_folders_join_the_training_set(tmp_path: Path) -> None:
    write_images(tmp_path / "pcam" / "train" / "a", range(3))
    write_images(tmp_path / "pcam" / "train" / "b", range(10, 13))
    write_images(tmp_path / "pcam" / "valid" / "a", range(20, 21))
    write_images(tmp_path / "pcam" / "valid" / "b", range(30, 31))
    write_images(tmp_path / "hard" / "b", range(50, 54))  # a class may be absent
    data = PatchFolder(root=tmp_path / "pcam", extra=(tmp_path / "hard",)).divide()
    train = contents(data.train)
    assert {n: c for n, c in train if n >= 50} == dict.fromkeys(range(50, 54), 1)
    assert len(train) == 10
    assert contents(data.valid) == [(20, 0), (30, 1)]


@pytest.mark.parametrize(
    ("repeat", "expected"), [((), [1, 1]), ((3,), [3, 3]), ((1, 5), [1, 5]), ((2, 1), [2, 1])]
)
def test_extra_patches_are_shown_as_often_as_asked(
    repeat: tuple[int, ...], expected: list[int], tmp_path: Path
) -> None:
    for part, first in (("train", 0), ("valid", 10)):
        for label in (0, 1):
            write_images(tmp_path / "pcam" / part / str(label), range(first + label, first + 4, 2))
    extra = (tmp_path / "one", tmp_path / "two")
    write_images(extra[0] / "1", [20, 21])
    write_images(extra[1] / "0", [30])
    write_images(extra[1] / "1", [0])  # in another folder too, and not of validation: it stays
    write_images(extra[1] / "1", [10])  # of validation: it is left out
    data = PatchFolder(root=tmp_path / "pcam", extra=extra, extra_repeat=repeat).divide()
    numbers = [number for number, _ in contents(data.train)]
    shown = [numbers[index] for index in data.shown]
    once, twice = expected
    of = dict.fromkeys((20, 21), once) | {30: twice}
    assert {n: shown.count(n) for n in (1, 2, 3, 20, 21, 30)} == {1: 1, 2: 1, 3: 1} | of
    assert shown.count(0) == 1 + twice
    assert 10 not in shown
    assert (data.repeats is None) == (expected == [1, 1])


@pytest.mark.parametrize(
    ("folders", "repeat", "message"),
    [
        (("more",), (0,), "at least once an epoch, not 0 times"),
        (("more",), (1, 2, 3), "3 numbers of repeats for 1 extra folders"),
        ((), (2,), "1 numbers of repeats for 0 extra folders"),
    ],
)
def test_repeats_that_do_not_go_with_the_folders(
    folders: tuple[str, ...], repeat: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    for folder in ("pcam/train", "pcam/valid", "more"):
        for label in (0, 1):
            write_images(tmp_path / folder / str(label), [label])
    extra = tuple(tmp_path / folder for folder in folders)
    with pytest.raises(DataError, match=message):
        PatchFolder(root=tmp_path / "pcam", extra=extra, extra_repeat=repeat).divide()


def test_unlabelled_patches_are_apart_from_validation(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("valid", 10)):
        for label in (0, 1):
            write_images(tmp_path / "pcam" / part / str(label), [first + label])
    write_images(tmp_path / "slides", [0, 11, 30])
    write_images(tmp_path / "more", [31])
    unlabelled = (tmp_path / "slides", tmp_path / "more")
    data = PatchFolder(root=tmp_path / "pcam", unlabelled=unlabelled).divide()
    assert data.unlabelled is not None
    assert contents(data.unlabelled) == [(0, UNKNOWN), (30, UNKNOWN), (31, UNKNOWN)]
    assert data.shown.tolist() == [0, 1, 2, 3, 4]
    kept = PatchFolder(root=tmp_path / "pcam", unlabelled=unlabelled).divide(duplicates="keep")
    assert kept.unlabelled is not None
    assert len(kept.unlabelled) == 4


def test_extra_folders_with_another_class_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "pcam" / "a", range(4))
    write_images(tmp_path / "pcam" / "b", range(4))
    write_images(tmp_path / "hard" / "c", range(4))
    with pytest.raises(DataError, match=r"hard has classes \['c'\]"):
        PatchFolder(root=tmp_path / "pcam", extra=(tmp_path / "hard",)).divide()


def test_a_missing_extra_folder_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "pcam" / "a", range(4))
    write_images(tmp_path / "pcam" / "b", range(4))
    with pytest.raises(DataError, match="nowhere is not a folder"):
        PatchFolder(root=tmp_path / "pcam", extra=(tmp_path / "nowhere",)).divide()


def test_extra_folders_go_with_any_layout(tmp_path: Path) -> None:
    write_kaggle(tmp_path / "kaggle", [0, 1] * 5)
    write_images(tmp_path / "hard" / "1", range(50, 54))
    data = PatchFolder(root=tmp_path / "kaggle", extra=(tmp_path / "hard",)).divide(
        Split(kind="random", fraction=0.3)
    )
    tumour = data.classes.index("tumour")
    assert [label for number, label in contents(data.train) if number >= 50] == [tumour] * 4
    assert len(set(data.train.names)) == len(data.train)


def test_a_class_that_only_validation_knows_is_refused(tmp_path: Path) -> None:
    for folder in ("train/a", "train/b", "valid/a", "valid/z"):
        write_images(tmp_path / folder, range(2))
    with pytest.raises(DataError, match=r"valid has classes \['z'\]"):
        PatchFolder(root=tmp_path).divide()


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "tumour", range(9))
    with pytest.raises(DataError, match="only class 'tumour'"):
        PatchFolder(root=tmp_path).divide(Split(fraction=0.3))


def test_an_empty_validation_set_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "a", range(3))
    write_images(tmp_path / "b", range(3))
    with pytest.raises(DataError, match="the validation set is empty"):
        PatchFolder(root=tmp_path).divide(Split(fraction=0.05))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 1.5])
def test_an_impossible_fraction_is_refused(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(DataError, match=f"not {fraction}"):
        PatchFolder(root=tmp_path).divide(Split(fraction=fraction))


def test_an_empty_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        PatchFolder(root=tmp_path).divide()
    assert str(tmp_path) in str(caught.value)
    assert "train_labels.csv" in str(caught.value)
    assert "one folder per class" in str(caught.value)


@pytest.mark.parametrize("name", ["missing", "file.txt"])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("hello")
    with pytest.raises(DataError, match=f"{name} is not a folder"):
        PatchFolder(root=tmp_path / name).divide()


@pytest.mark.parametrize("damage", ["text", "truncated", "empty"])
def test_a_corrupt_image_is_named_on_reading(tmp_path: Path, damage: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    path = tmp_path / "bad_one.png"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes({"text": b"hello", "truncated": whole[:3000], "empty": b""}[damage])
    files = ImageFiles((path,), np.array([0]))
    with pytest.raises(DataError, match=r"bad_one\.png cannot be read as an image"):
        files.read(0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_any_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (5, 4), (0, 255, 255)).convert(mode).save(tmp_path / "x.png")
    pixels = ImageFiles((tmp_path / "x.png",), np.array([0])).read(0)
    assert pixels.shape == (4, 5, 3)
    assert pixels.dtype == np.uint8
    expected = (179, 179, 179) if mode == "L" else (0, 255, 255)
    assert (pixels == expected).all()


def test_kaggle_holds_back_the_end_of_the_list(tmp_path: Path) -> None:
    labels = [0, 1, 1, 0, 1, 0, 0, 1, 1, 0]
    write_kaggle(tmp_path, labels)
    data = PatchFolder(root=tmp_path).divide(Split(fraction=0.3))
    assert data.layout == "kaggle"
    assert data.classes == ("normal", "tumour")
    assert contents(data.train) == list(enumerate(labels))[:7]
    assert contents(data.valid) == list(enumerate(labels))[7:]
    assert list(data.valid.names) == ["p0007", "p0008", "p0009"]


def test_kaggle_follows_the_order_of_the_table_not_of_the_files(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [0, 1, 0, 1])
    (tmp_path / "train_labels.csv").write_text("label,id\n1,p0003\n0,p0000\n1,p0001\n0,p0002\n")
    data = PatchFolder(root=tmp_path).divide(Split(fraction=0.5))
    assert contents(data.train) == [(3, 1), (0, 0)]
    assert contents(data.valid) == [(1, 1), (2, 0)]


def test_a_validation_set_without_a_class_is_refused(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [0, 1, 0, 1, 0])
    with pytest.raises(DataError, match=r"validation set \(1 patches\) lacks class 'tumour'"):
        PatchFolder(root=tmp_path).divide(Split(fraction=0.2))


def test_kaggle_names_missing_images(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [0, 1] * 4)
    (tmp_path / "train" / "p0005.tif").unlink()
    (tmp_path / "train" / "p0002.tif").unlink()
    with pytest.raises(DataError, match=r"2 of 8 images.*the first is p0002\.tif"):
        PatchFolder(root=tmp_path).divide()


@pytest.mark.parametrize("label", ["2", "tumour", "", "0.0"])
def test_kaggle_refuses_another_label(tmp_path: Path, label: str) -> None:
    write_kaggle(tmp_path, [0, 1] * 4)
    table = tmp_path / "train_labels.csv"
    table.write_text(table.read_text().replace("p0003,1", f"p0003,{label}"))
    with pytest.raises(DataError, match=f"p0003 the label '{label}', not 0 or 1"):
        PatchFolder(root=tmp_path).divide()


def test_kaggle_refuses_a_row_without_label(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [0, 1] * 4)
    table = tmp_path / "train_labels.csv"
    table.write_text(table.read_text().replace("p0003,1", "p0003"))
    with pytest.raises(DataError, match="p0003 the label None"):
        PatchFolder(root=tmp_path).divide()


@pytest.mark.parametrize("header", ["name,class", "id", ""])
def test_kaggle_refuses_other_columns(tmp_path: Path, header: str) -> None:
    write_kaggle(tmp_path, [0, 1] * 4)
    (tmp_path / "train_labels.csv").write_text(header and f"{header}\na,0\n")
    with pytest.raises(DataError, match=r"train_labels\.csv has the columns .*expected id,label"):
        PatchFolder(root=tmp_path).divide()


def test_kaggle_of_one_class_is_refused(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [1] * 8)
    with pytest.raises(DataError, match="only class 'tumour'"):
        PatchFolder(root=tmp_path).divide(Split(fraction=0.25))


def test_the_real_kaggle_sample(real_data: Path, tmp_path: Path) -> None:
    with tarfile.open(real_data / "kaggle-sample.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    data = PatchFolder(root=tmp_path / "kaggle-sample").divide(Split(fraction=0.1))
    assert data.layout == "kaggle"
    labels = np.concatenate([data.train.labels, data.valid.labels])
    assert np.bincount(labels).tolist() == [506, 292]
    assert len(data.valid) == 80
    assert len(set(data.train.names) | set(data.valid.names)) == 798
    for index in range(0, len(data.train), 100):
        pixels = data.train.read(index)
        assert pixels.shape == (96, 96, 3)
        assert pixels.std() > 1


def test_pcam_hdf5(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [0, 1, 1, 0, 1])
    write_split(tmp_path, "valid", [1, 0], first=300)
    data = PatchFolder(root=tmp_path).divide()
    assert data.layout == "pcam-hdf5"
    assert data.classes == ("normal", "tumour")
    assert contents(data.train) == [(0, 0), (1, 1), (2, 1), (3, 0), (4, 1)]
    assert contents(data.valid) == [(300, 1), (301, 0)]
    assert data.train.read(3).shape == (96, 96, 3)
    assert data.train.labels.shape == (5,)
    assert data.train.labels.dtype == np.int64


@pytest.mark.parametrize("still_zipped", [("train_x",), ("valid_y",), ALL_FILES])
def test_gzipped_files_are_unpacked_into_the_cache(
    tmp_path: Path, still_zipped: tuple[str, ...]
) -> None:
    data_path, cache = tmp_path / "pcam", tmp_path / "cache"
    write_split(data_path, "train", [0, 1, 1])
    write_split(data_path, "valid", [1, 0], first=300)
    for name in still_zipped:
        gzip_file(data_path / f"camelyonpatch_level_2_split_{name}.h5")
    before = sorted(data_path.iterdir())
    data = PatchFolder(root=data_path, cache=cache).divide()
    assert contents(data.train) == [(0, 0), (1, 1), (2, 1)]
    assert contents(data.valid) == [(300, 1), (301, 0)]
    assert sorted(data_path.iterdir()) == before
    unpacked = list(cache.rglob("*.h5"))
    assert len(unpacked) == len(still_zipped)
    assert not list(cache.rglob("*.partial"))


def test_an_unpacked_file_is_reused_until_its_source_changes(tmp_path: Path) -> None:
    data_path, cache = tmp_path / "pcam", tmp_path / "cache"
    x, _ = write_split(data_path, "train", [0, 1])
    write_split(data_path, "valid", [1, 0], first=300)
    zipped = gzip_file(x)
    PatchFolder(root=data_path, cache=cache).divide()
    (unpacked,) = cache.rglob("*.h5")
    first = unpacked.stat()
    PatchFolder(root=data_path, cache=cache).divide()
    assert unpacked.stat().st_mtime_ns == first.st_mtime_ns
    assert unpacked.stat().st_ino == first.st_ino
    write_split(data_path, "train", [0, 1], first=7)
    x.rename(tmp_path / "other.h5")
    zipped.write_bytes(gzip.compress((tmp_path / "other.h5").read_bytes()))
    assert contents(PatchFolder(root=data_path, cache=cache).divide().train) == [(7, 0), (8, 1)]
    assert len(list(cache.rglob("*.h5"))) == 1


@pytest.mark.parametrize("damage", ["truncated", "text", "garbled"])
def test_a_damaged_gzip_is_named_and_leaves_nothing(tmp_path: Path, damage: str) -> None:
    data_path, cache = tmp_path / "pcam", tmp_path / "cache"
    x, _ = write_split(data_path, "train", [0, 1])
    write_split(data_path, "valid", [1, 0], first=300)
    zipped = gzip_file(x)
    whole = bytearray(zipped.read_bytes())
    whole[60:80] = bytes(20)
    text = b"this is no gzip file" + bytes(4)
    short = zipped.read_bytes()[:-400] + bytes(4)
    zipped.write_bytes({"truncated": short, "text": text, "garbled": bytes(whole)}[damage])
    with pytest.raises(DataError, match=r"train_x\.h5\.gz is damaged"):
        PatchFolder(root=data_path, cache=cache).divide()
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_too_little_space_is_said_before_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_path, cache = tmp_path / "pcam", tmp_path / "cache"
    x, _ = write_split(data_path, "train", [0, 1])
    write_split(data_path, "valid", [1, 0], first=300)
    size = x.stat().st_size
    gzip_file(x)
    asked: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=size - 1)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(DataError, match=r"train_x\.h5\.gz needs 0\.0 GB.*--cache"):
        PatchFolder(root=data_path, cache=cache).divide()
    assert asked[0].is_relative_to(cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=size))
    assert len(PatchFolder(root=data_path, cache=cache).divide().train) == 2


def test_the_unpacked_size_of_a_large_file(tmp_path: Path) -> None:
    # Modulo 2^32 a file of 7.2 GB looks like one of 2.9: the zipped size tells them apart.
    size = 262_144 * 96 * 96 * 3
    path = tmp_path / "large.gz"
    with path.open("wb") as file:
        file.truncate(6_000_000_000)  # sparse
        file.seek(-4, 2)
        file.write((size % 2**32).to_bytes(4, "little"))
    assert unpacked_bytes(path) == size


def test_a_cache_that_is_a_file_is_refused(tmp_path: Path) -> None:
    x, _ = write_split(tmp_path / "pcam", "train", [0, 1])
    write_split(tmp_path / "pcam", "valid", [1, 0], first=300)
    gzip_file(x)
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be unpacked to .*--cache"):
        PatchFolder(root=tmp_path / "pcam", cache=tmp_path / "cache").divide()


def test_slides_of_the_official_files(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [0, 1, 1], slides=["s1", "s1", "s2"])
    write_split(tmp_path, "valid", [1, 0], first=300, slides=["s3", "s4"])
    data = PatchFolder(root=tmp_path).divide()
    assert data.train.slides == ("s1", "s1", "s2")
    assert data.valid.slides == ("s3", "s4")
    assert list(data.train.names) == ["train-0", "train-1", "train-2"]
    assert list(data.valid.names) == ["valid-0", "valid-1"]


def test_a_list_of_slides_of_another_length_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [0, 1, 1], slides=["s1", "s1"])
    write_split(tmp_path, "valid", [1, 0], first=300)
    with pytest.raises(DataError, match=r"train_meta\.csv has 2 lines for 3 patches"):
        PatchFolder(root=tmp_path).divide()


def test_the_official_test_set(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [0, 1, 1])
    write_split(tmp_path, "valid", [1, 0], first=300)
    _, y = write_split(tmp_path, "test", [1, 1, 0], first=600)
    data = PatchFolder(root=tmp_path).divide()
    assert data.test is not None
    assert contents(data.test) == [(600, 1), (601, 1), (602, 0)]
    y.unlink()
    assert PatchFolder(root=tmp_path).divide().test is None


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [0, 1])
    with pytest.raises(DataError, match=r"split_valid_x\.h5 is missing: get the official file"):
        PatchFolder(root=tmp_path).divide()


def test_labels_that_do_not_match_the_pixels_are_refused(tmp_path: Path) -> None:
    x, y = write_split(tmp_path, "train", [0, 1, 0])
    write_split(tmp_path, "valid", [0, 1])
    with h5py.File(y, "w") as file:
        file["y"] = np.zeros((4, 1, 1, 1), np.uint8)
    with pytest.raises(DataError, match=r"shape \(3, 96, 96, 3\) for 4 labels") as caught:
        PatchFolder(root=tmp_path).divide()
    assert x.name in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 96, 96), (3, 3, 96, 96), (3, 96, 96, 4)])
def test_pixels_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x, _ = write_split(tmp_path, "train", [0, 1, 0])
    write_split(tmp_path, "valid", [0, 1])
    with h5py.File(x, "w") as file:
        file["x"] = np.zeros(shape, np.uint8)
    with pytest.raises(DataError) as caught:
        PatchFolder(root=tmp_path).divide()
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("what", ["labels", "pixels", "both", "patch", "chunk"])
def test_claims_of_a_pcam_file_allocate_nothing(tmp_path: Path, what: str) -> None:
    root = tmp_path / "pcam"
    x, y = write_split(root, "train", [0, 1])
    write_split(root, "valid", [0, 1])
    many = 10**10
    with h5py.File(x, "a") as file:
        if what in ("pixels", "both"):
            del file["x"]
            file.create_dataset("x", (many, 96, 96, 3), "uint8", chunks=(1, 96, 96, 3))
        if what in ("patch", "chunk"):
            side = 40_000
            del file["x"]
            each = (1, side, side, 3) if what == "chunk" else (1, 96, 96, 3)
            file.create_dataset(
                "x", (2, side, side, 3), "uint8", chunks=tuple(np.minimum(each, 30_000))
            )
    if what in ("labels", "both"):
        with h5py.File(y, "a") as file:
            del file["y"]
            file.create_dataset("y", (many, 1, 1, 1), "uint8", chunks=(1000, 1, 1, 1))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"claims x of shape|for 10000000000 labels"):
            PatchFolder(root=root).divide()
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("damage", ["text", "other dataset"])
def test_a_file_that_is_not_pcam_is_refused(tmp_path: Path, damage: str) -> None:
    x, _ = write_split(tmp_path, "train", [0, 1])
    write_split(tmp_path, "valid", [0, 1])
    if damage == "text":
        x.write_text("this is not HDF5")
    else:
        with h5py.File(x, "w") as file:
            file["images"] = np.zeros((2, 96, 96, 3), np.uint8)
    with pytest.raises(DataError, match=r"train_x\.h5 is not a PCam file of pixels"):
        PatchFolder(root=tmp_path).divide()


def test_a_damaged_patch_is_named_on_reading(tmp_path: Path) -> None:
    x = tmp_path / "x.h5"
    noise = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    with h5py.File(x, "w") as file:
        data = file.create_dataset("x", data=noise, chunks=(1, 96, 96, 3), compression="gzip")
        chunk = data.id.get_chunk_info(2)
    content = bytearray(x.read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    content[middle : middle + 200] = bytes(200)
    x.write_bytes(content)
    patches = Hdf5Patches(Hdf5Pixels(x), np.zeros(4, np.int64))
    assert np.array_equal(patches.read(1), noise[1])
    with pytest.raises(DataError, match=r"x\.h5 cannot be read at patch 2"):
        patches.read(2)
    assert np.array_equal(patches.read(3), noise[3])


def read_all(patches: PatchSet) -> list[int]:
    return [number_of(patches.read(i)) for i in range(len(patches))]


def test_an_open_set_survives_pickling(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [0, 1, 1])
    write_split(tmp_path, "valid", [0, 1], first=300)
    train = PatchFolder(root=tmp_path).divide().train
    assert read_all(train) == [0, 1, 2]  # now the handle is open
    copy = pickle.loads(pickle.dumps(train))
    assert read_all(copy) == [0, 1, 2]
    assert copy.labels.tolist() == [0, 1, 1]
    assert read_all(train) == [0, 1, 2]


def test_an_open_set_is_read_in_a_worker_process(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [0, 1, 1])
    write_split(tmp_path, "valid", [0, 1], first=300)
    train = PatchFolder(root=tmp_path).divide().train
    assert read_all(train) == [0, 1, 2]
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        assert pool.apply(read_all, (train,)) == [0, 1, 2]
    assert read_all(train) == [0, 1, 2]


def test_joined_and_subset(tmp_path: Path) -> None:
    write_images(tmp_path / "one", range(3))
    write_images(tmp_path / "two", range(10, 14))
    one, two = (
        ImageFiles(tuple(sorted((tmp_path / name).iterdir())), np.array(labels))
        for name, labels in (("one", [0, 1, 0]), ("two", [1, 1, 0, 0]))
    )
    joined = Joined((one, two))
    assert contents(joined) == [(0, 0), (1, 1), (2, 0), (10, 1), (11, 1), (12, 0), (13, 0)]
    assert joined.names[3] == "p0010"
    chosen = Subset(joined, np.array([5, 1, 3]))
    assert contents(chosen) == [(12, 0), (1, 1), (10, 1)]
    assert list(chosen.names) == ["p0012", "p0001", "p0010"]
    with pytest.raises(IndexError):
        joined.read(7)


def test_an_open_set_is_read_by_many_threads(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [0, 1] * 100)
    write_split(tmp_path, "valid", [0, 1], first=300)
    train = PatchFolder(root=tmp_path).divide().train
    assert number_of(train.read(5)) == 5  # this thread has its handle open now
    order = [i * 7 % 200 for i in range(1000)]
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda index: number_of(train.read(index)), order))
    assert numbers == order


def test_a_folder_beside_the_parts_is_left_alone_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for first, folder in enumerate(("train/a", "train/b", "valid/a", "valid/b", "thumbnails")):
        write_images(tmp_path / folder, range(first * 10, first * 10 + 2))
    assert PatchFolder(root=tmp_path).divide().classes == ("a", "b")
    assert "beside its parts, they are left alone: thumbnails" in caplog.text
