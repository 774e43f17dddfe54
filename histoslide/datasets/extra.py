"""Further folders of patches that are only trained on, beside data of any layout."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from histoslide.datasets.folders import list_classes, loose_images, unique_names
from histoslide.datasets.mined import read_mined
from histoslide.datasets.patches import ImageFiles
from histoslide.datasets.source import Source
from histoslide.errors import DataError

_SAME = {"0": "normal", "1": "tumour", "normal": "0", "tumour": "1"}
"""Two ways of calling the same classes."""


def with_extra(
    source: Source, folders: tuple[Path, ...], repeat: tuple[int, ...], *, skip_bad: bool
) -> Source:
    """The same with the part ``extra``.

    Patches of a folder that ``histoslide mine`` wrote know their slides, so that what is of a slide
    that is held back for validation is left out or warned of.

    Args:
        source: what the data offer.
        folders: each has a folder per class, of which some may be absent; ``0`` and ``1`` are
            ``normal`` and ``tumour``.
        repeat: how often an epoch shows the patches of each of them: one number for all, or one
            for each; none means once.
        skip_bad: leave out images that lie beside the classes.

    Raises:
        DataError: no images, classes that the data lack, images in no class while ``skip_bad`` is
            false, or repeats that do not go with the folders.
    """
    repeats = _repeats(folders, repeat)
    rows: list[tuple[str, Path, str, str]] = []
    labels: list[int] = []
    slides: list[str] = []
    counts = []
    problems = []
    for root in folders:
        if not root.is_dir():
            raise DataError(f"{root} is not a folder")
        if not (files := list_classes(root)):
            raise DataError(f"{root} holds no folder of images: expected one folder per class")
        class_of = {name: name if name in source.classes else _SAME.get(name) for name in files}
        if unknown := sorted(name for name, of in class_of.items() if of not in source.classes):
            raise DataError(
                f"{root} has classes {unknown} that the training set lacks: it has "
                f"{list(source.classes)}"
            )
        if problem := loose_images(root):
            problems.append(problem)
        slide_of = _slides_of(root)
        for name, of in sorted(class_of.items(), key=lambda it: source.classes.index(it[1] or "")):
            rows += [("extra", root, name, file) for file in files[name]]
            labels += [source.classes.index(of or "")] * len(files[name])
            slides += [slide_of.get(f"{name}/{file}", "") for file in files[name]]
        counts.append(sum(map(len, files.values())))
    if problems and not skip_bad:
        raise DataError(f"{problems[0]}; pass --skip-bad to leave them out")
    taken = {name for patches in source.parts.values() for name in patches.names}
    patches = ImageFiles(
        tuple(root / name / file for _, root, name, file in rows),
        np.array(labels, dtype=np.int64),
        given_names=tuple(unique_names(rows, taken)),
        slides=tuple(slides) if any(slides) else None,
    )
    return dataclasses.replace(
        source,
        parts={**source.parts, "extra": patches},
        extra_repeats=tuple(zip(counts, repeats, strict=True)),
        problems=(*source.problems, *problems),
    )


def _slides_of(root: Path) -> dict[str, str]:
    """Slides of the patches of a folder, as far as it says where they are from."""
    record = read_mined(root)
    if record is None:
        return {}
    heatmaps = record.settings.heatmaps
    if any(patch.heatmap >= len(heatmaps) for patch in record.patches):
        raise DataError(f"{root} cannot be used: its record names a heatmap that it lacks")
    return {patch.file: heatmaps[patch.heatmap].slide for patch in record.patches}


def _repeats(extra: tuple[Path, ...], given: tuple[int, ...]) -> tuple[int, ...]:
    for repeat in given:
        if repeat < 1:
            raise DataError(f"extra patches are shown at least once an epoch, not {repeat} times")
    if len(given) not in {0, 1, len(extra)} or (given and not extra):
        raise DataError(
            f"{len(given)} numbers of repeats for {len(extra)} extra folders: give one for all of "
            "them, or one for each"
        )
    return given if len(given) == len(extra) else (*given, 1)[:1] * len(extra)
