"""Run a heatmap again from its own metadata, and compare."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histoslide.comparison.cells import (
    DEFAULT_CROSSING,
    Comparison,
    compare_cells,
    compare_heatmaps,
    read_cells,
)
from histoslide.comparison.same_slide import check_same_slide
from histoslide.errors import BundleError, HistoslideError, MaskError, OutputExistsError, StoreError
from histoslide.geometry import Mpp
from histoslide.grid.status import Status
from histoslide.model.engine import Engine
from histoslide.pipeline.options import TissueOptions
from histoslide.scoring.lazy import BlockModel, LazyHeatmap, make_heatmap
from histoslide.scoring.mode import ScoreMode
from histoslide.slide.access import DEFAULT_ACCESS, SlideAccess
from histoslide.storage.location import Location, as_location, is_remote
from histoslide.store import Heatmap, NgffVersion, open_heatmap, store_heatmap
from histoslide.tissue.masks import METHODS

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """What a heatmap's metadata say of how it was made: enough to make it again."""

    stride_px: int
    """Side of a cell in model pixels."""
    block_cells: int
    """Side of a block in cells."""
    mpp: Mpp
    """Of the slide, with its source."""
    tissue: TissueOptions
    """Which part of the slide, with the files that the caller gave."""
    ngff: NgffVersion
    """OME-Zarr version of the store."""
    model_sha256: str
    """Of the bundle's file."""
    mode: ScoreMode
    """How the cells came by their probabilities."""
    engine: Engine
    """What computed them, and how precisely."""


def find_slide(heat: Heatmap) -> Location:
    """The slide of the recorded name beside a heatmap.

    Raises:
        StoreError: there is none.
    """
    path = heat.path.parent / heat.record.slide.name
    if is_remote(path):
        raise StoreError(f"{path} is not fetched unasked: pass --slide with it")
    if not path.exists():
        raise StoreError(f"{path} does not exist: pass --slide with the slide of {heat.path.name}")
    return path


def replay_settings(
    heat: Heatmap, *, mask: Path | None = None, roi: Path | None = None
) -> ReplaySettings:
    """How a heatmap was made, from its metadata.

    Args:
        heat: stored heatmap.
        mask: the mask file it was made with, if it was.
        roi: the region of interest it was made with, if it was.

    Raises:
        MaskError: a file is missing, or given where none was used.
        StoreError: it was made in a way that its metadata cannot tell.
    """
    recorded = heat.record.mask
    used_mask = recorded.method == "file"
    _refuse_other_file(heat, "mask", mask, used=used_mask, name=recorded.settings.get("file"))
    region = recorded.roi
    _refuse_other_file(heat, "roi", roi, used=region is not None, name=(region or {}).get("file"))
    if not used_mask and recorded.method not in METHODS:
        raise StoreError(
            f"{heat.path.name} was made with the tissue method {recorded.method!r}, which this "
            "histoslide does not know: it cannot be replayed"
        )
    return ReplaySettings(
        stride_px=heat.grid.stride_px,
        block_cells=heat.grid.block_cells,
        mpp=heat.record.slide.resolution,
        tissue=TissueOptions(
            method="none" if used_mask else recorded.method,
            threshold=recorded.threshold,
            mask=mask,
            roi=roi,
        ),
        ngff=heat.record.fingerprint.get("ngff", "0.5"),
        model_sha256=heat.record.model.sha256,
        mode=heat.record.mode.value,
        engine=_engine_of(heat),
    )


def _engine_of(heat: Heatmap) -> Engine:
    try:
        return Engine.parse(heat.record.engine)
    except HistoslideError as error:
        raise StoreError(f"{heat.path.name} cannot be replayed: {error}") from None


def refuse_other_model(heat: Heatmap, sha256: str, given: str) -> None:
    """Make sure that a model is the one that a heatmap was scored with.

    Args:
        heat: stored heatmap.
        sha256: of the given bundle's file.
        given: what to call it.

    Raises:
        BundleError: it is another; both hashes are named.
    """
    recorded = heat.record.model
    if sha256 != recorded.sha256:
        raise BundleError(
            f"{heat.path.name} was scored with {recorded.name} (sha256 {recorded.sha256}), "
            f"but {given} has sha256 {sha256}: pass --model with the bundle it was scored with"
        )


