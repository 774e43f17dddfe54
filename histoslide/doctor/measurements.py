"""Measurements of some seconds: how fast this machine reads, computes and stores."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histoslide.doctor.findings import Finding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from histoslide.model import Model

TYPICAL_TILES = 20_000
"""Tissue tiles of a large slide: 19 mm² of tissue in cells of 31 µm."""

_TEST_MPP = 0.25
"""Micrometres per pixel of the slide that is read: a scan at 40×, the dearest to read."""

_TEST_CELLS = 15
"""Cells a side that are read from it."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast a machine scores, measured in a short test."""

    read_mp_s: float
    """Level-0 megapixels a second, read through ``open_slide`` in one thread."""
    read_tiles_s: float
    """Tiles a second that this makes at 0.25 µm/px in tissue without gaps."""
    network_tiles_s: float
    """Tiles a second through the default model."""
    store_cells_s: float
    """Heatmap cells a second into a store."""

    def seconds(self, tiles: int) -> float:
        """Time for so many tiles, one step after the other: what overlaps comes as a bonus."""
        each = 1 / self.read_tiles_s + 1 / self.network_tiles_s + 1 / self.store_cells_s
        return tiles * each


def measure_rates(device: str) -> Iterator[Finding]:
    """Read a slide, run the network, write a store, and say what that means for a slide."""
    import torch

    from histoslide.errors import HistoslideError
    from histoslide.machine.processors import network_threads
    from histoslide.model import load_model, pick_device

    try:
        model = load_model(device=pick_device(device))
        network = _network_rate(model)
    except (HistoslideError, RuntimeError) as error:
        yield Finding(
            name="self-test",
            state="problem",
            text=f"the default model does not run on {device}: {str(error).splitlines()[0]}",
            remedy="choose another --device; cpu works everywhere",
        )
        return
    with tempfile.TemporaryDirectory(prefix="histoslide-doctor-") as folder:
        read_mp, read_tiles, store = _file_rates(Path(folder), model)
    in_torch = model.engine.backend == "torch"
    threads = torch.get_num_threads() if in_torch else network_threads()
    rates = Rates(
        read_mp_s=read_mp,
        read_tiles_s=read_tiles,
        network_tiles_s=network,
        store_cells_s=store,
    )
    minutes = rates.seconds(TYPICAL_TILES) / 60
    yield Finding(
        name="self-test",
        state="ok",
        text=f"network {network:,.0f} tiles/s on {model.device} ({model.batch_size} a batch, "
        f"{threads} threads), reading {read_mp:,.0f} MP/s "
        f"({read_tiles:,.0f} tiles/s at {_TEST_MPP} µm/px), storing {store:,.0f} cells/s",
        facts={**dataclasses.asdict(rates), "device": model.device},
    )
    yield Finding(
        name="estimate",
        state="ok",
        text=f"a slide with {TYPICAL_TILES:,} tissue tiles takes about {_minutes(minutes)} here",
        facts={"tiles": TYPICAL_TILES, "minutes": minutes},
    )


def measure_backends(device: str) -> Iterator[Finding]:
    """Each way to compute the default model here: how fast, and whether it is used unasked."""
    from histoslide.errors import HistoslideError
    from histoslide.model import default_bundle, file_sha256, load_model, pick_device
    from histoslide.model.choosing import supported
    from histoslide.model.fast_paths import choose_engine, read_fast_paths

    try:
        picked, bundle = pick_device(device), default_bundle()
    except HistoslideError:
        return  # the self-test has said so
    paths = read_fast_paths(bundle, sha256=file_sha256(bundle))
    chosen = choose_engine(picked, paths)
    for engine in supported(picked):
        name = str(engine)
        try:
            model = load_model(device=picked, backend=engine.backend, precision=engine.precision)
            rate = _network_rate(model)
        except (HistoslideError, RuntimeError) as error:
            text = f"does not run: {str(error).splitlines()[0]}"
            yield Finding(name=name, state="warning", text=text)
            continue
        gate = None if paths is None else paths.gates.get(engine.precision)
        text = f"{rate:,.0f} tiles/s"
        if gate is not None:
            verdict = "passed" if gate.passed else "failed"
            text += f", {verdict} its gate (AUC {gate.auc:.4f}, float32 {gate.auc_fp32:.4f})"
        if engine == chosen:
            text += ", used unless another is asked for"
        facts = {"tiles_s": rate, "default": engine == chosen}
        yield Finding(name=name, state="ok", text=text, facts=facts)


def _network_rate(model: Model) -> float:
    """Tiles a second through the network alone."""
    from histoslide.cohort.dry_run import tiles_per_second

    return tiles_per_second(model)


def _file_rates(folder: Path, model: Model) -> tuple[float, float, float]:
    """Megapixels and tiles a second that are read, and cells a second that are stored."""
    from histoslide.geometry import CellRange
    from histoslide.grid.windows import read_window
    from histoslide.scoring.lazy import make_grid, make_heatmap
    from histoslide.slide import open_slide
    from histoslide.synthetic import write_slide
    from histoslide.tissue.masks import METHODS, find_tissue

    path = write_slide(folder / "test.tif", _test_pixels(model), mpp=_TEST_MPP, downsamples=(4,))
    with open_slide(path) as slide:
        cells = CellRange(0, 0, _TEST_CELLS, _TEST_CELLS)
        grid = make_grid(slide, model.spec)
        started = time.perf_counter()
        read_window(slide, grid, cells)
        seconds = time.perf_counter() - started
        box = grid.window_box_l0(cells)
        # Small cells: a heatmap of many, over a slide that takes no time to write.
        lazy = make_heatmap(slide, model, stride_px=3, tissue=find_tissue(slide, METHODS["none"]))
        store = _store_rate(lazy, folder / "test.zarr")
    megapixels = box.width * box.height / 1e6
    return megapixels / seconds, cells.rows * cells.cols / seconds, store


def _store_rate(lazy: Any, path: Path) -> float:
    """Cells a second that are stored, with blocks whose values are there already."""
    import numpy as np

    from histoslide.grid.status import Status
    from histoslide.store import store_heatmap

    values = np.zeros(lazy.grid.shape, dtype=lazy.dtype)
    values["probability"] = np.random.default_rng(0).random(values["probability"].shape)
    values["status"] = Status.SCORED
    made = dataclasses.replace(
        lazy, scorer=lambda _, block_id: values[lazy.grid.block(*block_id).slices]
    )
    started = time.perf_counter()
    store_heatmap(made, path)
    return values.size / (time.perf_counter() - started)


def _test_pixels(model: Model) -> NDArray[np.uint8]:
    """A piece of synthetic tissue, large enough for the cells that are read."""
    import numpy as np

    from histoslide.synthetic import scene

    side_um = ((_TEST_CELLS - 1) * model.spec.label_px + model.spec.input_px) * model.spec.mpp
    piece = scene(544, 544, mpp=_TEST_MPP, seed=1).pixels
    times = max(2, int(np.ceil(side_um / _TEST_MPP / piece.shape[0])))
    return np.tile(piece, (times, times, 1))


def _minutes(minutes: float) -> str:
    if minutes < 1:
        return f"{max(1, round(minutes * 60))} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
