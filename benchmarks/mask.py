"""Whether a mask picture of a whole slide is read in flat memory, and how long that takes.

    python benchmarks/mask.py /tmp/masks
    python benchmarks/mask.py /tmp/masks --sides 100000x200000 --segments 100000x256

Makes masks as CAMELYON16 has them (LZW, tiles of 512 px, 0 but for discs of 255, one of them 10 mm
across), each of four times the area of the one before, where they are not there yet. Each is read
in a process of its own, as ``tile --annotations`` and ``evaluate slides --reference`` do: labels of
patches wherever tissue might be, lesions, and the picture that they are judged on. Prints seconds
of the processor and the peak of resident memory. Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from imagecodecs import lzw_encode

from histoslide.annotations.class_map import Role
from histoslide.annotations.truth import read_truth
from histoslide.geometry import Size

SIDES = ("25000x50000", "50000x100000", "100000x200000")
RADII_UM = (5000, 1000, 100, 30)
MPP = 0.243


def main() -> None:
    """Make what is missing, read it, and print what that took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sides", nargs="+", default=SIDES, metavar="WxH")
    parser.add_argument(
        "--segments", default="512x512", metavar="WxH", help="a wide one is a strip"
    )
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    segment = size_of(arguments.segments)
    context = multiprocessing.get_context("spawn")
    for sides in arguments.sides:
        path = arguments.folder / f"{sides}-{arguments.segments}.tif"
        if not path.exists():
            write_mask(path, size_of(sides), segment)
        queue: multiprocessing.Queue[str] = context.Queue()
        process = context.Process(target=read, args=(path, size_of(sides), queue))
        process.start()
        print(f"{sides}, {path.stat().st_size / 1e6:.1f} MB: {queue.get()}", flush=True)
        process.join()


def size_of(text: str) -> Size:
    """A size as the command line has it."""
    width, height = text.split("x")
    return Size(int(width), int(height))


def write_mask(path: Path, size: Size, segment: Size) -> None:
    """A mask with discs, in segments."""
    strips = segment.width >= size.width
    shape = (
        {"rowsperstrip": segment.height} if strips else {"tile": (segment.height, segment.width)}
    )
    radii = [radius / MPP for radius in RADII_UM if 2.5 * radius / MPP < size.width]
    middles = [(size.width / 2, size.height * (i + 0.5) / len(radii)) for i in range(len(radii))]

    def segments() -> Iterator[bytes]:
        plain: dict[tuple[int, int, int], bytes] = {}
        for top in range(0, size.height, segment.height):
            rows = min(segment.height, size.height - top) if strips else segment.height
            for left in range(0, size.width, size.width if strips else segment.width):
                cols = size.width if strips else segment.width
                y, x = np.arange(top, top + rows)[:, None], np.arange(left, left + cols)
                near = [
                    (radius, cx, cy)
                    for radius, (cx, cy) in zip(radii, middles, strict=True)
                    if abs(y - cy).min() < radius and abs(x - cx).min() < radius
                ]
                value = 0
                if near:
                    (radius, cx, cy) = near[0]  # they do not touch
                    inside = (x - cx) ** 2 + (y - cy) ** 2 <= radius**2
                    if not inside.all():
                        yield bytes(lzw_encode(np.where(inside, 255, 0).astype(np.uint8).tobytes()))
                        continue
                    value = 255
                if (rows, cols, value) not in plain:
                    filled = np.full((rows, cols), value, np.uint8)
                    plain[rows, cols, value] = bytes(lzw_encode(filled.tobytes()))
                yield plain[rows, cols, value]

    tifffile.imwrite(
        path, segments(), shape=(size.height, size.width), dtype=np.uint8, compression="lzw",
        photometric="minisblack", bigtiff=True, metadata=None, **shape,
    )  # fmt: skip


def read(path: Path, size: Size, queue: multiprocessing.Queue[str]) -> None:
    """What both commands ask of a mask."""
    before, at = peak_mb(), time.process_time()
    truth = read_truth(path, size)
    steps = [("read", time.process_time() - at)]
    at = time.process_time()
    side = 0.972 / MPP * 32
    y, x = np.mgrid[side : size.height - side : side * 4, side : size.width - side : side * 4]
    corners = np.stack([x.ravel(), y.ravel()], axis=1)
    boxes = np.concatenate([corners, corners + side], axis=1)
    positive = int((truth.share(Role.TUMOUR, boxes) > 0).sum())
    steps.append((f"{len(boxes)} labels, {positive} positive,", time.process_time() - at))
    at = time.process_time()
    count = len(truth.lesions())
    steps.append((f"{count} lesions", time.process_time() - at))
    at = time.process_time()
    truth.tumour_mask(Size(-(-size.width // 32), -(-size.height // 32)))
    steps.append(("picture to judge on", time.process_time() - at))
    said = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in steps)
    queue.put(f"{said}, peak {peak_mb():.0f} MB (before {before:.0f})")


def peak_mb() -> float:
    """VmHWM and not getrusage: the latter still remembers the parent."""
    status = Path("/proc/self/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak) / 1024


if __name__ == "__main__":
    main()
