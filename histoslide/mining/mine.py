"""From heatmaps that are partly wrong to a folder of patches to train on."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histoslide import quantities
from histoslide.datasets.mined import (
    MINED_NAME,
    MinedHeatmap,
    MinedPatch,
    MinedRecord,
    MinedSlide,
    MiningSettings,
    Why,
    read_mined,
)
from histoslide.errors import DataError, HistoslideError, OutputExistsError, SettingsDifferError
from histoslide.geometry import CellRange
from histoslide.grid.cells import TileGrid
from histoslide.grid.windows import read_windows
from histoslide.mining.reference import KnownTruth, Reference
from histoslide.mining.spreading import spread_by_look
from histoslide.mining.wrong import WrongCells, wrong_cells
from histoslide.model.features import Features
from histoslide.render.tile_sheet import contact_sheet
from histoslide.slide import Slide
from histoslide.storage.lock import hold
from histoslide.storage.records import from_json, to_builtins, to_json
from histoslide.storage.writing import (
    named_difference,
    restore_swap,
    swap_folder,
    swap_name,
    whole_file,
)
from histoslide.store import Heatmap
from histoslide.tiling.labelled.label_rule import LabelRule
from histoslide.tiling.writers import save_tile
from histoslide.viewer.catalogue import Catalogue
from histoslide.viewer.reviews import reviewed_slide

logger = logging.getLogger(__name__)

MOST_LOOKED_AT = 3000
"""Wrong cells of a kind of a slide whose features are computed at most, so that neither memory nor
time grows with how wrong a heatmap is."""

LOOKS_A_FOCUS = 10
"""Of one focus so many times the patches that it may give are looked at."""

SHEET_TILES = 60
"""Patches of each kind on the sheet."""

_SETTINGS, _SLIDES = "settings.json", ".slides"
"""In a folder that is not whole yet."""

OnSlide = Callable[[int, int, str], None]
"""Called with slides done, slides in all, and what there is to say."""


@dataclass(frozen=True, kw_only=True)
class MiningOptions:
    """What is taken."""

    above: float = 0.5
    """A cell without tumour of this probability or more is a false positive."""
    below: float = 0.5
    """A cell with tumour of a lower probability is a miss."""
    rule: LabelRule = LabelRule()  # noqa: RUF009 - frozen
    """What of a cell's label footprint makes it tumour."""
    per_slide: int = 200
    """Most patches of each kind of a slide."""
    per_lesion: int = 20
    """Most patches of one focus of a kind."""
    folders: tuple[str, str] = ("0", "1")
    """What the folders of normal and tumour patches are called."""

    def __post_init__(self) -> None:
        for name, value in (("--above", self.above), ("--below", self.below)):
            if not 0 <= value <= 1:
                raise HistoslideError(f"{name} must lie in 0-1, not {value:g}")
        for name, number in (("--per-slide", self.per_slide), ("--per-lesion", self.per_lesion)):
            if number < 1:
                raise HistoslideError(f"{name} must be at least 1, not {number}")
        if len(set(self.folders)) < 2 or any(
            not name or "/" in name or name.startswith(".") for name in self.folders
        ):
            raise HistoslideError(
                f"--folders {','.join(self.folders)}: name two folders, of normal and of tumour"
            )


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A heatmap that is mined."""

    key: str
    heat: Heatmap
    slide: Slide
    known: KnownTruth

    @property
    def recorded(self) -> MinedHeatmap:
        record, known = self.heat.record, self.known
        return MinedHeatmap(
            slide=record.slide.name,
            quickhash=record.slide.quickhash,
            heatmap=self.heat.path.name,
            heatmap_id=self.heat.id,
            model=record.model.name,
            model_sha256=record.model.sha256,
            truth=known.kind,
            truth_file=None if known.file is None else known.file.name,
            truth_sha256=known.sha256,
            exhaustive=known.exhaustive,
        )


def mine(
    catalogue: Catalogue,
    reference: Reference,
    features: Callable[[], Features],
    out: Path,
    options: MiningOptions = MiningOptions(),
    *,
    model_sha256: str,
    overwrite: bool = False,
    on_slide: OnSlide | None = None,
) -> MinedRecord:
    """Write patches that heatmaps got wrong into a folder per class.

    ``mined.json`` in it says of each patch where it is from and why it was taken, and a sheet of
    them lies beside the folder, under its name with ``.png``. A run that was killed goes on after
    the last slide that it finished. A slide that is marked for choosing or judging models, or of
    which nothing is known, is left out, and the record says so.

    Args:
        catalogue: heatmaps and their slides.
        reference: what is true of the slides.
        features: makes what tells patches apart by their look, when it is needed.
        out: folder to write; its parts get their names when all is whole.
        options: what is taken.
        model_sha256: of the weights behind ``features``: they must have scored the heatmaps.
        overwrite: replace an existing folder.
        on_slide: is told of progress.

    Raises:
        OutputExistsError: ``out`` exists and is no such folder.
        SettingsDifferError: it was mined with other settings.
        HistoslideError: nothing is left to mine, or a heatmap, a slide or its truth cannot be used.
    """
    jobs, left_out = _jobs(catalogue, reference, model_sha256)
    settings = MiningSettings(
        heatmaps=tuple(job.recorded for job in jobs),
        above=options.above,
        below=options.below,
        label_rule=str(options.rule),
        classes=reference.classes.as_dict(),
        per_slide=options.per_slide,
        per_lesion=options.per_lesion,
        folders=options.folders,
    )
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with hold(out):
        restore_swap(out)
        if not overwrite and (whole := _whole(out, settings)) is not None:
            logger.info("%s is whole already", out)
            return whole
        work = _begun(out, settings)
        slides: list[MinedSlide] = []
        looks: Features | None = None
        for index, job in enumerate(jobs):
            kept = work / _SLIDES / f"{index}.json"
            if kept.exists():
                slides.append(from_json(kept.read_bytes(), MinedSlide, source=kept))
            else:
                looks = looks or features()
                slides.append(_mine_slide(job, index, looks, work, options))
                with whole_file(kept) as partial:
                    partial.write_text(to_json(slides[-1]), encoding="utf-8")
            if on_slide is not None:
                on_slide(index + 1, len(jobs), job.heat.record.slide.name)
        record = MinedRecord(settings=settings, slides=tuple(slides), left_out=left_out)
        (work / MINED_NAME).write_text(to_json(record, ascii_only=True), encoding="utf-8")
        shutil.rmtree(work / _SLIDES)
        (work / _SETTINGS).unlink()
        _write_sheet(record, work, sheet_path(out), jobs[0].heat.grid)
        if out.exists():
            swap_folder(work, out)
        else:
            work.replace(out)
    return record


def sheet_path(out: Path) -> Path:
    """Where the sheet of a folder lies: beside it, as pictures in it would be taken for patches."""
    return out.with_name(f"{out.name}.png")


def _jobs(
    catalogue: Catalogue, reference: Reference, model_sha256: str
) -> tuple[list[_Job], dict[str, str]]:
    """Heatmaps to mine, and those that are not, with the reason."""
    jobs: list[_Job] = []
    left_out: dict[str, str] = {}
    for entry in catalogue.entries():
        heat = catalogue.source(entry.key).heat
        name = heat.record.slide.name
        slide = reviewed_slide(heat)
        reason = reference.refusal(name)
        known = None if reason else reference.find(slide)
        if reason:
            reason = f"{name} must not be learnt from: {reason}"
        elif known is None:
            reason = f"nothing is known of {name}"
        elif not heat.complete:
            raise DataError(f"{heat.path} is not finished: run score again first")
        elif heat.record.model.sha256 != model_sha256:
            raise DataError(
                f"{heat.path.name} was scored by {heat.record.model.name} "
                f"({heat.record.model.sha256[:12]}), not by this model ({model_sha256[:12]}): pass "
                "--model with the bundle that scored it"
            )
        if reason or known is None:
            left_out[heat.path.name] = reason or ""
            logger.warning("%s is left out: %s", heat.path.name, reason)
            continue
        opened = catalogue.slide(entry.key)
        if opened is None:
            raise DataError(
                f"{name}, which {heat.path.name} was made from, is not at hand: pass --slide"
            )
        jobs.append(_Job(key=entry.key, heat=heat, slide=opened, known=known))
    if not jobs:
        raise DataError(f"nothing is left to mine: {next(iter(left_out.values()))}")
    return jobs, left_out


def _whole(out: Path, settings: MiningSettings) -> MinedRecord | None:
    """The record of a folder that is there and what is asked for; None where nothing is."""
    if not out.exists():
        if sheet_path(out).exists():
            raise OutputExistsError(f"{sheet_path(out)} exists: pass --overwrite to replace it")
        return None
    record = read_mined(out)
    if record is None:
        raise OutputExistsError(f"{out} exists: pass --overwrite to replace it")
    if record.settings != settings:
        difference = named_difference(to_builtins(record.settings), to_builtins(settings))
        raise SettingsDifferError(f"{out} was mined with others: {difference}: pass --overwrite")
    return record


def _begun(out: Path, settings: MiningSettings) -> Path:
    """The folder to work in: that of a killed run with these settings, or a new one."""
    work = swap_name(out, "partial")
    text = to_json(settings, ascii_only=True)
    begun = work / _SETTINGS
    if begun.exists() and begun.read_text(encoding="utf-8") == text:
        (work / MINED_NAME).unlink(missing_ok=True)
        return work
    if work.exists():
        shutil.rmtree(work)
    (work / _SLIDES).mkdir(parents=True)
    with whole_file(begun) as partial:
        partial.write_text(text, encoding="utf-8")
    return work


def _mine_slide(
    job: _Job, index: int, features: Features, work: Path, options: MiningOptions
) -> MinedSlide:
    found = wrong_cells(
        job.heat,
        job.known.truth,
        exhaustive=job.known.exhaustive,
        rule=options.rule,
        above=options.above,
        below=options.below,
    )
    patches: list[MinedPatch] = []
    kinds: Sequence[tuple[Why, WrongCells, str]] = (
        ("false positive", found[0], options.folders[0]),
        ("miss", found[1], options.folders[1]),
    )
    for why, wrong, folder in kinds:
        looked = wrong.among(MOST_LOOKED_AT, per_focus=LOOKS_A_FOCUS * options.per_lesion)
        looked, pixels = _read(job.slide, job.heat, looked)
        if not len(looked):
            continue
        chosen = spread_by_look(
            features(pixels),
            looked.focus,
            most=options.per_slide,
            per_group=options.per_lesion,
        )
        (work / folder).mkdir(exist_ok=True)
        for i in chosen:
            row, col = (int(part) for part in looked.cells[i])
            name = f"{folder}/{job.key}_r{row:05d}_c{col:05d}.png"
            save_tile(pixels[i], work / name)
            patches.append(
                MinedPatch(
                    file=name,
                    why=why,
                    heatmap=index,
                    row=row,
                    col=col,
                    probability=float(looked.probability[i]),
                    focus=int(looked.focus[i]),
                )
            )
    return MinedSlide(patches=tuple(patches), false_positives=len(found[0]), misses=len(found[1]))


def _read(slide: Slide, heat: Heatmap, wrong: WrongCells) -> tuple[WrongCells, NDArray[np.uint8]]:
    """The tiles of cells as they were scored, (n, side, side, 3); unreadable ones are left out."""
    grid = heat.grid
    side, stride = grid.input_px, grid.stride_px
    pixels = np.zeros((len(wrong), side, side, 3), dtype=np.uint8)
    index = np.full(grid.shape, -1, dtype=np.intp)
    index[tuple(wrong.cells.T)] = np.arange(len(wrong))
    there = np.zeros(len(wrong), dtype=np.bool_)
    for block in grid.blocks():
        mine = index[block.slices]
        if not (mine >= 0).any():
            continue
        for window in read_windows(slide, grid, block, mine >= 0):
            if window.pixels is None:
                continue
            for (row, col), number in _wanted(index, window.cells, window.unreadable):
                top, left = row * stride, col * stride
                pixels[number] = window.pixels[top : top + side, left : left + side]
                there[number] = True
    if not there.all():
        logger.warning("%s: %d tiles cannot be read", slide.name, int((~there).sum()))
    return wrong.only(np.flatnonzero(there)), pixels[there]


def _wanted(
    index: NDArray[np.intp], cells: CellRange, unreadable: NDArray[np.bool_]
) -> list[tuple[tuple[int, int], int]]:
    """Cells of a window, counted from its corner, with their numbers."""
    mine = np.where(unreadable, -1, index[cells.slices])
    return [((int(r), int(c)), int(mine[r, c])) for r, c in np.argwhere(mine >= 0)]


def _write_sheet(record: MinedRecord, folder: Path, path: Path, grid: TileGrid) -> None:
    """False positives first, then misses; nothing where there are none."""
    files = [
        patch.file
        for why in ("false positive", "miss")
        for patch in [it for it in record.patches if it.why == why][:SHEET_TILES]
    ]
    tiles = []
    for file in files:
        with Image.open(folder / file) as image:
            tiles.append(np.asarray(image))
    if tiles:
        counts = Counter(patch.why for patch in record.patches)
        title = (
            f"Mined: {counts['false positive']:,} false positives, {counts['miss']:,} misses, in "
            f"this order, at most {SHEET_TILES} of each; {quantities.resolution(grid.model_mpp)}\n"
            f"The box is the centre {grid.label_px} px that the label speaks of."
        )
        sheet = contact_sheet(tiles, label_px=grid.label_px, title=title, mpp=grid.model_mpp)
        with whole_file(path) as partial:
            Image.fromarray(sheet).save(partial, "PNG")
