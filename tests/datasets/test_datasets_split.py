"""Splits are what they say, repeat, and never leak: by slide, by pixels, by name."""

import csv
import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patch_files import contents, pixels_of, write_images, write_kaggle, write_split
from PIL import Image

from histoslide.datasets import PatchData, PatchFolder, PatchSet, Split, open_unlabelled, save_split
from histoslide.datasets.scan import group_equal
from histoslide.datasets.split import last_indices, random_indices, slide_indices
from histoslide.errors import DataError, OutputExistsError


def names_of(data: PatchData) -> tuple[list[str], list[str]]:
    return list(data.train.names), list(data.valid.names)


def write_two(root: Path, count: int = 10) -> None:
    write_images(root / "a", range(count))
    write_images(root / "b", range(100, 100 + count))


# --- which patches --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "fraction", "seed"), [(798, 0.2, 42), (11, 0.3, 7), (50, 0.05, 0)]
)
def test_a_random_split_is_that_of_fastai(count: int, fraction: float, seed: int) -> None:
    from fastai.data.transforms import RandomSplitter

    train, valid = RandomSplitter(valid_pct=fraction, seed=seed)(range(count))
    ours = random_indices(count, fraction, seed)
    assert ours.tolist() == [int(i) for i in valid]
    assert sorted({*range(count)} - set(ours.tolist())) == sorted(int(i) for i in train)


def test_a_random_split_leaves_the_global_generator_alone() -> None:
    import torch

    torch.manual_seed(3)
    expected = torch.rand(2).tolist()
    torch.manual_seed(3)
    random_indices(100, 0.2, 42)
    assert torch.rand(2).tolist() == expected


def test_open_patches_holds_back_what_fastai_would(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [0, 1] * 15)
    data = PatchFolder(root=tmp_path).divide(Split(kind="random", fraction=0.2, seed=42))
    held = random_indices(30, 0.2, 42)
    assert [number for number, _ in contents(data.valid)] == sorted(held.tolist())
    assert len(data.train) == 24
    assert data.split == Split(kind="random", fraction=0.2, seed=42)


def test_the_last_of_the_list() -> None:
    assert last_indices(798, 0.1).tolist() == list(range(718, 798))


@given(
    # Ten slides, each with patches of both classes, so that any of them can be spared.
    extra=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), max_size=60),
    fraction=st.floats(0.01, 0.8),
    seed=st.integers(0, 5),
)
def test_slides_are_held_back_whole(
    extra: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    drawn = [*((slide, label) for slide in range(10) for label in (0, 1)), *extra]
    slides = [f"s{slide}" for slide, _ in drawn]
    labels = np.array([label for _, label in drawn])
    held = slide_indices(slides, labels, fraction, seed)
    held_slides = {slides[i] for i in held}
    assert held.tolist() == [i for i, slide in enumerate(slides) if slide in held_slides]
    assert 0 < len(held_slides) < 10
    assert len(held) >= fraction * len(slides) or len(held_slides) == 9
    # No more than needed: without some one of them there would be too few.
    largest = max(slides.count(slide) for slide in held_slides)
    assert len(held) - largest < fraction * len(slides)


@pytest.mark.parametrize("seed", range(8))
def test_training_keeps_every_class_and_validation_gets_it(seed: int) -> None:
    # Slides 0 to 5 are normal, 6 and 7 have the only tumour: one of them must go, one must stay.
    slides = [f"s{i // 10}" for i in range(80)]
    labels = np.array([1 if i >= 60 and i % 10 == 0 else 0 for i in range(80)])
    held = slide_indices(slides, labels, 0.2, seed)
    assert labels[held].sum() == 1
    assert len(held) in (20, 30)


def test_no_more_slides_are_held_back_than_needed() -> None:
    slides = [f"s{i // 10}" for i in range(200)]
    held = slide_indices(slides, np.arange(200) % 2, 0.1, 42)
    assert len(held) == 20
    assert len({slides[i] for i in held}) == 2
    assert len({tuple(slide_indices(slides, np.arange(200) % 2, 0.1, s)) for s in range(5)}) > 1


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [0, 0, 0, 0]])
def test_one_slide_cannot_be_split(labels: list[int]) -> None:
    with pytest.raises(DataError, match=r"none of 1 slides \(the first is s\) .*--split random"):
        slide_indices(["s"] * 4, np.array(labels), 0.5, 0)


