"""A set of patches read once from end to end, and what is right and wrong with it."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histoslide.datasets.division import conflicting, divide
from histoslide.datasets.patches import Joined, PatchData, UnlabelledPatches
from histoslide.datasets.scan import OnPatches, Scan, group_equal, names_are_digests, scan_patches
from histoslide.datasets.source import Source
from histoslide.datasets.split import Split
from histoslide.errors import DataError

logger = logging.getLogger(__name__)

_SHOWN = 10
"""Lines of one kind that a person is shown; ``as_dict`` has all."""


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """One part of the data, as its files bring it."""

    name: str
    """``train``, ``valid``, ``test``, ``all``, ``extra`` or ``unlabelled``."""
    patches: int
    """How many."""
    classes: Mapping[str, int]
    """Patches of each class; empty where there are no labels."""
    slides: int | None
    """Number of slides; None where they are unknown."""
    sizes_px: Mapping[tuple[int, int], int]
    """Patches of each (height, width)."""
    unreadable: tuple[str, ...]
    """One line for each patch that cannot be decoded."""
    wrong_size: tuple[str, ...]
    """Names of patches of another size than expected."""
    duplicate_groups: int
    """Groups of patches with equal pixels in this part."""
    duplicate_patches: int
    """Patches in these groups beyond the first of each."""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a check has found; ``str()`` of it is for people, ``as_dict()`` for programs."""

    layout: str
    """How the data were recognised."""
    class_names: tuple[str, ...]
    """In the order of their indices."""
    parts: tuple[PartReport, ...]
    """What each part holds."""
    expected_px: tuple[int, int] | None
    """Height and width that patches should have: as asked, else the most frequent."""
    duplicate_groups: int
    """Groups of patches with equal pixels over all parts together."""
    across: Mapping[str, int]
    """Groups of equal patches that two parts share, by ``part & part``; only where there are."""
    conflicts: tuple[tuple[str, ...], ...]
    """Names of equal patches whose labels differ, one tuple a group."""
    strangers: tuple[str, ...]
    """Labels without files and files without labels, one line each."""
    md5: Mapping[str, bool] | None
    """Whether gzipped official files have the published sums; None where that was not asked."""
    ids_checked: int | None
    """Names that were compared with the SHA-1 of their pixels; None where that was not asked."""
    wrong_ids: tuple[str, ...]
    """Names that are not the SHA-1 of their pixels."""
    split: Mapping[str, object] | None
    """How training would divide the patches, and how many of each class each part gets."""
    split_error: str | None
    """Why they cannot be divided so; None where they can."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What should be mended, one line each; empty when all is well."""
        found = list(self.strangers)
        for part in self.parts:
            found += part.unreadable
            if part.wrong_size and self.expected_px is not None:
                height, width = self.expected_px
                found.append(
                    f"{len(part.wrong_size)} of {part.patches} {part.name} patches are not "
                    f"{width}×{height} px, the first is {part.wrong_size[0]}"
                )
        found += [f"equal patches with different labels: {' = '.join(g)}" for g in self.conflicts]
        found += [
            f"{name} does not have the published MD5: get the official file again"
            for name, good in (self.md5 or {}).items()
            if not good
        ]
        found += [f"{name} is not the SHA-1 of its pixels" for name in self.wrong_ids]
        if self.split_error is not None:
            found.append(self.split_error)
        return tuple(found)

    def as_dict(self) -> dict[str, object]:
        """All of it, JSON-ready."""
        return {
            "layout": self.layout,
            "classes": list(self.class_names),
            "expected_px": None if self.expected_px is None else list(self.expected_px),
            "parts": {part.name: _part_dict(part) for part in self.parts},
            "duplicates": {"groups": self.duplicate_groups, "across": dict(self.across)},
            "conflicting_labels": [list(group) for group in self.conflicts],
            "strangers": list(self.strangers),
            "md5": None if self.md5 is None else dict(self.md5),
            "ids": None
            if self.ids_checked is None
            else {"checked": self.ids_checked, "wrong": list(self.wrong_ids)},
            "split": None if self.split is None else dict(self.split),
            "problems": list(self.problems),
        }

    def __str__(self) -> str:
        lines = [f"layout: {self.layout}, classes {', '.join(self.class_names)}"]
        for part in self.parts:
            lines += _part_lines(part)
        shared = ", ".join(f"{pair}: {count}" for pair, count in self.across.items())
        lines.append(
            f"equal patches: {self.duplicate_groups} groups"
            + (f"; groups in two parts: {shared}" if shared else ", none in two parts")
        )
        if self.md5 is not None:
            good = sum(self.md5.values())
            lines.append(f"MD5 of gzipped official files: {good} of {len(self.md5)} as published")
        if self.ids_checked is not None:
            good = self.ids_checked - len(self.wrong_ids)
            lines.append(f"ids: {good} of {self.ids_checked} are the SHA-1 of their pixels")
        if self.split is not None:
            lines += _split_lines(self.split)
        problems = self.problems
        lines.append(f"problems: {len(problems) or 'none'}")
        lines += [f"  {problem}" for problem in problems[:_SHOWN]]
        if len(problems) > _SHOWN:
            lines.append(f"  and {len(problems) - _SHOWN} more")
        return "\n".join(lines)