def replay_heatmap(
    heat: Heatmap,
    slide_path: Location | str,
    model: BlockModel,
    *,
    mask: Path | str | None = None,
    roi: Path | str | None = None,
    out: Location | str | None = None,
    access: SlideAccess = DEFAULT_ACCESS,
    sample: int | None = None,
    seed: int = 0,
    threshold: float = DEFAULT_CROSSING,
    tolerance: float = 0.0,
    on_block: Progress | None = None,
) -> Comparison:
    """Score a slide again as its heatmap says it was scored, and compare.

    Args:
        heat: complete heatmap.
        slide_path: the slide it was scored on.
        model: it was scored with; a ``histoslide.scoring.cascade.Cascade`` where another looked
            first.
        mask: the mask file it was made with, if it was.
        roi: the region of interest it was made with, if it was.
        out: keep the new heatmap there; it must not exist, or be one that was begun by the same
            call. None scores into a temporary folder.
        access: how the slide is opened.
        sample: score only so many blocks, drawn at random among those that were scored.
        seed: of the draw.
        threshold: see ``histoslide.comparison.cells.compare_heatmaps``.
        tolerance: likewise.
        on_block: called with (blocks done, blocks in all, cells scored).

    Returns:
        The comparison; A is ``heat``, B the new run.

    Raises:
        BundleError: the model is another one.
        MaskError: a mask or region of interest is missing, not needed, or another one.
        OutputExistsError: ``out`` is a finished heatmap.
        StoreError: the slide is another one, or the store cannot be written.
        HistoslideError: the slide cannot be used, or ``sample`` is below 1 or goes with ``out``.
    """
    slide_path = as_location(slide_path)
    mask = None if mask is None else Path(mask)
    roi = None if roi is None else Path(roi)
    out = None if out is None else as_location(out)
    if sample is not None and (sample < 1 or out is not None):
        raise HistoslideError(
            "a sample of blocks makes no heatmap to keep: leave out --out or --sample"
            if out is not None
            else f"--sample must be at least 1 block, not {sample}"
        )
    if out is not None:
        _refuse_finished(out)
    refuse_other_model(heat, model.sha256, f"model {model.spec.name}")
    settings = replay_settings(heat, mask=mask, roi=roi)
    with access.open(slide_path, mpp=settings.mpp) as slide:
        check_same_slide(heat, slide)
        # Warnings are of no use to a comparison, but belong to a heatmap that is kept.
        tissue, region = settings.tissue.find(slide, ask_nuclei=out is not None)
        lazy = make_heatmap(
            slide,
            model,
            stride_px=settings.stride_px,
            tissue=tissue,
            tissue_threshold=settings.tissue.threshold,
            roi=region,
            block_cells=settings.block_cells,
            mode=settings.mode,
        )
        _refuse_other_plan(heat, lazy, mask, roi)
        if sample is not None:
            return _compare_sample(
                heat, lazy, sample, np.random.default_rng(seed), threshold, tolerance, on_block
            )
        with tempfile.TemporaryDirectory(
            prefix="histoslide-replay-", ignore_cleanup_errors=True
        ) as folder:
            again = store_heatmap(
                lazy,
                Path(folder) / "replay.zarr" if out is None else out,
                ngff=settings.ngff,
                command=f"histoslide replay {heat.path.name}",
                on_block=on_block,
            )
            # While the folder is there: the comparison holds its values in memory.
            return compare_heatmaps(heat, again, threshold=threshold, tolerance=tolerance)


def _refuse_finished(out: Location) -> None:
    """A finished store would be compared as it is, and nothing would have been replayed."""
    if out.exists() and open_heatmap(out, allow_incomplete=True).complete:
        raise OutputExistsError(f"{out} is a finished heatmap already: choose another --out")


def _refuse_other_file(
    heat: Heatmap, option: str, given: Path | None, *, used: bool, name: str | None
) -> None:
    if used and given is None:
        which = f"the file {name}" if name else "a mask made in Python"
        raise MaskError(
            f"{heat.path.name} was made with {which} as {option}, which it does not hold: "
            f"pass it as --{option}"
        )
    if given is not None and not used:
        raise MaskError(f"{heat.path.name} was made without a {option} file: leave out --{option}")


def _refuse_other_plan(
    heat: Heatmap, lazy: LazyHeatmap, mask: Path | None, roi: Path | None
) -> None:
    """A file that was given must choose the cells that were chosen; a method may have changed."""
    key = "mask.plan_sha256"
    given = [path.name for path in (mask, roi) if path is not None]
    if given and lazy.fingerprint[key] != heat.record.fingerprint.get(key):
        raise MaskError(
            f"{' and '.join(given)} would score other cells than {heat.path.name} did: pass the "
            "files it was made with"
        )


def _compare_sample(
    heat: Heatmap,
    lazy: LazyHeatmap,
    sample: int,
    rng: np.random.Generator,
    threshold: float,
    tolerance: float,
    on_block: Progress | None,
) -> Comparison:
    """Score some blocks and compare their cells."""
    grid, before = heat.grid, read_cells(heat)
    _, across = grid.block_shape
    scored = np.isin(before.status, (Status.SCORED, Status.UNREADABLE))
    holding = [i for i, cells in enumerate(grid.blocks()) if scored[cells.slices].any()]
    drawn = rng.choice(holding, size=min(sample, len(holding)), replace=False)
    blocks = np.zeros(grid.shape, dtype=lazy.dtype)
    among = np.zeros(grid.shape, dtype=np.bool_)
    tiles = 0
    for done, number in enumerate(sorted(int(i) for i in drawn), start=1):
        i, j = divmod(number, across)
        cells = grid.block(i, j)
        block = lazy.score((i, j))
        blocks[cells.slices], among[cells.slices] = block, True
        tiles += int((block["status"] == Status.SCORED).sum())
        if on_block is not None:
            on_block(done, len(drawn), tiles)
    after = dataclasses.replace(
        before,
        name=f"{len(drawn)} of {len(holding)} blocks scored again",
        probability=_shown(heat, blocks["probability"]),
        status=blocks["status"],
        settings=lazy.fingerprint,
        origin={"device": lazy.device, **_versions(heat)},
    )
    return compare_cells(before, after, threshold=threshold, tolerance=tolerance, among=among)


def _shown(heat: Heatmap, probability: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return {name: probability[..., heat.classes.index(name)] for name in heat.shown_classes}


def _versions(heat: Heatmap) -> dict[str, str]:
    """Versions here of the packages whose versions a heatmap records."""
    found = {}
    for name in heat.record.versions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