def test_a_class_a_slide_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"none of 2 slides \(the first is s\) can be held back"):
        slide_indices(["s", "s", "t", "t"], np.array([0, 0, 1, 1]), 0.5, 0)


# --- the value ------------------------------------------------------------------------------------


def test_splits_from_what_a_user_types(tmp_path: Path) -> None:
    file = tmp_path / "split.csv"
    file.write_text("name,part\n")
    assert Split.parse("last", fraction=0.1, seed=3) == Split(kind="last", fraction=0.1, seed=3)
    assert Split.parse(str(file)).kind == "file"
    assert Split.parse(str(file)).as_dict() == {"kind": "file", "file": "split.csv"}
    assert Split(kind="last").as_dict() == {"kind": "last", "fraction": 0.05}
    assert Split(kind="official").as_dict() == {"kind": "official"}
    with pytest.raises(DataError, match=r"'nowhere\.csv' is no split: choose auto, official"):
        Split.parse("nowhere.csv")
    with pytest.raises(DataError, match="is no split"):
        Split(kind="file")
    with pytest.raises(DataError, match="'patient' is no kind of split"):
        Split(kind="patient")  # type: ignore[arg-type]


# --- what is taken by default ---------------------------------------------------------------------


def test_default_splits(tmp_path: Path) -> None:
    write_split(tmp_path / "h", "train", [0, 1, 1, 0], slides=["s", "s", "t", "t"])
    write_split(tmp_path / "h", "valid", [1, 0], first=300)
    write_kaggle(tmp_path / "k", [0, 1] * 10)
    write_two(tmp_path / "f")
    half = Split(fraction=0.5)
    kinds = [PatchFolder(root=tmp_path / name).divide(half).split for name in "hkf"]
    assert [split.kind for split in kinds if split] == ["official", "last", "random"]
    slides = tmp_path / "slides.csv"
    rows = [f"p{i:04},s{i % 4 // 2}" for i in range(20)]
    slides.write_text("\n".join(["name,slide", *rows]))
    data = PatchFolder(root=tmp_path / "k", slides=slides).divide(half)
    assert data.split is not None
    assert data.split.kind == "slide"
    assert not set(data.train.slides or ()) & set(data.valid.slides or ())
    assert {*(data.train.slides or ()), *(data.valid.slides or ())} == {"s0", "s1"}
    assert dict(zip(data.valid.names, data.valid.slides or (), strict=True)) == {
        f"p{i:04}": f"s{i % 4 // 2}" for i in range(20) if f"p{i:04}" in data.valid.names
    }


def test_splits_that_the_data_cannot_have(tmp_path: Path) -> None:
    write_two(tmp_path / "f")
    with pytest.raises(DataError, match=r"brings no training and validation set of its own"):
        PatchFolder(root=tmp_path / "f").divide(Split(kind="official"))
    with pytest.raises(DataError, match=r"slides of the patches in .* unknown: .*--slides FILE"):
        PatchFolder(root=tmp_path / "f").divide(Split(kind="slide"))


def test_an_official_split_can_be_divided_anew_but_its_test_set_stays(tmp_path: Path) -> None:
    for first, (split, slides) in enumerate(
        [("train", "aabbccdd"), ("valid", "eeff"), ("test", "gg")]
    ):
        labels = [i % 2 for i in range(len(slides))]
        write_split(tmp_path, split, labels, first=300 * first, slides=list(slides))
    data = PatchFolder(root=tmp_path).divide(Split(kind="slide", fraction=0.4))
    assert data.test is not None
    assert [number for number, _ in contents(data.test)] == [600, 601]
    assert not set(data.train.slides or ()) & set(data.valid.slides or ())
    assert {*(data.train.slides or ()), *(data.valid.slides or ())} == set("abcdef")
    assert len(data.train) + len(data.valid) == 12
    assert data.valid.names != tuple(f"valid-{i}" for i in range(4))


def test_missing_official_validation_files_can_be_done_without(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [0, 1] * 10)
    data = PatchFolder(root=tmp_path).divide(Split(kind="random", fraction=0.4))
    assert len(data.valid) == 8


