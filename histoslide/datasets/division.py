"""Every patch gets its part, and nothing that validation or test holds is trained on."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from histoslide.datasets.patches import Joined, PatchData, PatchSet, Subset
from histoslide.datasets.scan import (
    OnPatches,
    Scan,
    group_equal,
    names_are_digests,
    pixel_digests,
    scan_patches,
)
from histoslide.datasets.source import Source
from histoslide.datasets.split import Split, last_indices, random_indices, slide_indices
from histoslide.datasets.split_file import REASONS, read_split
from histoslide.errors import DataError

logger = logging.getLogger(__name__)

Duplicates = Literal["drop", "keep"]

_POOL = ("all", "train", "valid")
"""Parts that may be divided anew; ``test`` stays what it is, and ``extra`` is only trained on."""

_NAMED_MOST = 20
"""Unreadable patches that are named one by one in the log."""


def divide(
    source: Source,
    split: Split,
    *,
    duplicates: Duplicates = "drop",
    skip_bad: bool = False,
    patch_px: int | None = None,
    cache: Path | None = None,
    on_patches: OnPatches | None = None,
) -> PatchData:
    """Divide what a layout offers into training, validation and test.

    A training patch whose pixels validation or test has too is left out; those two stay as they
    are, so that figures remain comparable. Copies within one part stay.

    Args:
        source: patches in the parts that their files bring.
        split: how to divide them.
        duplicates: ``keep`` trains on copies of validation and test patches too.
        skip_bad: leave out patches that cannot be read or have another size; otherwise they are
            errors.
        patch_px: side that every patch must have, None for any.
        cache: folder for what reading has shown, None for the user's.
        on_patches: called with (patches read, patches in all) while reading them.

    Raises:
        DataError: the split does not fit the data, a patch is bad, or a part lacks a class.
    """
    if duplicates not in get_args(Duplicates):
        raise DataError(f"duplicates are {duplicates!r}: choose {', '.join(get_args(Duplicates))}")
    everything = Joined(tuple(source.parts.values()))
    split = resolve(source, split)
    part = assign(source, split)
    if split.kind == "slide":
        _leave_out_slides(source, part)
    scan = None
    if skip_bad or (duplicates == "drop" and not all(map(names_are_digests, everything.parts))):
        scan = scan_patches(everything, cache=cache, on_patches=on_patches)
        _leave_out_bad(everything, part, scan, skip_bad=skip_bad, patch_px=patch_px)
    elif patch_px is not None:
        _check_first(everything, part, patch_px)
    if duplicates == "drop":
        digests = pixel_digests(everything, cache=cache) if scan is None else scan.digests
        _leave_out_duplicates(everything, part, digests)
    _warn_of_shared_slides(source, part)
    return _gather(source, everything, part, split)


def resolve(source: Source, split: Split) -> Split:
    """The split with its kind decided.

    Raises:
        DataError: the data lack what the kind needs.
    """
    if split.kind == "auto":
        if "valid" in source.parts:
            return dataclasses.replace(split, kind="official")
        if source.layout == "pcam-hdf5":
            raise DataError(
                f"{source.root / 'camelyonpatch_level_2_split_valid_x.h5'} is missing: get the "
                "official file, or choose --split slide or --split random"
            )
        if all(patches.slides is not None for _, patches in _pool(source)):
            return dataclasses.replace(split, kind="slide")
        return dataclasses.replace(split, kind="last" if source.layout == "kaggle" else "random")
    if split.kind == "official" and not {"train", "valid"} <= source.parts.keys():
        raise DataError(
            f"{source.root} brings no training and validation set of its own: choose --split "
            "slide, random or last"
        )
    if split.kind == "slide" and any(patches.slides is None for _, patches in _pool(source)):
        raise DataError(
            f"the slides of the patches in {source.root} are unknown: name them in a CSV with "
            "name,slide (--slides FILE), or choose --split random"
        )
    return split


def assign(source: Source, split: Split) -> NDArray[np.str_]:
    """The part of every patch of all parts of ``source``, one after the other, shape (n,).

    Raises:
        DataError: the split file names other patches, or there is nothing to divide.
    """
    home = np.repeat(list(source.parts), [len(patches) for patches in source.parts.values()])
    part = home.astype("U16")
    part[home == "extra"] = "train"
    if split.kind == "file" and split.file is not None:
        names = tuple(name for patches in source.parts.values() for name in patches.names)
        return read_split(split.file, names).astype("U16")
    if split.kind == "official":
        return part
    pool = np.flatnonzero(np.isin(home, _POOL))
    if not len(pool):
        raise DataError(f"{source.root} holds nothing but a test set: there is nothing to train on")
    match split.kind:
        case "last":
            held = last_indices(len(pool), split.fraction)
        case "random":
            held = random_indices(len(pool), split.fraction, split.seed)
        case _:
            pool = pool[_apart_from_test(source, home)[pool]]
            everything = Joined(tuple(source.parts.values()))
            part[np.isin(home, _POOL)] = "slide"  # what is not in the pool is of a test slide
            held = slide_indices(
                _slides(source)[pool].tolist(), everything.labels[pool], split.fraction, split.seed
            )
    part[pool] = "train"
    part[pool[held]] = "valid"
    return part


def _pool(source: Source) -> list[tuple[str, PatchSet]]:
    return [(name, patches) for name, patches in source.parts.items() if name in _POOL]


def _slides(source: Source) -> NDArray[np.str_]:
    """The slide of every patch; empty where it is unknown."""
    slides: list[str] = []
    for patches in source.parts.values():
        slides += patches.slides or [""] * len(patches)
    return np.array(slides, dtype=np.str_)


def _apart_from_test(source: Source, home: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Which patches are not of a slide that the test set has patches of.

    Raises:
        DataError: none of those that may be divided.
    """
    slides = _slides(source)
    apart = (slides == "") | ~np.isin(slides, slides[home == "test"])
    if not (apart & np.isin(home, _POOL)).any():
        raise DataError(
            f"all slides of {source.root} are in its test set too, which leaves nothing to train "
            "on: choose --split random, which does not keep slides apart"
        )
    return apart


