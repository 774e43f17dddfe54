"""What every command shares: logging, progress, and common options."""

from __future__ import annotations

import argparse
import logging
import math
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histoslide_cli.plain_text import plain

if TYPE_CHECKING:
    from histoslide.geometry import Mpp
    from histoslide.pipeline import TissueOptions
    from histoslide.storage.location import Location
    from histoslide.storage.slide_copies import SlideCache

PLAIN_INTERVAL_S = 10.0
"""Seconds between progress lines where stderr is no terminal."""

OTHER_PICTURES = frozenset(
    {".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".svg", ".pdf"}
)
"""Endings under which nobody looks for a PNG."""

FILE_ENDINGS = OTHER_PICTURES | {
    ".png", ".csv", ".json", ".geojson", ".html", ".h5", ".hdf5", ".svs", ".ndpi", ".safetensors",
}  # fmt: skip
"""Endings of names that are not meant as a folder's."""


_BAR = (
    "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left, {rate_fmt}{postfix}]"
)
"""Of a progress bar: what tqdm shows, without the time that has gone."""

_LEAST_BAR = 8
"""Columns that the bar itself keeps."""

_LABEL_LETTERS = 20
"""Of a slide's name before a bar; longer names lose their middle."""


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        word = {"WARNING": "warning: ", "ERROR": "error: "}.get(record.levelname, "")
        return f"histoslide: {word}{plain(record.getMessage())}"


class _Handler(logging.Handler):
    """Writes to whatever stderr is now, without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def set_up_logging(*, quiet: bool, verbose: bool) -> None:
    """Send the library's messages to stderr, one line each."""
    logger = logging.getLogger("histoslide")
    logger.handlers.clear()
    handler = _Handler()
    handler.setFormatter(_Format())
    logger.addHandler(handler)
    logger.propagate = False
    # What tifffile says of damaged files is said by the library, in one line.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)


class Progress:
    """A bar with rate and time left on a terminal, plain lines elsewhere, nothing when quiet."""

    def __init__(self, label: str, *, unit: str, quiet: bool) -> None:
        self._label, self._unit, self._quiet = plain(label), unit, quiet
        self._bar: Any = None
        self._started = self._said = time.monotonic()
        self._since: tuple[int, float] | None = None
        self._last = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int, total: int, note: str = "", *, finished: bool = False) -> None:
        """Say that ``done`` of ``total`` units are finished.

        Args:
            done: so far.
            total: in all, which may change as more becomes known.
            note: what else there is to say.
            finished: nothing more will be done, whatever ``total`` says.
        """
        if self._quiet:
            return
        if sys.stderr.isatty():
            if self._bar is None:
                from tqdm import tqdm

                before = max(0, done - 1)
                self._bar = tqdm(
                    total=total,
                    initial=before,
                    desc=_shortened(self._label, _LABEL_LETTERS),
                    unit=self._unit,
                    bar_format=_BAR,
                    dynamic_ncols=True,
                )
            self._bar.total = total
            self._bar.set_postfix_str(_fitting(note, self._bar), refresh=False)
            self._bar.update(done - self._bar.n)
            if finished:
                self._bar.refresh()
            return
        now = time.monotonic()
        if self._since is None or done < self._last:  # or another count begins
            # How many of several were done before this run, nobody says here.
            self._since = (0, self._started) if done == 1 else (done, now)
        self._last = done
        first, since = self._since
        ended = finished or done == total > 0
        if not ended and now - self._said < PLAIN_INTERVAL_S:
            return
        self._said = now
        tail = f", {note}" if note else ""
        units = f"{self._unit}es" if self._unit.endswith("ch") else f"{self._unit}s"
        line = f"{self._label}: {done:,} of {total:,} {units}{tail}"
        if not ended and done > first:
            line += f", about {duration((now - since) / (done - first) * (total - done))} left"
        print(f"histoslide: {line}", file=sys.stderr, flush=True)  # noqa: T201


def _fitting(note: str, bar: Any) -> str:
    """As many parts of a note as the terminal has room for; the first ones matter most."""
    columns = shutil.get_terminal_size().columns
    facts = bar.format_dict | {"postfix": "", "ncols": None, "bar_format": _BAR}
    usual_bar = 10  # columns, where tqdm is not told how many there are
    room = columns - len(bar.format_meter(**facts)) + usual_bar - _LEAST_BAR - len(", ")
    parts = note.split(", ")
    while parts and len(", ".join(parts)) > room:
        parts.pop()
    return ", ".join(parts)


def _shortened(text: str, letters: int) -> str:
    half = letters // 2
    return text if len(text) <= letters else f"{text[:half]}…{text[-half:]}"


def duration(seconds: float) -> str:
    """A time to plan with: two units, rounded up to one of the smaller."""
    whole = math.ceil(seconds)
    for name, size, part, part_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= size:
            parts = math.ceil(whole / part_size)
            per = size // part_size
            return f"{parts // per} {name} {parts % per} {part}"
    return f"{math.ceil(whole / 60)} min" if whole >= 60 else f"{whole} s"


def rate(per_second: float) -> str:
    """A speed that does not look like none where it is slow."""
    return f"{per_second:,.0f}" if per_second >= 10 or per_second == 0 else f"{per_second:.1f}"