def test_extra_patches_are_never_held_back(tmp_path: Path) -> None:
    write_two(tmp_path / "own")
    write_images(tmp_path / "more" / "b", range(200, 260))
    data = PatchFolder(root=tmp_path / "own", extra=(tmp_path / "more",)).divide(
        Split(kind="random", fraction=0.4)
    )
    assert len(data.valid) == 8
    assert all(number < 200 for number, _ in contents(data.valid))
    assert sum(number >= 200 for number, _ in contents(data.train)) == 60


def test_extra_patches_of_validation_slides_are_left_out(tmp_path: Path) -> None:
    write_two(tmp_path / "own")
    write_images(tmp_path / "more" / "b", range(200, 220))
    everything = [*range(10), *range(100, 110), *range(200, 220)]
    slides = {f"p{i:04}": f"s{i % 4}" for i in everything}
    table = tmp_path / "slides.csv"
    table.write_text("\n".join(["id,wsi", *(f"{n}.PNG,{s}" for n, s in slides.items())]))
    split = Split(kind="slide", fraction=0.4)
    data = PatchFolder(root=tmp_path / "own", extra=(tmp_path / "more",), slides=table).divide(
        split
    )
    held = set(data.valid.slides or ())
    assert not set(data.train.slides or ()) & held
    assert set(data.left_out.values()) == {"slide"}
    assert sorted(data.left_out) == [n for n in slides if n >= "p0200" and slides[n] in held]


def write_test_slides(root: Path, tested: str) -> Path:
    """Slides a-d below ``train/``, those of ``tested`` below ``test/`` too; the table of slides."""
    rows = ["name,slide"]
    for first, (part, slides) in enumerate((("train", "abcd"), ("test", tested), ("more", "ax"))):
        for label in (0, 1):
            numbers = [1000 * first + 100 * label + i for i in range(len(slides))]
            write_images(root / part / str(label), numbers)
            rows += [f"p{n:04},{slide}" for n, slide in zip(numbers, slides, strict=True)]
    (root / "slides.csv").write_text("\n".join(rows))
    return root / "slides.csv"


@pytest.mark.parametrize("seed", range(4))
def test_nothing_of_a_test_slide_is_trained_on(seed: int, tmp_path: Path) -> None:
    table = write_test_slides(tmp_path, "ab")
    split = Split(kind="slide", fraction=0.2, seed=seed)
    data = PatchFolder(root=tmp_path, extra=(tmp_path / "more",), slides=table).divide(split)
    assert data.test is not None
    assert set(data.test.slides or ()) == {"a", "b"}
    parts = [set(part.slides or ()) for part in (data.train, data.valid)]
    assert sorted(map(sorted, parts)) in ([["c"], ["d", "x"]], [["c", "x"], ["d"]])
    assert "x" in parts[0]
    save_split(data, tmp_path / "split.csv")
    left_out = [f"p{n:04}" for n in (0, 1, 100, 101, 2000, 2100)]
    assert data.left_out == dict.fromkeys(left_out, "slide")
    with (tmp_path / "split.csv").open() as file:
        assert sorted(r["name"] for r in csv.DictReader(file) if r["part"] == "slide") == left_out


def test_a_test_set_of_all_slides_leaves_nothing(tmp_path: Path) -> None:
    table = write_test_slides(tmp_path, "abcd")
    with pytest.raises(DataError, match=r"all slides of .* test set too.*: choose --split random"):
        PatchFolder(root=tmp_path, slides=table).divide(Split(kind="slide"))


def test_slides_shared_with_the_test_set_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = write_test_slides(tmp_path, "ab")
    PatchFolder(root=tmp_path, slides=table).divide(Split(kind="random", fraction=0.5, seed=1))
    assert "training and test set share 2 slides" in caplog.text
    caplog.clear()
    PatchFolder(root=tmp_path, slides=table).divide(Split(kind="slide", fraction=0.2))
    assert "share" not in caplog.text


def test_shared_slides_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_kaggle(tmp_path, [0, 1] * 10)
    slides = tmp_path / "slides.csv"
    slides.write_text("\n".join(["name,slide", *(f"p{i:04},s{i % 4}" for i in range(20))]))
    PatchFolder(root=tmp_path, slides=slides).divide(Split(kind="last", fraction=0.3))
    assert "training and validation share 4 slides" in caplog.text
    caplog.clear()
    PatchFolder(root=tmp_path, slides=slides).divide(Split(kind="slide", fraction=0.3))
    assert "share" not in caplog.text


