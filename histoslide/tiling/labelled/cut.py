"""Annotated slides cut into a data set that training takes as it is."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histoslide.errors import HistoslideError, SettingsDifferError, StoreError
from histoslide.storage.location import Location, readable_name
from histoslide.storage.records import from_json, to_builtins, to_json
from histoslide.storage.writing import named_difference, restore_swap, swap_folder, whole_file
from histoslide.tiling.labelled.label_rule import NORMAL, TUMOUR
from histoslide.tiling.labelled.outputs import apart, write_outputs
from histoslide.tiling.labelled.patient_split import (
    PARTS,
    Fractions,
    read_patient_split,
    split_patients,
    write_patient_split,
)
from histoslide.tiling.labelled.picture import write_picture
from histoslide.tiling.labelled.planning import CutOptions, PlannedPatches, plan_patches
from histoslide.tiling.labelled.record import (
    PatchesRecord,
    PatchFormat,
    PatchSettings,
    SlideCounts,
)
from histoslide.tiling.labelled.sampling import fair_shares
from histoslide.tiling.labelled.shard import Shard, cut_shard
from histoslide.tiling.labelled.slide_list import LabelledSlide, Part

logger = logging.getLogger(__name__)

RECORD, SPLIT = "patches.json", "split.csv"
_SHARDS = ".slides"


@dataclass(frozen=True, kw_only=True)
class LabelledSet:
    """Labelled patches that lie on disk."""

    folder: Path
    """Where."""
    record: PatchesRecord
    """What is in it."""
    failed: Mapping[Location, HistoslideError]
    """Slides that could not be used."""

    def counts(self, part: Part) -> tuple[int, int, int]:
        """Slides, normal patches and patches with tumour of a part."""
        slides = [slide for slide in self.record.slides if slide.part == part]
        return len(slides), sum(s.normal for s in slides), sum(s.tumour for s in slides)


def cut_labelled(
    slides: Sequence[LabelledSlide],
    annotations: Path,
    folder: Path,
    options: CutOptions,
    *,
    split: Fractions | Path = Fractions(),  # noqa: B008 - frozen
    patch_format: PatchFormat = "pcam-hdf5",
    overwrite: bool = False,
    on_planned: Callable[[int, int], None] | None = None,
    on_patches: Callable[[int, int], None] | None = None,
) -> LabelledSet:
    """Cut labelled patches; a run that was stopped goes on where it was.

    First all slides are planned, which reads no more than their overviews; then patients are
    divided, and normal patches balanced within each part. Then each slide's patches are read into
    the hidden folder ``.slides``, and all are put together at the end, so that no more pixels are
    in memory than those of some windows.

    Args:
        slides: to cut.
        annotations: folder of annotations, or the file of the only slide.
        folder: to create or to continue.
        options: how patches are cut.
        split: how patients are divided, or the ``split.csv`` of another run.
        patch_format: of the files.
        overwrite: build a new set beside the old one and replace it when it is whole.
        on_planned: called with (slides planned, slides in all).
        on_patches: called with (patches read, patches in all).

    Raises:
        SettingsDifferError: the folder was begun with other settings and ``overwrite`` is false.
        StoreError: the folder holds something else or cannot be written.
        HistoslideError: no slide can be used, or the split cannot be.
    """
    _refuse_one_for_several(slides, annotations)
    settings = _settings(slides, options, split, patch_format)
    folder = folder if folder.name else folder.absolute()
    restore_swap(folder)
    target, there = _target(folder, settings, overwrite=overwrite)
    if there is not None:
        return LabelledSet(folder=folder, record=there, failed={})
    try:
        target.mkdir(parents=True, exist_ok=True)
        _write_record(target, PatchesRecord(settings=settings, complete=False))
        planned, failed = _plan(slides, annotations, options, on_planned)
        part_of = _divide(planned, target, options, split)
        planned = _balanced(planned, part_of, options)
        shards = _cut(planned, target, options, failed, on_patches)
        kept = apart(shards, part_of)
        write_outputs(shards, kept, part_of, target, patch_format=patch_format)
        counts = []
        for shard, keep in zip(shards, kept, strict=True):
            only = shard.planned.only(np.flatnonzero(keep))
            counts.append(_counts(shard, only, part_of, int((~keep).sum())))
        record = PatchesRecord(
            settings=settings,
            complete=not failed,
            slides=tuple(counts),
            failed={path.name: str(error) for path, error in failed.items()} or None,
        )
        _write_record(target, record)
        if not failed:
            shutil.rmtree(target / _SHARDS)
        if target != folder:
            swap_folder(target, folder)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror or error}") from error
    _warn_of_parts(record)
    return LabelledSet(folder=folder, record=record, failed=failed)


def _refuse_one_for_several(slides: Sequence[LabelledSlide], annotations: Path) -> None:
    looked_for = [s for s in slides if s.annotations is None and s.tumour is not False]
    if len(looked_for) > 1 and annotations.is_file():
        raise HistoslideError(
            f"{annotations} is one file for {len(looked_for)} slides: give the folder, or name the "
            "file of each in a list with the columns slide,annotations"
        )


def _settings(
    slides: Sequence[LabelledSlide],
    options: CutOptions,
    split: Fractions | Path,
    patch_format: PatchFormat,
) -> PatchSettings:
    tissue = options.tissue
    listed = [
        (
            slide.path.name, slide.owner, slide.exhaustive, slide.part, slide.tumour is False,
            slide.mpp and slide.mpp.value, *_files(slide),
        )
        for slide in slides
    ]  # fmt: skip
    return PatchSettings(
        slides=tuple(slide.path.name for slide in slides),
        list_sha256=hashlib.sha256(repr(listed).encode()).hexdigest(),
        target_mpp=options.target_mpp,
        input_px=options.input_px,
        label_px=options.label_px,
        stride_px=options.stride_px,
        label_rule=str(options.rule),
        classes=options.classes.as_dict(),
        tissue=tissue.method if tissue.mask is None else tissue.mask.name,
        tissue_threshold=tissue.threshold,
        roi=None if tissue.roi is None else tissue.roi.name,
        per_slide=options.per_slide,
        balance=options.balance,
        seed=options.seed,
        unannotated="normal" if options.unannotated_normal else "refused",
        split=split.name if isinstance(split, Path) else ",".join(f"{f:g}" for f in split.each),
        format=patch_format,
    )


def _files(slide: LabelledSlide) -> tuple[str, ...]:
    """Its own mask and region; nothing of a slide that has none, as lists of old."""
    named = [f"{what} {file.name}" for what in ("mask", "roi") if (file := getattr(slide, what))]
    return tuple(named)


def _target(
    folder: Path, settings: PatchSettings, *, overwrite: bool
) -> tuple[Path, PatchesRecord | None]:
    """Where to write; and what is there, if it is all that is asked for."""
    if not folder.exists() or not any(folder.iterdir()):
        return folder, None
    there = _read_record(folder)
    if overwrite and not (there.settings == settings and not there.complete):
        target = folder.with_name(f".{folder.name}.new")
        if target.exists() and not _is_begun(target, settings):
            shutil.rmtree(target)
        return target, None
    if there.settings != settings:
        difference = named_difference(to_builtins(there.settings), to_builtins(settings))
        raise SettingsDifferError(
            f"{folder} was made with other settings ({difference}): choose another --out or pass "
            "--overwrite"
        )
    return folder, there if there.complete else None


def _plan(
    slides: Sequence[LabelledSlide],
    annotations: Path,
    options: CutOptions,
    on_planned: Callable[[int, int], None] | None,
) -> tuple[list[PlannedPatches], dict[Location, HistoslideError]]:
    planned: list[PlannedPatches] = []
    failed: dict[Location, HistoslideError] = {}
    for number, slide in enumerate(slides, 1):
        try:
            found = plan_patches(slide, annotations, options)
        except HistoslideError as error:
            failed[slide.path] = error
            logger.error("%s is left out: %s", readable_name(slide.path), error)  # noqa: TRY400
        else:
            planned.append(found)
            _say(found)
        if on_planned is not None:
            on_planned(number, len(slides))
    if not planned:
        raise next(iter(failed.values()))
    return planned, failed


def _say(planned: PlannedPatches) -> None:
    name, truth = planned.slide.path.name, planned.truth
    for what, count in truth.mended.items():
        logger.warning("%s: %d %s", truth.source and truth.source.name, count, what)
    if truth.lesions() and not planned.possible[TUMOUR]:
        logger.warning("%s: none of its %d lesions gives a patch", name, len(truth.lesions()))
    if not sum(planned.possible):
        logger.warning("%s gives no patch", name)


def _divide(
    planned: Sequence[PlannedPatches], target: Path, options: CutOptions, split: Fractions | Path
) -> dict[str, Part]:
    """The part of every patient; those of a run that was stopped stay where they were."""
    patches: dict[str, tuple[int, int]] = {}
    fixed: dict[str, Part] = {}
    if isinstance(split, Path):
        fixed |= read_patient_split(split)
    if (target / SPLIT).exists():
        fixed |= read_patient_split(target / SPLIT)
    for plan in planned:
        owner = plan.slide.owner
        before, more = patches.get(owner, (0, 0)), plan.counts
        patches[owner] = before[0] + more[0], before[1] + more[1]
        part = plan.slide.part
        if part is not None:
            if fixed.get(owner, part) != part:
                raise HistoslideError(
                    f"the patient {owner} would be in {fixed[owner]} and in {part}: write one part "
                    "for all slides of a patient"
                )
            fixed[owner] = part
    fractions = Fractions() if isinstance(split, Path) else split
    if isinstance(split, Path) and (new := [name for name in patches if name not in fixed]):
        raise HistoslideError(
            f"{split} does not say where {new[0]} belongs: add a line, or pass --split 0.8,0.1,0.1"
        )
    part_of = split_patients(patches, fixed=fixed, fractions=fractions, seed=options.seed)
    owners = {plan.slide.path.name: plan.slide.owner for plan in planned}
    write_patient_split(target / SPLIT, part_of, owners)
    if alone := sum(not plan.slide.patient for plan in planned):
        logger.info(
            "%d of %d slides have no patient in a list, and each counts as one of its own",
            alone,
            len(planned),
        )
    return part_of


def _balanced(
    planned: Sequence[PlannedPatches], part_of: Mapping[str, Part], options: CutOptions
) -> list[PlannedPatches]:
    """The same with at most so many normal patches a part, as equal a slide as may be."""
    if options.balance is None:
        return list(planned)
    result = list(planned)
    for part in PARTS:
        mine = [i for i, plan in enumerate(planned) if part_of[plan.slide.owner] == part]
        tumour = sum(planned[i].counts[TUMOUR] for i in mine)
        shares = fair_shares(
            [planned[i].counts[NORMAL] for i in mine], round(options.balance * tumour)
        )
        for i, share in zip(mine, shares, strict=True):
            rng = np.random.default_rng((options.seed, 1, *planned[i].quickhash.encode()))
            result[i] = planned[i].fewer_normal(share, rng)
    return result


def _cut(
    planned: Sequence[PlannedPatches],
    target: Path,
    options: CutOptions,
    failed: dict[Location, HistoslideError],
    on_patches: Callable[[int, int], None] | None,
) -> list[Shard]:
    total, done = sum(len(plan.cells) for plan in planned), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if on_patches is not None:
            on_patches(done, total)

    shards: list[Shard] = []
    for plan in planned:
        path = plan.slide.path
        try:
            shards.append(cut_shard(plan, target / _SHARDS, options.access, on_patches=count))
            write_picture(shards[-1], target / "slides" / path.name / "patches.png", options.access)
        except HistoslideError as error:
            failed[path] = error
            logger.error("%s is left out: %s", readable_name(path), error)  # noqa: TRY400
    if not shards:
        raise next(iter(failed.values()))
    return shards


def _counts(
    shard: Shard, kept: PlannedPatches, part_of: Mapping[str, Part], equal: int
) -> SlideCounts:
    slide, truth, mpp = kept.slide, kept.truth, kept.grid.slide_mpp
    return SlideCounts(
        slide=slide.path.name,
        quickhash=kept.quickhash,
        patient=slide.owner,
        part=part_of[slide.owner],
        mpp=mpp.value,
        mpp_source=mpp.source,
        annotations=None if truth.source is None else truth.source.name,
        annotations_sha256=kept.annotations_sha256,
        mask=None if slide.mask is None else slide.mask.name,
        roi=None if slide.roi is None else slide.roi.name,
        exhaustive=slide.exhaustive,
        mended=dict(truth.mended),
        lesions=len(truth.lesions()),
        normal=kept.counts[NORMAL],
        tumour=kept.counts[TUMOUR],
        possible_normal=kept.possible[NORMAL],
        possible_tumour=kept.possible[TUMOUR],
        unreadable=shard.unreadable,
        equal=equal,
    )


def _warn_of_parts(record: PatchesRecord) -> None:
    for part in PARTS:
        mine = [slide for slide in record.slides if slide.part == part]
        for name, count in (
            ("normal", sum(slide.normal for slide in mine)),
            ("tumour", sum(slide.tumour for slide in mine)),
        ):
            if mine and not count:
                logger.warning("the part %s has no patch of the class %s", part, name)
    if equal := sum(slide.equal for slide in record.slides):
        logger.info("%d patches left out: another part has the same pixels", equal)


def _read_record(folder: Path) -> PatchesRecord:
    try:
        raw = (folder / RECORD).read_bytes()
        return from_json(raw, PatchesRecord, source=folder / RECORD, exact=True)
    except (OSError, HistoslideError):
        raise StoreError(
            f"{folder} exists and is not a folder of labelled patches made by histoslide: choose "
            "another --out"
        ) from None


def _is_begun(folder: Path, settings: PatchSettings) -> bool:
    try:
        return _read_record(folder).settings == settings
    except StoreError:
        return False  # killed before its settings were written


def _write_record(folder: Path, record: PatchesRecord) -> None:
    with whole_file(folder / RECORD) as partial:
        partial.write_text(to_json(record, ascii_only=True), encoding="utf-8")
