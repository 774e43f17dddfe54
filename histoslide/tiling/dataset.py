"""The tissue tiles of slides as a torch dataset, for training and embedding loops of one's own.

It stands in the room of tiles, which is above the rooms that decide which tiles there are (the
options of tissue, the plan of cells, the ways to open slides): so its tiles are those that ``tile``
writes and ``score`` scores. Rooms below, as training, take it from outside like any other source of
patches. Nothing else here imports torch, and no command imports this file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from histoslide.errors import HistoslideError
from histoslide.geometry import Mpp
from histoslide.machine.processors import usable_processors
from histoslide.model import ModelSpec
from histoslide.pipeline.options import DEFAULT_TISSUE, TissueOptions
from histoslide.slide.access import DEFAULT_ACCESS, SlideAccess
from histoslide.slide.finding import find_slides
from histoslide.slide.isolated.slide import MOST_WORKERS
from histoslide.slide.resolutions import match_names
from histoslide.storage.location import Location, readable_name
from histoslide.tiling.planned import PlannedSlide, plan_slide
from histoslide.tiling.reading_ahead import Tile, WindowPlace, read_ahead

logger = logging.getLogger(__name__)

MIXED_SLIDES = 4
"""Slides whose windows are shuffled together: as many are open at a time, each with processes."""

MIXED_TILES = 2048
"""Tiles that wait while batches are drawn from among them: 14 windows at a stride of 96 px, 57 MB
of 96 px."""

_PLANNED_AT_ONCE = 2
"""Slides whose tissue is found at a time: an overview with all that is made of it is large."""

_LOADER_WORKERS = 256
"""Workers of one loader that can count what is unreadable; nobody has as many."""


@dataclass(frozen=True, kw_only=True)
class TileBatch:
    """Tiles and where they are from; a loader can pin it."""

    pixels: Tensor
    """RGB, uint8, shape (n, 3, input_px, input_px)."""
    slide: Tensor
    """Index of each tile's slide in ``SlideTiles.slides``, int64, shape (n,)."""
    cell: Tensor
    """Row and column of each tile's cell, int64, shape (n, 2); the slide's grid says where that
    is."""

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.pixels)

    def pin_memory(self) -> TileBatch:
        """The same with pixels that a GPU fetches by itself."""
        return TileBatch(pixels=self.pixels.pin_memory(), slide=self.slide, cell=self.cell)


