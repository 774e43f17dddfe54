"""Which TIFFs are refused by name, because what OpenSlide makes of them is not the picture.

Each message says what the file is and the way out.
"""

from __future__ import annotations

from histoslide.errors import SlideOpenError
from histoslide.slide.tiff.directory import TiffDirectory, TiffPage
from histoslide.slide.tiff.ome import OmeImage

_UPRIGHT = (0, 1)
"""Values of the tag Orientation that mean an upright picture; 0 is none, and read as 1."""

_TIMES_LISTED = 2
"""A size that takes more than so many times the tiles that are listed is a damaged number."""

_CONVERT = (
    "write a tiled pyramid of it, for example with "
    "`vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg`"
)

_PER_PIXEL = (1, 3, 4)
"""Samples of a pixel that are read: grey, colours, colours and transparency."""


def refuse_unreadable(name: str, directory: TiffDirectory) -> None:
    """Refuse a TIFF that would open and give other pixels than its own.

    Args:
        name: of the slide.
        directory: of the file.

    Raises:
        SlideOpenError: it would.
    """
    levels = [page for page in directory.pages if page.tile is not None]
    for page in levels:
        _refuse_claim(name, page)
    if not levels or directory.pages[0].tile is None:
        return
    first = directory.pages[0]
    for page in [first, *(page for page in levels if page.reduced)]:
        if page.orientation not in _UPRIGHT:
            raise SlideOpenError(
                f"{name} is stored turned or mirrored (TIFF Orientation {page.orientation}), which "
                "its tiles are not read with: write it upright, for example with "
                "`vips autorot IN 'OUT.tif[tile,pyramid,compression=jpeg]'`"
            )
    if not _readable_samples(first):
        bits = "/".join(str(bits) for bits in dict.fromkeys(first.bits))
        raise SlideOpenError(
            f"{name} has {first.samples} × {bits} bits a pixel, not red, green and blue of 8: "
            "convert it to 8-bit RGB, and mind how its range is mapped"
        )
    _refuse_planes(name, directory)


def words_for(directory: TiffDirectory, reason: str) -> str:
    """Why OpenSlide refuses a TIFF that is whole, for people to read.

    Args:
        directory: of the file.
        reason: what OpenSlide says.
    """
    first = directory.pages[0] if directory.pages else None
    if first is None or first.size is None:
        return reason
    size = f"{first.size.width}×{first.size.height} px"
    if not any(page.tile for page in directory.pages):
        return f"a TIFF of {size} in strips, not tiles: {_CONVERT}"
    if "compression" in reason.lower():
        return f"a TIFF of {size} compressed with {first.compression_name} ({reason}): {_CONVERT}"
    return f"a TIFF of {size} in {len(directory.pages)} images, and whole: {reason}"


def _refuse_claim(name: str, page: TiffPage) -> None:
    if page.needed_tiles > _TIMES_LISTED * max(1, page.listed_tiles) and page.size is not None:
        raise SlideOpenError(
            f"{name} claims an image of {page.size.width}×{page.size.height} px, which takes "
            f"{page.needed_tiles} tiles, but lists {page.listed_tiles}: the file is damaged, copy "
            "it again"
        )


def _readable_samples(page: TiffPage) -> bool:
    colours = page.samples in _PER_PIXEL[1:]
    # OpenSlide misplaces columns of 16-bit grey at the slide's right edge; colours it reads right.
    return page.samples in _PER_PIXEL and (
        set(page.bits) == {8} or (colours and set(page.bits) == {16})
    )


def _refuse_planes(name: str, directory: TiffDirectory) -> None:
    """Refuse colours or channels that lie in pages of their own: only the first would be read."""
    first = directory.pages[0]
    if first.samples != 1:
        return
    alike = [
        page
        for page in directory.pages
        if page.size == first.size and page.samples == 1 and page.tile and not page.reduced
    ]
    ome = OmeImage.of(first.description)
    channels = max(len(alike), ome.channels if ome is not None else 1)
    if channels > 1:
        raise SlideOpenError(
            f"{name} holds {channels} channels as pages of their own, of which only the first "
            "would be read: write interleaved RGB, for example with `bfconvert -merge`"
        )