def test_a_slide_table_must_know_every_patch(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [0, 1] * 4)
    slides = tmp_path / "slides.csv"
    slides.write_text("name,slide\np0000,s\np0001.tif,s\nstranger,t\n")
    with pytest.raises(DataError, match=r"no slide for 6 of 8 patches, the first is p0002"):
        PatchFolder(root=tmp_path, slides=slides).divide()
    slides.write_text("name,slide\np0000,s\np0000,t\n")
    with pytest.raises(DataError, match="gives p0000 both as 's' and as 't'"):
        PatchFolder(root=tmp_path, slides=slides).divide()
    slides.write_text("name,slide\np0000,\n")
    with pytest.raises(DataError, match=r"no slide for 'p0000' \(line 2\)"):
        PatchFolder(root=tmp_path, slides=slides).divide()
    slides.write_text("patch,slide\np0000,s\n")
    with pytest.raises(DataError, match="expected name,slide"):
        PatchFolder(root=tmp_path, slides=slides).divide()


# --- duplicates -----------------------------------------------------------------------------------


def digests_do_not_straddle(data: PatchData) -> bool:
    train = {number for number, _ in contents(data.train)}
    held = {number for number, _ in contents(data.valid)}
    if data.test is not None:
        held |= {number for number, _ in contents(data.test)}
    return not train & held


def write_copies(root: Path) -> None:
    """Twenty different patches, each twice, under other names and in another file format."""
    for number in range(20):
        folder = root / ("a" if number < 10 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels_of(number)).save(folder / f"one{number}.png")
        Image.fromarray(pixels_of(number)).save(folder / f"two{number}.bmp")


def test_copies_never_straddle_a_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_copies(tmp_path)
    split = Split(kind="random", fraction=0.3, seed=1)
    with caplog.at_level(logging.INFO):
        data = PatchFolder(root=tmp_path).divide(split)
    kept = PatchFolder(root=tmp_path).divide(split, duplicates="keep")
    assert not digests_do_not_straddle(kept)
    assert digests_do_not_straddle(data)
    assert data.valid.names == kept.valid.names
    dropped = set(kept.train.names) - set(data.train.names)
    assert dropped
    assert data.left_out == dict.fromkeys(sorted(dropped, key=kept.train.names.index), "duplicate")
    assert f"{len(dropped)} training patches also occur in validation" in caplog.text
    # Copies inside training stay: only what validation holds is left out.
    numbers = [number for number, _ in contents(data.train)]
    assert len(numbers) > len(set(numbers))


def test_an_official_validation_and_test_set_stay_as_they_are(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [0, 1, 0, 1, 0, 1])
    write_split(tmp_path, "valid", [1, 0, 0], first=5)  # 5 is in training too
    write_split(tmp_path, "test", [1, 0, 1], first=2)  # 2, 3 and 4 are in training too
    data = PatchFolder(root=tmp_path).divide()
    assert [number for number, _ in contents(data.train)] == [0, 1]
    assert [number for number, _ in contents(data.valid)] == [5, 6, 7]
    assert data.test is not None
    assert [number for number, _ in contents(data.test)] == [2, 3, 4]
    assert data.left_out == dict.fromkeys(["train-2", "train-3", "train-4", "train-5"], "duplicate")


def test_equal_patches_with_different_labels_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_two(tmp_path)
    Image.fromarray(pixels_of(4)).save(tmp_path / "b" / "again.png")
    PatchFolder(root=tmp_path).divide(Split(fraction=0.5))
    assert "1 groups of equal patches have different labels" in caplog.text
    assert "p0004 = again" in caplog.text or "again = p0004" in caplog.text


def test_kaggle_ids_stand_for_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_kaggle(tmp_path, [0, 1] * 4)
    table = tmp_path / "train_labels.csv"
    text = table.read_text()
    for i in range(8):
        (tmp_path / "train" / f"p{i:04}.tif").rename(tmp_path / "train" / f"{i:040x}.tif")
        text = text.replace(f"p{i:04}", f"{i:040x}")
    table.write_text(text)

    def read(self: PatchSet, index: int) -> None:
        raise AssertionError("pixels are read although the ids tell")

    monkeypatch.setattr("histoslide.datasets.patches.ImageFiles.read", read)
    data = PatchFolder(root=tmp_path).divide(Split(fraction=0.5))
    assert len(data.train) == 4