def _leave_out_slides(source: Source, part: NDArray[np.str_]) -> None:
    """Whole slides are held back: what ``extra`` has of them is not trained on."""
    slides = _slides(source)
    held = np.isin(part, ("valid", "test"))
    part[(part == "train") & (slides != "") & np.isin(slides, slides[held])] = "slide"
    if (part == "slide").any():
        logger.info(
            "%d patches are of validation or test slides: left out of training",
            (part == "slide").sum(),
        )


def _leave_out_bad(
    patches: PatchSet,
    part: NDArray[np.str_],
    scan: Scan,
    *,
    skip_bad: bool,
    patch_px: int | None,
) -> None:
    bad = ~scan.readable
    if patch_px is not None:
        bad |= (scan.sizes_px != patch_px).any(axis=1)
    bad &= ~np.isin(part, REASONS)
    found = np.flatnonzero(bad)
    if not len(found):
        return
    names = patches.names
    if not skip_bad:
        first = _say(patches, names, scan, int(found[0]), patch_px)
        more = f" (the first of {len(found)} such patches)" if len(found) > 1 else ""
        side = scan.sizes_px[found[0]]
        if len(found) == len(part) and side[0] and side[0] == side[1]:
            raise DataError(f"{first}{more}: pass --patch-size {side[0]} and --mpp as they are")
        raise DataError(f"{first}{more}: pass --skip-bad to leave them out")
    part[bad] = "unreadable"
    for index in found[:_NAMED_MOST].tolist():
        logger.warning("left out: %s", _say(patches, names, scan, index, patch_px))
    logger.warning("%d of %d patches left out as bad", len(found), len(part))


def _say(
    patches: PatchSet, names: Sequence[str], scan: Scan, index: int, patch_px: int | None
) -> str:
    if scan.readable[index]:
        height, width = scan.sizes_px[index].tolist()
        return f"patch {names[index]} is {width}×{height} px, not {patch_px}×{patch_px}"
    try:
        patches.read(index)
    except DataError as error:
        return str(error)
    return f"patch {names[index]} could not be read before, and now can"


