"""From a folder, as people have it, to patches."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from histoslide.datasets.division import Duplicates, divide
from histoslide.datasets.folders import PART_NAMES, is_folders, open_folders
from histoslide.datasets.images import IMAGE_SUFFIXES, UnlabelledFiles, flat_folder
from histoslide.datasets.kaggle import is_kaggle, open_kaggle
from histoslide.datasets.patches import (
    ImageFiles,
    Joined,
    PatchData,
    PatchSet,
    Subset,
    UnlabelledPatches,
    WithoutLabels,
)
from histoslide.datasets.pcam_hdf5 import (
    SPLITS,
    Hdf5Patches,
    is_pcam_hdf5,
    open_pcam_hdf5,
    open_unlabelled_hdf5,
    present,
    split_files,
)
from histoslide.datasets.scan import OnPatches, pixel_digests, scan_patches
from histoslide.datasets.slides import read_slides
from histoslide.datasets.source import Source
from histoslide.datasets.split import Split
from histoslide.errors import DataError

logger = logging.getLogger(__name__)

Layout = Literal["pcam-hdf5", "kaggle", "folders"]
Part = Literal["train", "valid", "test", "all"]


def open_patches(
    root: Path,
    *,
    layout: Layout | None = None,
    extra: tuple[Path, ...] = (),
    extra_repeat: tuple[int, ...] = (),
    unlabelled: tuple[Path, ...] = (),
    split: Split | None = None,
    slides: Path | None = None,
    duplicates: Duplicates = "drop",
    skip_bad: bool = False,
    patch_px: int | None = None,
    cache: Path | None = None,
    on_patches: OnPatches | None = None,
) -> PatchData:
    """Recognise the layout of ``root``, open it, and divide it into training and validation.

    Args:
        root: official PCam HDF5 files, the Kaggle layout, or a folder per class.
        layout: takes ``root`` for this layout, whatever it looks like.
        extra: further folders per class, only ever trained on (folder layout only).
        extra_repeat: how often an epoch shows the patches of each of them: one number for all, or
            one for each; none means once.
        unlabelled: further patches, as for ``open_unlabelled``, of which teachers will say what
            they show.
        split: which patches validation gets; by default what ``Split`` calls ``auto``.
        slides: CSV file with the columns ``name,slide``.
        duplicates: ``drop`` leaves training patches out whose pixels validation or test has too;
            ``keep`` does not look.
        skip_bad: leave out patches that cannot be read or have another size, labels without a file
            and files without a label; otherwise they are errors.
        patch_px: side that every patch must have, None for any.
        cache: folder for unpacked files and for what reading has shown; None for
            ``$HISTOSLIDE_CACHE``, else the user's cache folder.
        on_patches: called with (patches read, patches in all) while reading them.

    Raises:
        DataError: no layout is recognised, the data are not what it promises, the split does not
            fit, or a part lacks a class.
    """
    source = open_source(
        root,
        layout=layout,
        extra=extra,
        extra_repeat=extra_repeat,
        slides=slides,
        skip_bad=skip_bad,
        cache=cache,
    )
    data = divide(
        source,
        split or Split(),
        duplicates=duplicates,
        skip_bad=skip_bad,
        patch_px=patch_px,
        cache=cache,
        on_patches=on_patches,
    )
    if not unlabelled:
        return data
    sets = tuple(WithoutLabels(open_unlabelled(path, cache=cache)) for path in unlabelled)
    more: PatchSet = sets[0] if len(sets) == 1 else Joined(sets)
    if skip_bad:
        more = _readable(more, patch_px, cache, on_patches)
    if duplicates == "drop":
        more = _apart(more, data, cache)
    return dataclasses.replace(data, unlabelled=more)


def _apart(patches: PatchSet, data: PatchData, cache: Path | None) -> PatchSet:
    """Unlabelled patches without those whose pixels validation or test has."""
    held = [part for part in (data.valid, data.test) if part is not None]
    known = {row.tobytes() for part in held for row in pixel_digests(part, cache=cache)}
    own = pixel_digests(patches, cache=cache)
    apart = np.flatnonzero([row.tobytes() not in known for row in own])
    if len(apart) == len(patches):
        return patches
    logger.info(
        "%d unlabelled patches also occur in validation or test: left out",
        len(patches) - len(apart),
    )
    return Subset(patches, apart)


def open_part(
    root: Path,
    part: Part | None = None,
    *,
    layout: Layout | None = None,
    extra: tuple[Path, ...] = (),
    split: Split | None = None,
    slides: Path | None = None,
    skip_bad: bool = False,
    patch_px: int | None = None,
    cache: Path | None = None,
    on_patches: OnPatches | None = None,
) -> tuple[PatchSet, tuple[str, ...]]:
    """Labelled patches to judge a model on, and the names of their classes.

    Args:
        root: as for ``open_patches``.
        part: ``train``, ``valid`` or ``test`` as the data bring it or ``split`` makes it, ``all``
            for everything; None takes ``valid`` where the data bring one, else everything.
        layout: takes ``root`` for this layout.
        extra: further folders per class that were trained on (folder layout only): parts of
            ``train`` and ``all``, and among the patches that a saved split names.
        split: makes the parts that the data do not bring, for example a saved split.
        slides: CSV file with the columns ``name,slide``.
        skip_bad: leave out patches that cannot be read or have another size.
        patch_px: side that every patch must have, None for any; looked at with ``skip_bad`` only.
        cache: folder for unpacked files and for what reading has shown, None for the user's.
        on_patches: called with (patches read, patches in all) where all must be read first.

    Raises:
        DataError: no layout is recognised, or the data have no such part with labels.
    """
    if part is not None and part not in get_args(Part):
        raise DataError(f"there is no part {part!r}: choose {', '.join(get_args(Part))}")
    if split is not None and part not in (None, "all"):
        data = open_patches(
            root,
            layout=layout,
            extra=extra,
            split=split,
            slides=slides,
            duplicates="drop" if part == "train" else "keep",
            skip_bad=skip_bad,
            patch_px=patch_px,
            cache=cache,
            on_patches=on_patches,
        )
        chosen = {"train": data.train, "valid": data.valid, "test": data.test}[part]
        return _some(chosen, part, root), data.classes
    source = open_source(
        root,
        layout=layout,
        extra=extra,
        slides=slides,
        skip_bad=skip_bad,
        cache=cache,
        wanted=part,
    )
    if part is None:
        part = "valid" if "valid" in source.parts else "all"
    names = {"all": tuple(source.parts), "train": ("train", "extra")}.get(part, (part,))
    if part != "all" and part not in source.parts:  # extra alone is no training set
        names = ()
    parts = tuple(source.parts[name] for name in names if name in source.parts)
    found = _some((parts[0] if len(parts) == 1 else Joined(parts)) if parts else None, part, root)
    logger.info("%s: part %s with %d patches", root, part, len(found))
    if skip_bad:
        found = _readable(found, patch_px, cache, on_patches)
    return found, source.classes


def open_unlabelled(path: Path, *, cache: Path | None = None) -> UnlabelledPatches:
    """Patches to predict, whatever is known of them.

    Args:
        path: a folder of images, one image, an HDF5 file with the dataset ``x`` (gzipped or not),
            what ``histoslide tile`` has written, or data with a test set: the Kaggle layout or
            PCam HDF5 files. Of a folder per class it takes all images.
        cache: folder for unpacked files, None for the user's.

    Raises:
        DataError: there are no patches.
    """
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


def recognise(root: Path) -> Layout:
    """The layout of a folder, by its files.

    Raises:
        DataError: no layout is recognised.
    """
    if is_pcam_hdf5(root):
        return "pcam-hdf5"
    if is_kaggle(root):
        return "kaggle"
    if is_folders(root):
        return "folders"
    raise DataError(
        f"{root} holds no known layout: expected camelyonpatch_level_2_split_*.h5, "
        "train_labels.csv beside train/, or one folder per class"
    )


def open_source(
    root: Path,
    *,
    layout: Layout | None = None,
    extra: tuple[Path, ...] = (),
    extra_repeat: tuple[int, ...] = (),
    slides: Path | None = None,
    skip_bad: bool = False,
    cache: Path | None = None,
    wanted: Part | None = "all",
) -> Source:
    """What a folder offers, before anything is divided or left out.

    Args:
        root: as for ``open_patches``.
        layout: takes ``root`` for this layout.
        extra: further folders per class (folder layout only).
        extra_repeat: how often an epoch shows their patches, as for ``open_patches``.
        slides: CSV file with the columns ``name,slide``.
        skip_bad: leave out labels without a file and files without a label.
        cache: folder for unpacked files, None for the user's.
        wanted: the part that will be used, None for ``valid`` if there is one: other HDF5 files
            need not be unpacked then.

    Raises:
        DataError: no layout is recognised, or the data are not what it promises.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder of patches")
    if layout is not None and layout not in get_args(Layout):
        raise DataError(f"there is no layout {layout!r}: choose {', '.join(get_args(Layout))}")
    chosen = layout or recognise(root)
    if extra and chosen != "folders":
        raise DataError(f"extra training folders need a folder per class, which {root} is not")
    match chosen:
        case "pcam-hdf5":
            source = open_pcam_hdf5(root, wanted=_wanted_splits(root, wanted), cache=cache)
        case "kaggle":
            source = open_kaggle(root, skip_bad=skip_bad)
        case "folders":
            source = open_folders(root, extra=extra, extra_repeat=extra_repeat, skip_bad=skip_bad)
    for problem in source.problems:
        logger.warning("left out: %s", problem)
    if slides is not None:
        source = dataclasses.replace(source, parts=_with_slides(source.parts, slides))
    logger.info(
        "%s: %s layout%s, classes %s; %s",
        root,
        chosen,
        "" if layout is None else " as told",
        ", ".join(source.classes),
        ", ".join(f"{len(patches)} {name}" for name, patches in source.parts.items()),
    )
    return source