def test_what_was_read_is_remembered_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = tmp_path / "data", tmp_path / "cache"
    write_two(root)
    seen: list[tuple[int, int]] = []

    def on_patches(done: int, total: int) -> None:
        seen.append((done, total))

    split = Split(fraction=0.5)
    PatchFolder(root=root, cache=cache).divide(split, on_patches=on_patches)
    assert seen[-1] == (20, 20)
    seen.clear()
    PatchFolder(root=root, cache=cache).divide(split, on_patches=on_patches)
    assert seen == []
    Image.fromarray(pixels_of(500, 9)).save(root / "a" / "p0003.png")
    PatchFolder(root=root, cache=cache).divide(split, on_patches=on_patches)
    assert seen[-1] == (20, 20)
    for kept in cache.rglob("*.npz"):
        kept.write_bytes(b"damaged")
    seen.clear()
    PatchFolder(root=root, cache=cache).divide(split, on_patches=on_patches)
    assert seen[-1] == (20, 20)


def test_digests_that_end_in_zeros_are_told_apart() -> None:
    digests = np.zeros((4, 20), np.uint8)
    digests[1, 0] = digests[2, 19] = digests[3, 0] = 1
    assert group_equal(digests)[[1, 3]].tolist() == [group_equal(digests)[1]] * 2
    assert len(set(group_equal(digests).tolist())) == 3


# --- saved splits ---------------------------------------------------------------------------------


def test_a_saved_split_gives_the_same_parts(tmp_path: Path) -> None:
    write_copies(tmp_path / "data")
    data = PatchFolder(root=tmp_path / "data").divide(Split(kind="random", fraction=0.5, seed=1))
    save_split(data, tmp_path / "split.csv")
    with (tmp_path / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert {row["part"] for row in rows} == {"train", "valid", "duplicate"}
    again = PatchFolder(root=tmp_path / "data").divide(Split.parse(str(tmp_path / "split.csv")))
    assert names_of(again) == names_of(data)
    assert contents(again.valid) == contents(data.valid)
    assert again.left_out == data.left_out
    with pytest.raises(OutputExistsError):
        save_split(data, tmp_path / "split.csv")
    save_split(again, tmp_path / "split.csv", overwrite=True)


def test_a_saved_split_tells_slides_and_the_test_set(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [0, 1], slides=["s", "t"])
    write_split(tmp_path, "valid", [0, 1], first=300, slides=["u", "v"])
    write_split(tmp_path, "test", [1], first=600, slides=["w"])
    save_split(PatchFolder(root=tmp_path).divide(), tmp_path / "split.csv")
    assert (tmp_path / "split.csv").read_text().splitlines() == [
        "name,part,slide",
        *("train-0,train,s", "train-1,train,t", "valid-0,valid,u", "valid-1,valid,v"),
        "test-0,test,w",
    ]


def test_a_split_by_hand_may_make_a_test_set(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [0, 1, 0, 1, 0, 1])
    parts = ["train", "train", "valid", "valid", "test", "test"]
    table = tmp_path / "split.csv"
    table.write_text("\n".join(["id,part", *(f"p{i:04},{part}" for i, part in enumerate(parts))]))
    data = PatchFolder(root=tmp_path).divide(Split.parse(str(table)))
    assert data.test is not None
    assert [number for number, _ in contents(data.test)] == [4, 5]
    found, classes = PatchFolder(root=tmp_path).part("test", split=Split.parse(str(table)))
    assert contents(found) == [(4, 0), (5, 1)]
    assert classes == ("normal", "tumour")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["p0000,train"] * 2, r"lacks 3 of 4 patches, the first is p0001"),
        ([f"p{i:04},train" for i in range(5)], r"names 1 patches that the data lack.*p0004"),
        ([f"p{i:04},maybe" for i in range(4)], r"gives p0000 the part 'maybe'"),
        (["p0000,train", "p0000,valid"], r"gives p0000 both as 'train' and as 'valid'"),
    ],
)
def test_a_split_of_other_patches_is_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    write_kaggle(tmp_path, [0, 1] * 2)
    table = tmp_path / "split.csv"
    table.write_text("\n".join(["name,part", *rows]))
    with pytest.raises(DataError, match=message):
        PatchFolder(root=tmp_path).divide(Split.parse(str(table)))


# --- parts to judge on, and patches to predict ----------------------------------------------------