def _check_first(patches: PatchSet, part: NDArray[np.str_], patch_px: int) -> None:
    for name in ("train", "valid"):
        if not (part == name).any():
            continue
        first = int(np.argmax(part == name))
        height, width = patches.read(first).shape[:2]
        if (height, width) != (patch_px, patch_px):
            raise DataError(
                f"patch {patches.names[first]} is {width}×{height} px, not {patch_px}×{patch_px}: "
                "pass --patch-size and --mpp as the patches are, or --skip-bad to leave out such "
                "as this one"
            )


def _leave_out_duplicates(
    patches: PatchSet, part: NDArray[np.str_], digests: NDArray[np.uint8]
) -> None:
    group = group_equal(digests)
    used = ~np.isin(part, REASONS)
    held = np.isin(part, ("valid", "test"))
    copies = (part == "train") & np.isin(group, group[held])
    if conflicts := conflicting(group, patches.labels, used):
        names = patches.names
        logger.warning(
            "%d groups of equal patches have different labels, the first is %s",
            len(conflicts),
            " = ".join(names[i] for i in conflicts[0][:4]),
        )
    if copies.any():
        part[copies] = "duplicate"
        logger.info(
            "%d training patches also occur in validation or test: left out of training",
            copies.sum(),
        )


def conflicting(
    group: NDArray[np.int64], labels: NDArray[np.int64], used: NDArray[np.bool_]
) -> list[list[int]]:
    """Indices of equal patches whose labels differ, one list a group, in order of the first.

    Args:
        group: a number that equal patches share, shape (n,).
        labels: class of each patch, shape (n,).
        used: which patches count, shape (n,).
    """
    chosen = np.flatnonzero(used)
    if not len(chosen):
        return []
    lowest = np.full(int(group.max()) + 1, np.iinfo(np.int64).max)
    highest = np.full(len(lowest), -1)
    np.minimum.at(lowest, group[chosen], labels[chosen])
    np.maximum.at(highest, group[chosen], labels[chosen])
    found: dict[int, list[int]] = {}
    for index in chosen[(lowest < highest)[group[chosen]]].tolist():
        found.setdefault(int(group[index]), []).append(index)
    return list(found.values())


def _warn_of_shared_slides(source: Source, part: NDArray[np.str_]) -> None:
    slides = _slides(source)
    train = set(slides[part == "train"].tolist()) - {""}
    for name, said in (("valid", "validation"), ("test", "test set")):
        if shared := len(train & set(slides[part == name].tolist())):
            logger.warning(
                "training and %s share %d slides, so figures will be too good: "
                "--split slide keeps slides apart",
                said,
                shared,
            )


def _gather(
    source: Source, everything: PatchSet, part: NDArray[np.str_], split: Split
) -> PatchData:
    chosen = {name: np.flatnonzero(part == name) for name in ("train", "valid", "test")}
    names = everything.names
    left_out = {names[i]: str(part[i]) for i in np.flatnonzero(np.isin(part, REASONS)).tolist()}
    logger.info(
        "split %s: %s; %d left out",
        split.kind if split.file is None else split.file,
        ", ".join(f"{len(indices)} {name}" for name, indices in chosen.items() if len(indices)),
        len(left_out),
    )
    return PatchData(
        layout=source.layout,
        classes=source.classes,
        train=Subset(everything, chosen["train"]),
        valid=Subset(everything, chosen["valid"]),
        test=Subset(everything, chosen["test"]) if len(chosen["test"]) else None,
        split=split,
        left_out=left_out,
        repeats=_repeats(source, chosen["train"]),
    )


def _repeats(source: Source, train: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """How often an epoch shows each training patch; None for once."""
    if all(repeat == 1 for _, repeat in source.extra_repeats):
        return None
    parts = []
    for name, patches in source.parts.items():
        counts = source.extra_repeats if name == "extra" else ((len(patches), 1),)
        parts += [np.full(count, repeat, dtype=np.int64) for count, repeat in counts]
    return np.concatenate(parts)[train]
