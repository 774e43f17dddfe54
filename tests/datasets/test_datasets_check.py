"""The check counts what is there, names what is wrong with it, and changes nothing."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from patch_files import gzip_file, pixels_of, write_images, write_kaggle, write_split
from PIL import Image

from histoslide.datasets import PatchFolder, Split, pcam_hdf5
from histoslide.errors import DataError


def test_a_good_set(tmp_path: Path) -> None:
    for first, part in enumerate(("train", "valid")):
        write_images(tmp_path / part / "normal", range(first * 100, first * 100 + 3))
        write_images(tmp_path / part / "tumour", range(first * 100 + 50, first * 100 + 52))
    seen: list[tuple[int, int]] = []
    report = PatchFolder(root=tmp_path).check(
        on_patches=lambda done, total: seen.append((done, total))
    )
    assert report.problems == ()
    assert seen[-1] == (10, 10)
    found = json.loads(json.dumps(report.as_dict()))
    assert found["layout"] == "folders"
    assert found["parts"]["train"] == {
        "patches": 5,
        "classes": {"normal": 3, "tumour": 2},
        "slides": None,
        "sizes_px": [{"height": 8, "width": 8, "patches": 5}],
        "unreadable": [],
        "wrong_size": [],
        "duplicate_groups": 0,
        "duplicate_patches": 0,
    }
    assert found["expected_px"] == [8, 8]
    assert found["duplicates"] == {"groups": 0, "across": {}}
    assert found["split"] == {
        "kind": "official",
        "parts": {"train": {"normal": 3, "tumour": 2}, "valid": {"normal": 3, "tumour": 2}},
        "left_out": {},
    }
    text = str(report)
    assert "train: 5 patches: 3 normal (60.0 %), 2 tumour (40.0 %)" in text
    assert "problems: none" in text


def test_everything_that_is_wrong_with_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "a", range(6))
    write_images(tmp_path / "train" / "b", range(10, 16))
    write_images(tmp_path / "valid" / "a", range(20, 23))
    write_images(tmp_path / "valid" / "b", range(30, 33))

    def put(number: int, place: str, side_px: int = 8) -> None:
        Image.fromarray(pixels_of(number, side_px)).save(tmp_path / place)

    (tmp_path / "train" / "a" / "broken.png").write_bytes(b"nothing")
    put(60, "train/a/large.png", side_px=9)
    put(0, "train/a/copy.png")  # of train/a/p0000
    put(0, "train/a/copy2.png")
    put(30, "train/b/leak.png")  # of valid/b/p0030
    put(31, "train/a/contrary.png")  # of valid/b/p0031, with another label
    report = PatchFolder(root=tmp_path).check()
    train, valid = report.parts
    assert (train.patches, valid.patches) == (18, 6)
    assert train.sizes_px == {(8, 8): 16, (9, 9): 1}
    assert train.wrong_size == ("large",)
    assert len(train.unreadable) == 1
    assert "broken.png cannot be read as an image" in train.unreadable[0]
    assert (train.duplicate_groups, train.duplicate_patches) == (1, 2)
    assert (valid.duplicate_groups, valid.duplicate_patches) == (0, 0)
    assert report.duplicate_groups == 3
    assert report.across == {"train & valid": 2}
    assert report.conflicts == (("contrary", "p0031"),)
    assert report.split is not None
    # The large patch is readable and no side was asked for: training would meet it.
    assert report.split["left_out"] == {"unreadable": 1, "duplicate": 2}
    text = "\n".join(report.problems)
    assert "1 of 18 train patches are not 8×8 px, the first is large" in text
    assert "equal patches with different labels: contrary = p0031" in text
    assert len(report.problems) == 3
    assert "equal patches: 3 groups; groups in two parts: train & valid: 2" in str(report)


def test_two_unreadable_patches_are_no_duplicates(tmp_path: Path) -> None:
    write_images(tmp_path / "a", range(5))
    write_images(tmp_path / "b", range(10, 15))
    for name in ("x", "y"):
        (tmp_path / "a" / f"{name}.png").write_bytes(b"nothing")
    report = PatchFolder(root=tmp_path).check(Split(fraction=0.5))
    assert report.duplicate_groups == 0
    assert report.conflicts == ()
    assert len(report.parts[0].unreadable) == 2


def test_an_asked_for_size(tmp_path: Path) -> None:
    write_images(tmp_path / "a", range(5))
    write_images(tmp_path / "b", range(10, 15))
    report = PatchFolder(root=tmp_path, patch_px=96).check()
    assert len(report.parts[0].wrong_size) == 10
    assert report.split_error is not None
    assert "empty" in report.split_error
    assert len(report.problems) == 2
    assert report.as_dict()["split"] is None


def test_many_problems_are_counted_not_all_shown(tmp_path: Path) -> None:
    write_images(tmp_path / "a", range(5))
    write_images(tmp_path / "b", range(10, 15))
    for number in range(25):
        (tmp_path / "a" / f"bad{number}.png").write_bytes(b"nothing")
    report = PatchFolder(root=tmp_path).check(Split(fraction=0.5))
    assert len(report.problems) == 25
    assert "and 15 more" in str(report)


def test_a_single_class_is_a_problem_not_an_error(tmp_path: Path) -> None:
    write_images(tmp_path / "tumour", range(9))
    report = PatchFolder(root=tmp_path).check(Split(fraction=0.3))
    assert report.split_error is not None
    assert "only class 'tumour'" in report.split_error


def write_named_by_pixels(root: Path, count: int) -> list[str]:
    (root / "train").mkdir(parents=True)
    names = []
    for number in range(count):
        pixels = pixels_of(number, 96)
        names.append(hashlib.sha1(pixels.tobytes()).hexdigest())
        Image.fromarray(pixels).save(root / "train" / f"{names[-1]}.tif")
    rows = [f"{name},{number % 2}" for number, name in enumerate(names)]
    (root / "train_labels.csv").write_text("\n".join(["id,label", *rows]) + "\n")
    return names


def test_kaggle_ids_are_verified_on_request(tmp_path: Path) -> None:
    names = write_named_by_pixels(tmp_path, 10)
    report = PatchFolder(root=tmp_path).check(Split(fraction=0.4))
    assert report.ids_checked is None
    report = PatchFolder(root=tmp_path).check(Split(fraction=0.4), verify=True)
    assert (report.ids_checked, report.wrong_ids, report.problems) == (10, (), ())
    Image.fromarray(pixels_of(99, 96)).save(tmp_path / "train" / f"{names[3]}.tif")
    report = PatchFolder(root=tmp_path).check(Split(fraction=0.4), verify=True)
    assert report.wrong_ids == (names[3],)
    assert report.problems == (f"{names[3]} is not the SHA-1 of its pixels",)
    assert report.md5 is None


def test_kaggle_strangers_and_the_unlabelled_test_set(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [0, 1] * 5)
    write_images(tmp_path / "test", range(3, 6), ".tif")  # the pixels of three training patches
    write_images(tmp_path / "train", range(70, 72), ".tif")
    (tmp_path / "train" / "p0001.tif").unlink()
    report = PatchFolder(root=tmp_path).check(Split(fraction=0.4), verify=True)
    assert [(part.name, part.patches) for part in report.parts] == [("all", 9), ("unlabelled", 3)]
    assert report.parts[1].classes == {}
    assert report.across == {"all & unlabelled": 3}
    assert len(report.strangers) == 2
    assert report.ids_checked is None  # the names are no SHA-1
    assert report.problems == report.strangers


def test_md5_of_official_files_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "valid"):
        x, _ = write_split(tmp_path, split, [0, 1, 1], first=300 * (split == "valid"))
        zipped = gzip_file(x)
        digest = hashlib.md5(zipped.read_bytes()).hexdigest()
        monkeypatch.setitem(pcam_hdf5.OFFICIAL_MD5, zipped.name, digest)
    cache = tmp_path / "cache"
    assert PatchFolder(root=tmp_path, cache=cache).check().md5 is None
    report = PatchFolder(root=tmp_path, cache=cache).check(verify=True)
    assert report.md5 == {
        "camelyonpatch_level_2_split_train_x.h5.gz": True,
        "camelyonpatch_level_2_split_valid_x.h5.gz": True,
    }
    assert report.problems == ()
    assert "2 of 2 as published" in str(report)
    monkeypatch.setitem(pcam_hdf5.OFFICIAL_MD5, zipped.name, "0" * 32)
    report = PatchFolder(root=tmp_path, cache=cache).check(verify=True)
    assert report.problems == (
        f"{zipped.name} does not have the published MD5: get the official file again",
    )


def test_a_check_reads_anew_and_training_reuses_it(tmp_path: Path) -> None:
    write_images(tmp_path / "a", range(5))
    write_images(tmp_path / "b", range(10, 15))
    split = Split(fraction=0.5)
    PatchFolder(root=tmp_path).check(split)
    path = tmp_path / "a" / "p0002.png"
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255  # the same size and time: only reading can tell
    path.write_bytes(content)
    import os

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    report = PatchFolder(root=tmp_path).check(split)
    assert len(report.parts[0].unreadable) == 1


def test_what_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no known layout"):
        PatchFolder(root=tmp_path).check(verify=True)
    with pytest.raises(DataError, match="is not a folder"):
        PatchFolder(root=tmp_path / "nowhere").check(verify=True)


def test_the_real_kaggle_sample(real_data: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(real_data / "kaggle-sample.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    report = PatchFolder(root=tmp_path / "kaggle-sample", patch_px=96).check(verify=True)
    assert report.problems == ()
    assert report.ids_checked == 859
    assert [part.patches for part in report.parts] == [798, 61]
    assert np.array_equal(list(report.parts[0].classes.values()), [506, 292])
