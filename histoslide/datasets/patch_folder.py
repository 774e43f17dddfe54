"""A folder of labelled patches, as people have it, and how it is read."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from histoslide.datasets.check import CheckReport, check_source
from histoslide.datasets.division import Duplicates, divide
from histoslide.datasets.extra import with_extra
from histoslide.datasets.folders import open_folders
from histoslide.datasets.kaggle import open_kaggle
from histoslide.datasets.layout import Layout, recognise
from histoslide.datasets.mined import mining_facts
from histoslide.datasets.patches import (
    ImageFiles,
    Joined,
    PatchData,
    PatchSet,
    Subset,
    WithoutLabels,
)
from histoslide.datasets.pcam_hdf5 import (
    SPLITS,
    Hdf5Patches,
    check_md5,
    open_pcam_hdf5,
    present,
    split_files,
)
from histoslide.datasets.scan import OnPatches, pixel_digests, scan_patches
from histoslide.datasets.slides import read_slides
from histoslide.datasets.source import Source
from histoslide.datasets.split import Split
from histoslide.datasets.unlabelled import open_unlabelled
from histoslide.errors import DataError

logger = logging.getLogger(__name__)

Part = Literal["train", "valid", "test", "all"]


@dataclass(frozen=True, kw_only=True)
class PatchFolder:
    """Labelled patches where they lie, and what is asked of each of them.

    Raises:
        DataError: there is no such layout.
    """

    root: Path
    """Official PCam HDF5 files, the Kaggle layout, or a folder per class."""
    layout: Layout | None = None
    """Takes ``root`` for this layout, whatever it looks like; None recognises it."""
    extra: tuple[Path, ...] = ()
    """Further folders per class that are only ever trained on (folder layout only): in the parts
    ``train`` and ``all``, and among the patches that a saved split names."""
    extra_repeat: tuple[int, ...] = ()
    """How often an epoch shows the patches of each of them: one number for all, or one for each;
    none means once."""
    unlabelled: tuple[Path, ...] = ()
    """Further patches, as for ``open_unlabelled``, of which teachers will say what they show; only
    ``divide`` opens them."""
    slides: Path | None = None
    """CSV file with the columns ``name,slide``."""
    skip_bad: bool = False
    """Leave out patches that cannot be read or have another size, labels without a file and files
    without a label; otherwise they are errors."""
    patch_px: int | None = None
    """Side that every patch must have, None for any."""
    cache: Path | None = None
    """Folder for unpacked files and for what reading has shown; None for ``$HISTOSLIDE_CACHE``,
    else the user's cache folder."""

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in get_args(Layout):
            known = ", ".join(get_args(Layout))
            raise DataError(f"there is no layout {self.layout!r}: choose {known}")

    def divide(
        self,
        split: Split | None = None,
        *,
        duplicates: Duplicates = "drop",
        on_patches: OnPatches | None = None,
    ) -> PatchData:
        """Open the folder and divide it into training and validation.

        Args:
            split: which patches validation gets; by default what ``Split`` calls ``auto``.
            duplicates: ``drop`` leaves training patches out whose pixels validation or test has
                too; ``keep`` does not look.
            on_patches: called with (patches read, patches in all) while reading them.

        Raises:
            DataError: no layout is recognised, the data are not what it promises, the split does
                not fit, or a part lacks a class.
        """
        data = divide(
            self.open(),
            split or Split(),
            duplicates=duplicates,
            skip_bad=self.skip_bad,
            patch_px=self.patch_px,
            cache=self.cache,
            on_patches=on_patches,
        )
        if self.extra:
            data = dataclasses.replace(data, mined=mining_facts(self.extra))
        if not self.unlabelled:
            return data
        return dataclasses.replace(data, unlabelled=self._unlabelled(data, duplicates, on_patches))

    def part(
        self,
        part: Part | None = None,
        *,
        split: Split | None = None,
        on_patches: OnPatches | None = None,
    ) -> tuple[PatchSet, tuple[str, ...]]:
        """Labelled patches to judge a model on, and the names of their classes.

        Args:
            part: ``train``, ``valid`` or ``test`` as the data bring it or ``split`` makes it,
                ``all`` for everything; None takes ``valid`` where the data bring one, else
                everything. ``patch_px`` is looked at with ``skip_bad`` or a split only.
            split: makes the parts that the data do not bring, for example a saved split.
            on_patches: called with (patches read, patches in all) where all must be read first.

        Raises:
            DataError: no layout is recognised, or the data have no such part with labels.
        """
        if part is not None and part not in get_args(Part):
            raise DataError(f"there is no part {part!r}: choose {', '.join(get_args(Part))}")
        if split is not None and part not in (None, "all"):
            data = self.divide(
                split, duplicates="drop" if part == "train" else "keep", on_patches=on_patches
            )
            chosen = {"train": data.train, "valid": data.valid, "test": data.test}[part]
            return self._some(chosen, part), data.classes
        source = self.open(wanted=part)
        part = part or ("valid" if "valid" in source.parts else "all")
        found = self._some(_join(source, part), part)
        logger.info("%s: part %s with %d patches", self.root, part, len(found))
        return self._readable(found, on_patches) if self.skip_bad else found, source.classes

    def check(
        self,
        split: Split | None = None,
        *,
        verify: bool = False,
        on_patches: OnPatches | None = None,
    ) -> CheckReport:
        """Read every patch once and report what is there, bad patches too.

        What was read is kept, so that training on the same files need not read them all first.
        Without ``patch_px``, the most frequent size is taken for right.

        Args:
            split: how training would divide the patches.
            verify: compare gzipped official files with their MD5, and Kaggle ids with the SHA-1
                of their pixels.
            on_patches: called with (patches read, patches in all).

        Raises:
            DataError: no layout is recognised, or a table or an HDF5 file is malformed.
        """
        md5 = None
        if verify and self.layout in (None, "pcam-hdf5") and self.root.is_dir():
            md5 = check_md5(self.root) or None  # before they are unpacked
        return check_source(
            dataclasses.replace(self, skip_bad=True).open(),
            split or Split(),
            patch_px=self.patch_px,
            md5=md5,
            verify_ids=verify,
            cache=self.cache,
            on_patches=on_patches,
        )

    def open(self, wanted: Part | None = "all") -> Source:
        """What the folder offers, before anything is divided or left out.

        Args:
            wanted: the part that will be used, None for ``valid`` if there is one: other HDF5
                files need not be unpacked then.

        Raises:
            DataError: no layout is recognised, or the data are not what it promises.
        """
        if not self.root.is_dir():
            raise DataError(f"{self.root} is not a folder of patches")
        layout = self.layout or recognise(self.root)
        match layout:
            case "pcam-hdf5":
                splits = self._wanted_splits(wanted)
                source = open_pcam_hdf5(self.root, wanted=splits, cache=self.cache)
            case "kaggle":
                source = open_kaggle(self.root, skip_bad=self.skip_bad)
            case "folders":
                source = open_folders(self.root, skip_bad=self.skip_bad)
        if self.extra or self.extra_repeat:
            source = with_extra(source, self.extra, self.extra_repeat, skip_bad=self.skip_bad)
        for problem in source.problems:
            logger.warning("left out: %s", problem)
        if self.slides is not None:
            source = dataclasses.replace(source, parts=_with_slides(source.parts, self.slides))
        logger.info(
            "%s: %s layout%s, classes %s; %s",
            self.root,
            layout,
            "" if self.layout is None else " as told",
            ", ".join(source.classes),
            ", ".join(f"{len(patches)} {name}" for name, patches in source.parts.items()),
        )
        return source

    def _unlabelled(
        self, data: PatchData, duplicates: Duplicates, on_patches: OnPatches | None
    ) -> PatchSet:
        opened = (open_unlabelled(path, cache=self.cache) for path in self.unlabelled)
        sets = tuple(WithoutLabels(patches) for patches in opened)
        found: PatchSet = sets[0] if len(sets) == 1 else Joined(sets)
        if self.skip_bad:
            found = self._readable(found, on_patches)
        return self._apart(found, data) if duplicates == "drop" else found

    def _apart(self, patches: PatchSet, data: PatchData) -> PatchSet:
        """Unlabelled patches without those whose pixels validation or test has."""
        held = [part for part in (data.valid, data.test) if part is not None]
        known = {row.tobytes() for part in held for row in pixel_digests(part, cache=self.cache)}
        own = pixel_digests(patches, cache=self.cache)
        apart = np.flatnonzero([row.tobytes() not in known for row in own])
        if len(apart) == len(patches):
            return patches
        logger.info(
            "%d unlabelled patches also occur in validation or test: left out",
            len(patches) - len(apart),
        )
        return Subset(patches, apart)

    def _wanted_splits(self, wanted: Part | None) -> tuple[str, ...]:
        if wanted is None:
            return ("valid",) if present(split_files(self.root, "valid")[0]) else SPLITS
        return SPLITS if wanted == "all" else (wanted,)

    def _some(self, patches: PatchSet | None, part: str) -> PatchSet:
        if patches is None or not len(patches):
            way_out = (
                "unlabelled patches can only be predicted"
                if part == "test"
                else "take --part all, or divide the data with --split"
            )
            raise DataError(f"{self.root} has no labelled part {part!r}: {way_out}")
        return patches

    def _readable(self, patches: PatchSet, on_patches: OnPatches | None) -> PatchSet:
        scan = scan_patches(patches, cache=self.cache, on_patches=on_patches)
        good = scan.readable
        if self.patch_px is not None:
            good = good & (scan.sizes_px == self.patch_px).all(axis=1)
        if good.all():
            return patches
        names = patches.names
        bad = np.flatnonzero(~good)
        logger.warning(
            "%d of %d patches left out as bad, the first is %s", len(bad), len(good), names[bad[0]]
        )
        return Subset(patches, np.flatnonzero(good))


def _join(source: Source, part: Part) -> PatchSet | None:
    if part != "all" and part not in source.parts:  # extra alone is no training set
        return None
    names = {"all": tuple(source.parts), "train": ("train", "extra")}.get(part, (part,))
    parts = tuple(source.parts[name] for name in names if name in source.parts)
    return parts[0] if len(parts) == 1 else Joined(parts)


def _with_slides(parts: Mapping[str, PatchSet], path: Path) -> dict[str, PatchSet]:
    """With the slides of a table; mined patches know theirs, and no table has them."""
    mined = {"extra": parts["extra"]} if "extra" in parts and parts["extra"].slides else {}
    parts = {part: patches for part, patches in parts.items() if part not in mined}
    names = tuple(name for patches in parts.values() for name in patches.names)
    slides = read_slides(path, names)
    found: dict[str, PatchSet] = dict(mined)
    start = 0
    for part, patches in parts.items():
        assert isinstance(patches, ImageFiles | Hdf5Patches)  # what the layouts make
        stop = start + len(patches)
        found[part] = dataclasses.replace(patches, slides=slides[start:stop])
        start = stop
    return {part: found[part] for part in (*parts, *mined)}
