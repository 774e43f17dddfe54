"""What tiles are written into: one picture each, or one HDF5 file."""

from __future__ import annotations

import io
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histoslide.grid.cells import TileGrid
from histoslide.slide import Slide
from histoslide.storage.writing import sweep_folder, whole_file

TileFormat = Literal["png", "jpg", "pcam-hdf5"]

JPEG_QUALITY = 95
"""Of tiles written as JPEG, without chroma subsampling."""


class TileWriter(Protocol):
    """Takes tiles while it is entered."""

    column: str
    """Of the manifest: what ``add`` returns."""

    def __enter__(self) -> Self:
        """Open what is written to."""
        ...

    def __exit__(self, *error: Any) -> None:
        """Close it; it counts as written only without an error."""
        ...

    def add(self, row: int, col: int, pixels: NDArray[np.uint8]) -> str:
        """Write a tile and return what the manifest calls it."""
        ...


def tile_writer(folder: Path, slide: Slide, grid: TileGrid, tile_format: TileFormat) -> TileWriter:
    """The writer of a format.

    Args:
        folder: to write into.
        slide: names the files.
        grid: for the side of a tile.
        tile_format: ``png``, ``jpg`` or ``pcam-hdf5``.
    """
    stem = Path(slide.name).stem
    if tile_format == "pcam-hdf5":
        return _Hdf5Writer(folder, stem, grid.input_px)
    return _PictureWriter(folder, stem, tile_format)


class _PictureWriter:
    """One file a tile; those that are there already are kept."""

    column = "file"

    def __init__(self, folder: Path, stem: str, suffix: str) -> None:
        self._folder, self._stem, self._suffix = folder / "tiles", stem, suffix
        self._folder.mkdir(exist_ok=True)
        sweep_folder(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, row: int, col: int, pixels: NDArray[np.uint8]) -> str:
        """Write a tile and return its name for the manifest."""
        path = self._folder / f"{self._stem}_r{row:05d}_c{col:05d}.{self._suffix}"
        if not path.exists():
            save_tile(pixels, path)
        return f"tiles/{path.name}"


def save_tile(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write a tile as PNG or JPEG, as its name ends."""
    with whole_file(path, sweep=False) as partial:
        if path.suffix == ".png":
            Image.fromarray(pixels).save(partial, "PNG")
        else:
            Image.fromarray(pixels).save(partial, "JPEG", quality=JPEG_QUALITY, subsampling=0)


class _Hdf5Writer:
    """All tiles in one array."""

    column = "index"

    def __init__(self, folder: Path, stem: str, side: int) -> None:
        self._stack = Hdf5Stack(folder / f"{stem}_x.h5", side)

    def __enter__(self) -> Self:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, row: int, col: int, pixels: NDArray[np.uint8]) -> str:  # noqa: ARG002
        """Append a tile and return its index for the manifest."""
        return str(self._stack.append(pixels))


class Hdf5Stack:
    """The dataset ``x`` of a file, to which tiles are appended while it is entered.

    The file gets its name when it is whole.
    """

    def __init__(self, path: Path, side: int) -> None:
        self._path, self._side = path, side
        self._count = 0

    def __enter__(self) -> Self:
        shape = (0, self._side, self._side, 3)
        with ExitStack() as stack:
            partial = stack.enter_context(whole_file(self._path))
            self._disk = stack.enter_context(_Disk(partial))
            file = stack.enter_context(h5py.File(self._disk, "w"))
            self._pixels = file.create_dataset(
                "x", shape, "uint8", maxshape=(None, *shape[1:]), chunks=(1, *shape[1:])
            )
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def append(self, pixels: NDArray[np.uint8]) -> int:
        """Append a tile and return its index."""
        self._pixels.resize(self._count + 1, axis=0)
        self._pixels[self._count] = pixels
        self._count += 1
        self._disk.check()
        return self._count - 1


class _Disk(io.FileIO):
    """A file that HDF5 writes to, whose errors are kept from it and raised beside it.

    Where the disk is full, HDF5 says so in several lines, and crashes the process when it closes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._error: OSError | None = None

    def __exit__(self, *error: object) -> None:
        self.close()
        if error[0] is None:
            self.check()

    def check(self) -> None:
        """Raise what went wrong so far."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """Write all of it, or nothing more after an error."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while len(left) and self._error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend, but not after an error."""
        try:
            return super().truncate(size) if self._error is None else size or 0
        except OSError as error:
            self._error = error
            return size or 0
