"""Whether a slide is the one that a heatmap was made from."""

from __future__ import annotations

from histoslide.errors import StoreError
from histoslide.slide import Slide
from histoslide.store import Heatmap


def check_same_slide(heat: Heatmap, slide: Slide) -> None:
    """Refuse a slide that is not the one a heatmap was made from.

    Raises:
        StoreError: the size or the quickhash differs.
    """
    recorded = heat.record.slide
    if recorded.size != slide.size_l0 or recorded.quickhash != slide.quickhash:
        raise StoreError(
            f"{slide.name} is not the slide that {heat.path.name} was scored on "
            f"({recorded.name}, {recorded.size.width}×{recorded.size.height} px): "
            "pass the right --slide"
        )