def test_parts_of_official_files(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [0, 1, 1])
    write_split(tmp_path, "valid", [1, 0], first=300)
    write_split(tmp_path, "test", [1], first=600)
    found = {
        part: contents(PatchFolder(root=tmp_path).part(part)[0])
        for part in ("train", "valid", "test")
    }
    assert found == {
        "train": [(0, 0), (1, 1), (2, 1)],
        "valid": [(300, 1), (301, 0)],
        "test": [(600, 1)],
    }
    assert contents(PatchFolder(root=tmp_path).part()[0]) == found["valid"]
    assert contents(PatchFolder(root=tmp_path).part("all")[0]) == [
        *found["train"],
        *found["valid"],
        (600, 1),
    ]


def test_only_the_wanted_official_files_are_needed(tmp_path: Path) -> None:
    write_split(tmp_path, "test", [1, 0], first=600)
    assert contents(PatchFolder(root=tmp_path).part("test")[0]) == [(600, 1), (601, 0)]
    with pytest.raises(DataError, match=r"valid_x\.h5 is missing"):
        PatchFolder(root=tmp_path).part("valid")


def test_parts_of_folders(tmp_path: Path) -> None:
    for first, part in enumerate(("Train", "VAL", "test")):
        write_images(tmp_path / part / "a", range(first * 20, first * 20 + 2), ".TIF")
        write_images(tmp_path / part / "b", range(first * 20 + 10, first * 20 + 12))
    (tmp_path / ".git").mkdir()
    Image.fromarray(pixels_of(1)).save(tmp_path / ".git" / "x.png")
    data = PatchFolder(root=tmp_path).divide()
    assert data.test is not None
    assert contents(data.test) == [(40, 0), (41, 0), (50, 1), (51, 1)]
    assert contents(PatchFolder(root=tmp_path).part("test")[0]) == contents(data.test)
    assert contents(PatchFolder(root=tmp_path).part()[0]) == contents(data.valid)
    assert PatchFolder(root=tmp_path).part()[1] == ("a", "b")
    with pytest.raises(DataError, match="no part 'exam'"):
        PatchFolder(root=tmp_path).part("exam")  # type: ignore[arg-type]


def test_a_plain_folder_is_one_part(tmp_path: Path) -> None:
    write_two(tmp_path, 3)
    found, classes = PatchFolder(root=tmp_path).part()
    assert contents(found) == contents(PatchFolder(root=tmp_path).part("all")[0])
    assert contents(found) == [(0, 0), (1, 0), (2, 0), (100, 1), (101, 1), (102, 1)]
    assert classes == ("a", "b")
    with pytest.raises(DataError, match=r"no labelled part 'valid': take --part all"):
        PatchFolder(root=tmp_path).part("valid")
    split = Split(kind="random", fraction=0.5)
    assert contents(PatchFolder(root=tmp_path).part("valid", split=split)[0]) == contents(
        PatchFolder(root=tmp_path).divide(split).valid
    )


def test_the_split_of_a_run_with_extra_folders_is_judged_with_them(tmp_path: Path) -> None:
    own, more = tmp_path / "own", tmp_path / "more"
    write_two(own)
    write_images(more / "b", range(200, 204))
    data = PatchFolder(root=own, extra=(more,)).divide(Split(kind="random", fraction=0.3))
    save_split(data, tmp_path / "split.csv")
    split = Split.parse(str(tmp_path / "split.csv"))
    with pytest.raises(DataError, match="give the data, --extra and"):
        PatchFolder(root=own).part("valid", split=split)
    for part, patches in (("valid", data.valid), ("train", data.train)):
        found, _ = PatchFolder(root=own, extra=(more,)).part(part, split=split)  # type: ignore[arg-type]
        assert contents(found) == contents(patches)
    everything = contents(PatchFolder(root=own, extra=(more,)).part()[0])
    assert sorted(everything) == sorted(contents(data.train) + contents(data.valid))
    with pytest.raises(DataError, match="no labelled part 'train'"):
        PatchFolder(root=own, extra=(more,)).part("train")


def test_extra_folders_are_of_the_part_to_train_on(tmp_path: Path) -> None:
    write_two(tmp_path / "own" / "train", 2)
    write_images(tmp_path / "own" / "valid" / "a", range(50, 52))
    write_images(tmp_path / "more" / "b", range(200, 202))
    extra = (tmp_path / "more",)
    train = [(0, 0), (1, 0), (100, 1), (101, 1)]
    assert contents(PatchFolder(root=tmp_path / "own").part("train")[0]) == train
    joined = [*train, (200, 1), (201, 1)]
    assert contents(PatchFolder(root=tmp_path / "own", extra=extra).part("train")[0]) == joined
    assert contents(PatchFolder(root=tmp_path / "own", extra=extra).part()[0]) == [(50, 0), (51, 0)]