def check_source(
    source: Source,
    split: Split,
    *,
    patch_px: int | None = None,
    md5: Mapping[str, bool] | None = None,
    verify_ids: bool = False,
    cache: Path | None = None,
    on_patches: OnPatches | None = None,
) -> CheckReport:
    """Read every patch of a source once and report what is there; see ``PatchFolder.check``.

    Args:
        source: with what is bad left in it.
        split: how training would divide the patches.
        patch_px: side that patches should have; None takes the most frequent size for right.
        md5: whether gzipped official files have the published sums, where that was looked at.
        verify_ids: compare Kaggle ids with the SHA-1 of their pixels.
        cache: folder for what was read, None for the user's.
        on_patches: called with (patches read, patches in all).
    """
    sets: dict[str, UnlabelledPatches] = dict(source.parts)
    if source.unlabelled is not None:
        sets["unlabelled"] = source.unlabelled
    scans = _scan(sets, cache, on_patches)
    expected = _expected(scans, patch_px)
    digests = np.concatenate([scan.digests for scan in scans.values()])
    group = np.where(
        np.concatenate([scan.readable for scan in scans.values()]), group_equal(digests), -1
    )
    groups = dict(
        zip(
            sets,
            np.split(group, np.cumsum([len(patches) for patches in sets.values()])[:-1]),
            strict=True,
        )
    )
    ids_checked, wrong_ids = _check_ids(sets, scans) if verify_ids else (None, ())
    division, split_error = _divide(source, split, patch_px, cache)
    return CheckReport(
        layout=source.layout,
        class_names=source.classes,
        parts=tuple(
            _report(name, sets[name], source, scans[name], groups[name], expected) for name in sets
        ),
        expected_px=expected,
        duplicate_groups=_groups(group),
        across=_across(groups),
        conflicts=_conflicts(source, groups),
        strangers=source.problems,
        md5=md5,
        ids_checked=ids_checked,
        wrong_ids=wrong_ids,
        split=division,
        split_error=split_error,
    )


def _scan(
    sets: Mapping[str, UnlabelledPatches], cache: Path | None, on_patches: OnPatches | None
) -> dict[str, Scan]:
    done, total = 0, sum(len(patches) for patches in sets.values())
    scans: dict[str, Scan] = {}
    for name, patches in sets.items():

        def step(here: int, _: int, before: int = done) -> None:
            if on_patches is not None:
                on_patches(before + here, total)

        scans[name] = scan_patches(patches, cache=cache, fresh=True, on_patches=step)
        done += len(patches)
    return scans


def _expected(scans: Mapping[str, Scan], patch_px: int | None) -> tuple[int, int] | None:
    if patch_px is not None:
        return patch_px, patch_px
    sizes = sum((_sizes(scan) for scan in scans.values()), Counter[tuple[int, int]]())
    return sizes.most_common(1)[0][0] if sizes else None


def _sizes(scan: Scan) -> Counter[tuple[int, int]]:
    sizes, counts = np.unique(scan.sizes_px[scan.readable], axis=0, return_counts=True)
    return Counter({(int(h), int(w)): int(n) for (h, w), n in zip(sizes, counts, strict=True)})


def _report(
    name: str,
    patches: UnlabelledPatches,
    source: Source,
    scan: Scan,
    group: NDArray[np.int64],
    expected: tuple[int, int] | None,
) -> PartReport:
    labelled = source.parts.get(name)
    counts = (
        {}
        if labelled is None
        else dict(
            zip(
                source.classes,
                np.bincount(labelled.labels, minlength=len(source.classes)).tolist(),
                strict=True,
            )
        )
    )
    slides = None if labelled is None or labelled.slides is None else len(set(labelled.slides))
    names = patches.names
    wrong = scan.readable & (scan.sizes_px != (expected or (0, 0))).any(axis=1)
    return PartReport(
        name=name,
        patches=len(patches),
        classes=counts,
        slides=slides,
        sizes_px=dict(_sizes(scan).most_common()),
        unreadable=tuple(_why(patches, int(i)) for i in np.flatnonzero(~scan.readable)),
        wrong_size=tuple(names[i] for i in np.flatnonzero(wrong).tolist()),
        duplicate_groups=_groups(group),
        duplicate_patches=int((group >= 0).sum()) - len(np.unique(group[group >= 0])),
    )


