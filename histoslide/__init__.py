"""histoslide: whole-slide tiling and batch scoring, metastasis heatmaps of lymph nodes.

The names below are loaded on first use, so that ``import histoslide`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histoslide.cohort.run import score_slides as score_slides
    from histoslide.lesions import find_lesions as find_lesions
    from histoslide.model import load_model as load_model
    from histoslide.pipeline import score_slide as score_slide
    from histoslide.render import draw_overlay as draw_overlay
    from histoslide.render.png import save_png as save_png
    from histoslide.scoring.lazy import make_heatmap as make_heatmap
    from histoslide.slide import open_slide as open_slide
    from histoslide.store import open_heatmap as open_heatmap
    from histoslide.store import store_heatmap as store_heatmap

_HOMES = {
    "draw_overlay": "histoslide.render",
    "find_lesions": "histoslide.lesions",
    "load_model": "histoslide.model",
    "make_heatmap": "histoslide.scoring.lazy",
    "open_heatmap": "histoslide.store",
    "open_slide": "histoslide.slide",
    "save_png": "histoslide.render.png",
    "score_slide": "histoslide.pipeline",
    "score_slides": "histoslide.cohort.run",
    "store_heatmap": "histoslide.store",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'histoslide' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