def refuse_file_name(out: Location, way_out: str) -> None:
    """Make sure that a folder to write into is not called like a file.

    Args:
        out: what ``--out`` says.
        way_out: what it should say.

    Raises:
        HistoslideError: it ends like a file, and no such folder is there.
    """
    from histoslide.errors import HistoslideError

    if out.suffix.lower() in FILE_ENDINGS and not out.is_dir():
        raise HistoslideError(f"--out {out} ends like a file: {way_out}")


def refuse_other_picture(option: str, path: Location) -> None:
    """Make sure that a PNG is not called like another kind of picture.

    Raises:
        HistoslideError: it is.
    """
    from histoslide.errors import HistoslideError

    if path.suffix.lower() in OTHER_PICTURES:
        raise HistoslideError(f"{option} {path}: the picture is a PNG, end its name in .png")


def location(text: str) -> Location:
    """An argument: a path or a URL of object storage; see ``histoslide.storage.location``."""
    from histoslide.errors import HistoslideError
    from histoslide.storage.location import parse_location

    try:
        return parse_location(text)
    except HistoslideError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_cache_options(parser: argparse._ActionsContainer) -> None:
    """``--cache-dir`` and ``--cache-size``, of commands that read slides."""
    parser.add_argument(
        "--cache-dir",
        type=Path,
        metavar="FOLDER",
        help="where slides from s3:// URLs are kept (default: $HISTOSLIDE_CACHE, else the user's "
        "cache folder)",
    )
    parser.add_argument(
        "--cache-size",
        type=float,
        default=100.0,
        metavar="GB",
        help="keep at most so much of them, least recently used first out (default: 100)",
    )


def slide_cache(arguments: argparse.Namespace) -> SlideCache:
    """What the cache options say."""
    from histoslide.storage.slide_copies import SlideCache

    return SlideCache(folder=arguments.cache_dir, limit_gb=arguments.cache_size)


def add_recursive_option(parser: argparse.ArgumentParser) -> None:
    """``--recursive`` and ``--no-recursive``, of commands that take folders of slides."""
    parser.add_argument(
        "--recursive",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="also look for slides in the folders below (default: only where a folder holds none "
        "itself)",
    )


def add_slides_option(parser: argparse._ActionsContainer) -> None:
    """``--slide`` of the commands that show heatmaps over their slides."""
    parser.add_argument(
        "--slide",
        dest="slides",
        action="append",
        default=[],
        type=location,
        metavar="FILE",
        help="the slide, or a folder of slides; may be repeated (default: the slide of that name "
        "beside the heatmap, if it is the one that was scored)",
    )


def add_resolution_options(parser: argparse._ActionsContainer) -> None:
    """``--mpp`` and ``--mpp-csv``."""
    parser.add_argument(
        "--mpp",
        type=float,
        metavar="UM",
        help="micrometres per pixel of level 0, instead of what the slide records",
    )
    parser.add_argument(
        "--mpp-csv",
        type=Path,
        metavar="FILE",
        help="CSV with the columns slide,mpp; goes before --mpp for the slides it names",
    )


def read_resolutions(arguments: argparse.Namespace) -> tuple[Mpp | None, dict[str, Mpp]]:
    """What ``--mpp`` and ``--mpp-csv`` say.

    Raises:
        ResolutionError: not a positive number, or an unusable file.
    """
    from histoslide.geometry import Mpp
    from histoslide.slide import read_mpp_csv

    mpp = None if arguments.mpp is None else Mpp(value=arguments.mpp, source="--mpp")
    return mpp, {} if arguments.mpp_csv is None else read_mpp_csv(arguments.mpp_csv)


def add_tissue_options(parser: argparse.ArgumentParser) -> None:
    """``--tissue``, ``--tissue-threshold``, ``--mask`` and ``--roi``."""
    parser.add_argument(
        "--tissue",
        choices=("otsu", "hed", "entropy", "none"),
        default="otsu",
        help="how tissue is found: Otsu on saturation, stain density after colour deconvolution, "
        "local entropy, or everything (default: otsu)",
    )
    parser.add_argument(
        "--tissue-threshold",
        type=float,
        default=0.1,
        metavar="PART",
        help="part of the label footprint that must be tissue, 0-1 (default: 0.1)",
    )
    parser.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="tissue mask instead: a picture that spans the slide, or polygons in level-0 pixels "
        "(GeoJSON, ASAP's XML, NCRF's JSON)",
    )
    parser.add_argument(
        "--roi",
        type=Path,
        metavar="FILE",
        help="only work inside this region, a file of the same kinds",
    )


def tissue_options(arguments: argparse.Namespace) -> TissueOptions:
    """What the tissue options say.

    Raises:
        HistoslideError: a value is out of range.
    """
    from histoslide.pipeline import TissueOptions

    return TissueOptions(
        method=arguments.tissue,
        threshold=arguments.tissue_threshold,
        mask=arguments.mask,
        roi=arguments.roi,
    )


def scrubbed_command(argv: list[str]) -> str:
    """A command line in which every path or URL is reduced to its last part, for metadata."""
    words = ["histoslide"]
    for word in argv:
        option, equals, value = word.partition("=")
        if equals and option.startswith("--"):
            words.append(f"{option}={Path(value).name}")
        else:
            words.append(Path(word).name if "/" in word or "\\" in word else word)
    return " ".join(words)