def test_one_class_is_enough_to_judge_on(tmp_path: Path) -> None:
    write_images(tmp_path / "tumour", range(3))
    assert len(PatchFolder(root=tmp_path).part()[0]) == 3


def test_patches_to_predict(tmp_path: Path) -> None:
    write_images(tmp_path / "flat", range(3), ".TIFF")
    (tmp_path / "flat" / "notes.txt").write_text("")
    found = open_unlabelled(tmp_path / "flat")
    assert list(found.names) == ["p0000", "p0001", "p0002"]
    assert [int(found.read(i)[0, 0, 0]) for i in range(len(found))] == [0, 1, 2]
    assert list(open_unlabelled(tmp_path / "flat" / "p0001.TIFF").names) == ["p0001"]
    write_kaggle(tmp_path / "kaggle", [0, 1] * 3)
    with pytest.raises(DataError, match="no labelled part 'test': unlabelled patches"):
        PatchFolder(root=tmp_path / "kaggle").part("test")
    write_images(tmp_path / "kaggle" / "test", range(50, 52), ".tif")
    assert list(open_unlabelled(tmp_path / "kaggle").names) == ["p0050", "p0051"]
    x, y = write_split(tmp_path / "h", "test", [0, 1], first=600)
    y.unlink()
    for path in (tmp_path / "h", x):
        pixels = open_unlabelled(path)
        assert list(pixels.names) == ["test-0", "test-1"]
        assert np.array_equal(pixels.read(1), pixels_of(601, 96))
    write_two(tmp_path / "classes", 2)
    assert len(open_unlabelled(tmp_path / "classes")) == 4


