"""Labelled patches as files, each of which encodes its own number."""

import gzip
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histoslide.datasets import PatchSet


def pixels_of(number: int, side_px: int = 8) -> NDArray[np.uint8]:
    """A patch whose every pixel tells its number."""
    return np.full((side_px, side_px, 3), (number % 256, number // 256, 77), dtype=np.uint8)


def number_of(pixels: NDArray[np.uint8]) -> int:
    assert pixels.dtype == np.uint8
    assert (pixels == pixels[0, 0]).all()
    assert pixels[0, 0, 2] == 77
    return int(pixels[0, 0, 0]) + 256 * int(pixels[0, 0, 1])


def write_images(folder: Path, numbers: Iterable[int], suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(pixels_of(number)).save(folder / f"p{number:04}{suffix}")


def contents(patches: PatchSet) -> list[tuple[int, int]]:
    """(number, label) of every patch, in order; also checks that names go with the pixels."""
    assert len(patches) == len(patches.labels) == len(patches.names)
    numbers = [number_of(patches.read(i)) for i in range(len(patches))]
    return list(zip(numbers, patches.labels.tolist(), strict=True))


def write_kaggle(root: Path, labels: list[int]) -> None:
    write_images(root / "train", range(len(labels)), ".tif")
    (root / "test").mkdir()
    rows = [f"p{number:04},{label}" for number, label in enumerate(labels)]
    (root / "train_labels.csv").write_text("\n".join(["id,label", *rows]) + "\n")


ALL_FILES = ("train_x", "train_y", "valid_x", "valid_y")


def write_split(
    root: Path, split: str, labels: list[int], first: int = 0, slides: list[str] | None = None
) -> tuple[Path, Path]:
    root.mkdir(exist_ok=True)
    x, y = (root / f"camelyonpatch_level_2_split_{split}_{part}.h5" for part in "xy")
    with h5py.File(x, "w") as file:
        stack = np.stack([pixels_of(first + i, 96) for i in range(len(labels))])
        file.create_dataset("x", data=stack, chunks=(1, 96, 96, 3), compression="gzip")
    with h5py.File(y, "w") as file:
        file["y"] = np.array(labels, dtype=np.uint8).reshape(-1, 1, 1, 1)
    if slides is not None:
        rows = [f"{i},0,0,True,True,{slide}" for i, slide in enumerate(slides)]
        header = ",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"
        table = root / f"camelyonpatch_level_2_split_{split}_meta.csv"
        table.write_text("\n".join([header, *rows]) + "\n")
    return x, y


def gzip_file(path: Path) -> Path:
    """Replaces a file by its gzipped twin."""
    zipped = path.with_name(path.name + ".gz")
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return zipped
