"""Patches to predict, whatever is known of them."""

from __future__ import annotations

from pathlib import Path

from histoslide.datasets.folders import PART_NAMES, open_folders
from histoslide.datasets.images import IMAGE_SUFFIXES, UnlabelledFiles, flat_folder
from histoslide.datasets.layout import recognise
from histoslide.datasets.patches import Joined, UnlabelledPatches
from histoslide.datasets.pcam_hdf5 import open_unlabelled_hdf5, present, split_files
from histoslide.errors import DataError


def open_unlabelled(path: Path | str, *, cache: Path | None = None) -> UnlabelledPatches:
    """Patches to predict, whatever is known of them.

    Args:
        path: a folder of images, one image, an HDF5 file with the dataset ``x`` (gzipped or not),
            what ``histoslide tile`` has written, or data with a test set: the Kaggle layout or
            PCam HDF5 files. Of a folder per class it takes all images.
        cache: folder for unpacked files, None for the user's.

    Raises:
        DataError: there are no patches.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return UnlabelledFiles((path,), (path.stem,))
        return open_unlabelled_hdf5(path, cache=cache)
    if not path.is_dir():
        raise DataError(f"{path} is neither a folder of patches nor a file of them")
    if (path / "tiles.json").is_file():
        if files := sorted(path.glob("*_x.h5")):
            return open_unlabelled_hdf5(files[0], cache=cache)
        path /= "tiles"
        if not path.is_dir():
            raise DataError(f"{path} is missing: run histoslide tile again")
    if (images := flat_folder(path)) is not None:
        return images
    pixels, _ = split_files(path, "test")
    if present(pixels):
        return open_unlabelled_hdf5(pixels, cache=cache)
    for name in PART_NAMES["test"]:
        if (path / name).is_dir() and (images := flat_folder(path / name)) is not None:
            return images
    if recognise(path) == "folders":
        return Joined(tuple(open_folders(path, skip_bad=True).parts.values()))
    raise DataError(f"{path} holds no unlabelled patches: expected images, or an HDF5 file with x")