def test_tiles_of_a_slide_are_patches_to_predict(tmp_path: Path) -> None:
    for name in ("pictures", "arrays"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tiles.json").write_text("{}")
        Image.fromarray(pixels_of(9)).save(tmp_path / name / "contact-sheet.png")
    write_images(tmp_path / "pictures" / "tiles", range(3))
    assert len(open_unlabelled(tmp_path / "pictures")) == 3
    x, _ = write_split(tmp_path / "arrays", "train", [0, 1])
    x.rename(tmp_path / "arrays" / "slide_x.h5")
    assert list(open_unlabelled(tmp_path / "arrays").names) == ["slide-0", "slide-1"]


@pytest.mark.parametrize("kind", ["nothing", "empty", "text"])
def test_no_patches_to_predict(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "empty":
        path.mkdir()
    elif kind == "text":
        path.write_text("hello")
    with pytest.raises(DataError, match=kind):
        open_unlabelled(path)


# --- layouts and names ----------------------------------------------------------------------------


def test_a_layout_can_be_forced(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [0, 1] * 5)
    for name in ("a", "b"):
        write_images(tmp_path / "train" / name, range(ord(name), ord(name) + 5))
    assert PatchFolder(root=tmp_path).divide(Split(fraction=0.4)).layout == "kaggle"
    forced = PatchFolder(root=tmp_path, layout="folders", skip_bad=True).divide(Split(fraction=0.4))
    assert forced.layout == "folders"
    assert forced.classes == ("a", "b")
    with pytest.raises(DataError, match=r"_x\.h5 is missing"):
        PatchFolder(root=tmp_path, layout="pcam-hdf5").divide()
    with pytest.raises(DataError, match="no layout 'zip'"):
        PatchFolder(root=tmp_path, layout="zip").divide()  # type: ignore[arg-type]
    write_two(tmp_path / "f")
    with pytest.raises(DataError, match="has no Kaggle layout"):
        PatchFolder(root=tmp_path / "f", layout="kaggle").divide()


def test_names_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "a", range(2))
    write_images(tmp_path / "train" / "b", range(2, 4))
    data = PatchFolder(root=tmp_path).divide(Split(kind="random", fraction=0.5, seed=1))
    assert {*data.train.names, *data.valid.names} == {"p0000", "p0001", "p0002", "p0003"}
    for name in ("p0000", "p0001"):
        Image.fromarray(pixels_of(ord(name[-1]))).save(tmp_path / "train" / "b" / f"{name}.png")
    found, _ = PatchFolder(root=tmp_path).part("all")
    assert found.names[1:4] == ("a/p0001", "b/p0000", "b/p0001")
    write_images(tmp_path / "valid" / "a", range(2))
    found, _ = PatchFolder(root=tmp_path).part("all")
    assert found.names[1:4] == ("train/a/p0001", "train/b/p0000", "train/b/p0001")
    assert found.names[-1] == "valid/a/p0001"
    write_images(tmp_path / "valid" / "a", range(2), ".bmp")
    found, _ = PatchFolder(root=tmp_path).part("all")
    assert found.names[-1] == "valid/a/p0001.png"
    assert len(set(found.names)) == len(found)


def test_kaggle_labels_and_files_that_do_not_match(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_kaggle(tmp_path, [0, 1] * 5)
    write_images(tmp_path / "train", range(70, 72), ".tif")
    with pytest.raises(DataError, match=r"2 of 12 images in .* no label .*p0070\.tif; pass --skip"):
        PatchFolder(root=tmp_path).divide()
    (tmp_path / "train" / "p0001.tif").unlink()
    data = PatchFolder(root=tmp_path, skip_bad=True).divide(Split(fraction=0.4))
    assert len(data.train) + len(data.valid) == 9
    assert "1 of 10 images that" in caplog.text
    assert "2 of 11 images in" in caplog.text


def test_images_in_no_class_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_two(tmp_path)
    write_images(tmp_path, range(70, 72))
    with pytest.raises(DataError, match=r"2 images in .* no class folder.*p0070\.png; pass --skip"):
        PatchFolder(root=tmp_path).divide(Split(fraction=0.5))
    data = PatchFolder(root=tmp_path, skip_bad=True).divide(Split(fraction=0.5))
    assert len(data.train) + len(data.valid) == 20
    assert "2 images in" in caplog.text


def test_an_id_listed_twice_is_refused(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [0, 1] * 5)
    with (tmp_path / "train_labels.csv").open("a") as file:
        file.write("p0003,1\n")
    with pytest.raises(DataError, match="lists p0003 twice"):
        PatchFolder(root=tmp_path).divide()


def test_bad_patches_are_errors_or_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_two(tmp_path)
    (tmp_path / "a" / "p0004.png").write_bytes(b"not an image")
    Image.fromarray(pixels_of(7, 9)).save(tmp_path / "a" / "p0007.png")
    split = Split(fraction=0.4)
    with pytest.raises(DataError, match=r"p0004\.png cannot be read.*--skip-bad"):
        PatchFolder(root=tmp_path).divide(split)
    with pytest.raises(DataError, match=r"first of 2 such patches"):
        PatchFolder(root=tmp_path, patch_px=8).divide(split)
    data = PatchFolder(root=tmp_path, patch_px=8, skip_bad=True).divide(split)
    assert data.left_out == {"p0004": "unreadable", "p0007": "unreadable"}
    assert len(data.train) + len(data.valid) == 18
    assert "p0007 is 9×9 px, not 8×8" in caplog.text
    assert "2 of 20 patches left out" in caplog.text
    assert len(PatchFolder(root=tmp_path, skip_bad=True, patch_px=8).part()[0]) == 18
    # A split that was saved with them left out does not meet them again.
    save_split(data, tmp_path / "split.csv")
    again = PatchFolder(root=tmp_path, patch_px=8).divide(Split.parse(str(tmp_path / "split.csv")))
    assert names_of(again) == names_of(data)


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
def test_the_wrong_size_is_said_at_once(tmp_path: Path, duplicates: str) -> None:
    write_two(tmp_path)
    split = Split(fraction=0.5)
    with pytest.raises(DataError, match=r"is 8×8 px, not 96×96.*--patch-size"):
        PatchFolder(root=tmp_path, patch_px=96).divide(split, duplicates=duplicates)  # type: ignore[arg-type]


def test_renamed_classes_keep_the_rest(tmp_path: Path) -> None:
    write_copies(tmp_path)
    data = PatchFolder(root=tmp_path).divide(Split(kind="random", fraction=0.5, seed=1))
    renamed = dataclasses.replace(data, classes=("normal", "tumour"))
    assert renamed.left_out == data.left_out
    assert renamed.split == data.split