def _why(patches: UnlabelledPatches, index: int) -> str:
    try:
        patches.read(index)
    except DataError as error:
        return str(error)
    return f"{patches.names[index]} could not be read at first, and then could"


def _groups(group: NDArray[np.int64]) -> int:
    """How many numbers occur more than once; −1 stands for nothing."""
    _, counts = np.unique(group[group >= 0], return_counts=True)
    return int((counts > 1).sum())


def _across(groups: Mapping[str, NDArray[np.int64]]) -> dict[str, int]:
    shared = {
        f"{one} & {other}": len(np.setdiff1d(np.intersect1d(groups[one], groups[other]), [-1]))
        for one, other in itertools.combinations(groups, 2)
    }
    return {pair: count for pair, count in shared.items() if count}


def _conflicts(
    source: Source, groups: Mapping[str, NDArray[np.int64]]
) -> tuple[tuple[str, ...], ...]:
    if not source.parts:
        return ()
    patches = Joined(tuple(source.parts.values()))
    group = np.concatenate([groups[name] for name in source.parts])
    names = patches.names
    found = conflicting(group, patches.labels, group >= 0)
    return tuple(tuple(names[i] for i in indices) for indices in found)


def _check_ids(
    sets: Mapping[str, UnlabelledPatches], scans: Mapping[str, Scan]
) -> tuple[int | None, tuple[str, ...]]:
    named = [name for name, patches in sets.items() if names_are_digests(patches)]
    if not named:
        return None, ()
    wrong: list[str] = []
    checked = 0
    for part in named:
        scan = scans[part]
        for index, name in enumerate(sets[part].names):
            if scan.readable[index]:
                checked += 1
                if scan.digests[index].tobytes().hex() != name:
                    wrong.append(name)
    return checked, tuple(wrong)


def _divide(
    source: Source, split: Split, patch_px: int | None, cache: Path | None
) -> tuple[dict[str, object] | None, str | None]:
    try:
        data = divide(source, split, skip_bad=True, patch_px=patch_px, cache=cache)
    except DataError as error:
        return None, str(error)
    return _describe(data), None


def _describe(data: PatchData) -> dict[str, object]:
    parts = {"train": data.train, "valid": data.valid} | ({"test": data.test} if data.test else {})
    counts = {
        name: dict(
            zip(
                data.classes,
                np.bincount(patches.labels, minlength=len(data.classes)).tolist(),
                strict=True,
            )
        )
        for name, patches in parts.items()
    }
    assert data.split is not None  # divide() has made it
    return {
        **data.split.as_dict(),
        "parts": counts,
        "left_out": dict(Counter(data.left_out.values())),
    }


def _part_dict(part: PartReport) -> dict[str, object]:
    return {
        "patches": part.patches,
        "classes": dict(part.classes),
        "slides": part.slides,
        "sizes_px": [
            {"height": h, "width": w, "patches": count} for (h, w), count in part.sizes_px.items()
        ],
        "unreadable": list(part.unreadable),
        "wrong_size": list(part.wrong_size),
        "duplicate_groups": part.duplicate_groups,
        "duplicate_patches": part.duplicate_patches,
    }


def _part_lines(part: PartReport) -> list[str]:
    total = max(1, part.patches)
    balance = ", ".join(
        f"{count} {name} ({100 * count / total:.1f} %)" for name, count in part.classes.items()
    )
    sizes = ", ".join(f"{w}×{h} px: {count}" for (h, w), count in part.sizes_px.items())
    lines = [f"{part.name}: {part.patches} patches" + (f": {balance}" if balance else "")]
    lines.append(f"  sizes: {sizes or 'none could be read'}")
    if part.slides is not None:
        lines.append(f"  slides: {part.slides}")
    if part.unreadable:
        lines.append(f"  unreadable: {len(part.unreadable)}")
    if part.duplicate_groups:
        lines.append(
            f"  equal patches: {part.duplicate_groups} groups, "
            f"{part.duplicate_patches} more than needed"
        )
    return lines


def _split_lines(split: Mapping[str, object]) -> list[str]:
    parts, left_out = split["parts"], split["left_out"]
    assert isinstance(parts, dict)
    assert isinstance(left_out, dict)
    how = ", ".join(
        f"{key} {value}" for key, value in split.items() if key not in ("parts", "left_out")
    )
    lines = [f"split for training: {how}"]
    for name, counts in parts.items():
        shown = ", ".join(f"{count} {label}" for label, count in counts.items())
        lines.append(f"  {name}: {sum(counts.values())} patches: {shown}")
    if left_out:
        shown = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        lines.append(f"  left out: {shown}")
    return lines