def _wanted_splits(root: Path, wanted: Part | None) -> tuple[str, ...]:
    if wanted is None:
        return ("valid",) if present(split_files(root, "valid")[0]) else SPLITS
    return SPLITS if wanted == "all" else (wanted,)


def _with_slides(parts: Mapping[str, PatchSet], path: Path) -> dict[str, PatchSet]:
    names = tuple(name for patches in parts.values() for name in patches.names)
    slides = read_slides(path, names)
    found: dict[str, PatchSet] = {}
    start = 0
    for part, patches in parts.items():
        assert isinstance(patches, ImageFiles | Hdf5Patches)  # what the layouts make
        stop = start + len(patches)
        found[part] = dataclasses.replace(patches, slides=slides[start:stop])
        start = stop
    return found


def _some(patches: PatchSet | None, part: str, root: Path) -> PatchSet:
    if patches is None or not len(patches):
        way_out = (
            "unlabelled patches can only be predicted"
            if part == "test"
            else "take --part all, or divide the data with --split"
        )
        raise DataError(f"{root} has no labelled part {part!r}: {way_out}")
    return patches


def _readable(
    patches: PatchSet, patch_px: int | None, cache: Path | None, on_patches: OnPatches | None
) -> PatchSet:
    scan = scan_patches(patches, cache=cache, on_patches=on_patches)
    good = scan.readable
    if patch_px is not None:
        good = good & (scan.sizes_px == patch_px).all(axis=1)
    if good.all():
        return patches
    names = patches.names
    bad = np.flatnonzero(~good)
    logger.warning(
        "%d of %d patches left out as bad, the first is %s", len(bad), len(good), names[bad[0]]
    )
    return Subset(patches, np.flatnonzero(good))