class SlideTiles(IterableDataset[TileBatch]):
    """The tissue tiles of slides at a model's resolution, in batches.

    Iterate over it as it is: the slides are read ahead in processes of their own, as ``score``
    reads them. Workers of a ``DataLoader(tiles, batch_size=None, num_workers=…)`` divide the
    windows among them, each with such processes; that pays where work on the pixels is added.
    Processes of ``torch.distributed`` divide them likewise. Every readable tile comes once an
    epoch, in one of them; numbers of tiles may differ between them by those of a window or more.

    The order is that of the slides, or with ``shuffle`` one that seed, epoch and division decide
    and nothing else: windows of ``MIXED_SLIDES`` slides are shuffled, and each batch is drawn from
    the ``mixed_tiles`` that were read last.

    A slide that cannot be used at all is left out and stands in ``failed``; a tile that cannot be
    read is left out and counted in ``unreadable``.
    """

    def __init__(
        self,
        slides: Sequence[Location | str],
        spec: ModelSpec,
        *,
        batch_size: int = 64,
        stride_px: int | None = None,
        tissue: TissueOptions = DEFAULT_TISSUE,
        mpp: Mpp | None = None,
        mpp_by_name: Mapping[str, Mpp] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        mixed_tiles: int = MIXED_TILES,
        drop_last: bool = False,
        rank: int | None = None,
        ranks: int | None = None,
        readers: int | None = None,
        pin: bool | None = None,
        access: SlideAccess = DEFAULT_ACCESS,
        on_planned: Callable[[int, int], None] | None = None,
    ) -> None:
        """Open every slide once and find its tissue, which takes about a second each.

        Args:
            slides: slide files, and folders of them.
            spec: gives size and resolution of the tiles, and the footprint that must be tissue;
                ``histoslide.tiling.planned.tile_spec`` makes one for any other network.
            batch_size: tiles a batch; the last one may be smaller.
            stride_px: distance between tiles in model pixels; None for tiles side by side.
            tissue: which part of the slides.
            mpp: resolution of slides to which ``mpp_by_name`` gives none.
            mpp_by_name: resolutions by file name.
            shuffle: mix tiles and slides.
            seed: of the order.
            mixed_tiles: see above; more mix better and take more memory.
            drop_last: leave out a last batch that is smaller.
            rank: of this process among ``ranks``; None for what ``torch.distributed`` says, or 0.
            ranks: processes that share the tiles; None likewise, or 1.
            readers: reads at a time; None for one a processor, at most ``MOST_WORKERS``.
            pin: put pixels where a GPU fetches them by itself; None for wherever there is one, but
                in workers of a loader, whose own ``pin_memory`` does it.
            access: how slides are opened.
            on_planned: called with the slides opened and in all.

        Raises:
            HistoslideError: no slide can be used, a folder holds none, or names in
                ``mpp_by_name`` are not those of the slides.
            ValueError: a number is out of range.
        """
        super().__init__()
        for name, number in (("batch_size", batch_size), ("mixed_tiles", mixed_tiles)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")
        self._batch_size, self._drop_last = batch_size, drop_last
        self._shuffle, self._seed, self._mixed_tiles = shuffle, seed, mixed_tiles
        self._rank, self._ranks = _place_among_ranks(rank, ranks)
        self._readers, self._pin, self._access = readers, pin, access
        stride_px = spec.input_px if stride_px is None else stride_px
        paths = find_slides(slides)
        by_name = match_names(mpp_by_name or {}, [path.name for path in paths])

        def plan(path: Location) -> PlannedSlide | HistoslideError:
            given = by_name.get(path.name, mpp)
            try:
                return plan_slide(
                    path, spec, stride_px=stride_px, tissue=tissue, mpp=given, access=access
                )
            except HistoslideError as error:
                return error

        planned: list[PlannedSlide] = []
        failed: dict[Location, str] = {}
        with ThreadPoolExecutor(_PLANNED_AT_ONCE) as pool:
            for done, (path, found) in enumerate(zip(paths, pool.map(plan, paths), strict=True), 1):
                if isinstance(found, PlannedSlide):
                    planned.append(found)
                else:
                    failed[path] = str(found)
                    logger.warning("%s is left out: %s", readable_name(path), found)
                if on_planned is not None:
                    on_planned(done, len(paths))
        if not planned:
            raise HistoslideError(f"none of {len(paths)} slides can be used: {failed[paths[0]]}")
        self._slides, self._failed = tuple(planned), failed
        # Workers of a loader have copies of all else.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        counts = torch.zeros((_LOADER_WORKERS, len(planned)), dtype=torch.int64)
        self._unreadable = counts.share_memory_()

    @property
    def slides(self) -> tuple[PlannedSlide, ...]:
        """The slides that are used, in the order given."""
        return self._slides

    @property
    def failed(self) -> Mapping[Location, str]:
        """Slides that are left out, and why."""
        return self._failed

    @property
    def tiles(self) -> int:
        """Tiles of all slides together, those that will turn out to be unreadable included."""
        return sum(slide.tiles for slide in self._slides)

    @property
    def unreadable(self) -> tuple[int, ...]:
        """Tiles of each slide that could not be read in the last epoch, or so far in this one.

        By this process and its loader's workers; other ranks count their own.
        """
        return tuple(self._unreadable.sum(dim=0).tolist())

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration, also in a loader's workers that are kept."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[TileBatch]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if workers > _LOADER_WORKERS:
            raise ValueError(f"a loader of {workers} workers is too large: {_LOADER_WORKERS} count")
        counts = self._unreadable[worker]
        counts.zero_()
        shard, shards = self._rank * workers + worker, self._ranks * workers
        places = self._places()[shard::shards]
        draw = np.random.default_rng((self._seed, int(self._epoch), 1 + shard))
        pin = info is None and torch.cuda.is_available() if self._pin is None else self._pin
        threads = self._readers or min(MOST_WORKERS, max(1, usable_processors() // workers))
        waiting: list[Tile] = []
        kept = self._mixed_tiles if self._shuffle else 0
        for window in read_ahead(self._slides, places, self._access, threads=threads):
            counts[window.slide] += window.unreadable
            waiting += window.tiles
            while len(waiting) >= kept + self._batch_size:
                yield _batch(self._take(waiting, draw), pin=pin)
        while waiting and not (self._drop_last and len(waiting) < self._batch_size):
            yield _batch(self._take(waiting, draw), pin=pin)

    def _places(self) -> list[WindowPlace]:
        """The windows of an epoch in their order, alike in whoever shares them."""
        each = [
            [WindowPlace(slide=i, cells=cells) for cells in slide.windows]
            for i, slide in enumerate(self._slides)
        ]
        if not self._shuffle:
            return [place for places in each for place in places]
        rng = np.random.default_rng((self._seed, int(self._epoch), 0))
        order = rng.permutation(len(each)).tolist()
        result: list[WindowPlace] = []
        for start in range(0, len(order), MIXED_SLIDES):
            together = [place for i in order[start : start + MIXED_SLIDES] for place in each[i]]
            result += [together[i] for i in rng.permutation(len(together)).tolist()]
        return result

    def _take(self, waiting: list[Tile], draw: np.random.Generator) -> list[Tile]:
        """Remove a batch from what waits: the first, or any."""
        count = min(self._batch_size, len(waiting))
        if not self._shuffle:
            taken = waiting[:count]
            del waiting[:count]
            return taken
        left = np.arange(len(waiting), len(waiting) - count, -1)
        taken = []
        for i in draw.integers(0, left).tolist():
            waiting[i], waiting[-1] = waiting[-1], waiting[i]
            taken.append(waiting.pop())
        return taken


def _place_among_ranks(rank: int | None, ranks: int | None) -> tuple[int, int]:
    if (rank is None) != (ranks is None):
        raise ValueError("give both of rank and ranks, or neither")
    if rank is None or ranks is None:
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return 0, 1
        rank, ranks = distributed.get_rank(), distributed.get_world_size()
    if not 0 <= rank < ranks:
        raise ValueError(f"rank {rank} is not one of {ranks}")
    return rank, ranks


def _batch(tiles: Sequence[Tile], *, pin: bool) -> TileBatch:
    shape = (len(tiles), *tiles[0].pixels.shape)
    pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
    into: NDArray[np.uint8] = pixels.numpy()
    np.stack([tile.pixels for tile in tiles], out=into)
    return TileBatch(
        pixels=pixels,
        slide=torch.tensor([tile.slide for tile in tiles]),
        cell=torch.tensor([(tile.row, tile.col) for tile in tiles]),
    )
