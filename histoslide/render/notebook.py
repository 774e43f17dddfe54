"""How a heatmap shows itself in a notebook.

``Heatmap`` finds this by its entry point (group ``histoslide.heatmap_html``), since the store lies
below whatever draws.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from histoslide import quantities
from histoslide.lesions import NOTICE, LesionReport, LesionSettings, find_lesions
from histoslide.render.overlay import draw_overlay
from histoslide.store import Heatmap

OVERLAY_PX = 560
"""Longest side of the slide in the picture."""

SHOWN_LESIONS = 10
"""Rows of the table."""


def heatmap_html(heatmap: Heatmap) -> str:
    """The overlay, the facts and the longest lesions of a heatmap, as one piece of HTML.

    It needs no slide: tissue is drawn plain grey. It names no folder.

    Args:
        heatmap: stored, complete or not.
    """
    # A model without a tumour class has no lesions of its own accord.
    report = find_lesions(heatmap, LesionSettings(class_name=heatmap.main_class))
    overlay = draw_overlay(heatmap, None, longest_px=OVERLAY_PX, lesions=report)
    file = io.BytesIO()
    Image.fromarray(overlay.image).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    slide, grid = heatmap.record.slide, heatmap.grid
    facts = (
        f"{slide.name} · {grid.rows} × {grid.cols} cells of {quantities.cell(grid.cell_um)} · "
        f"{heatmap.judged_by} · {quantities.resolution(slide.mpp)} ({slide.mpp_source})"
        f"{'' if heatmap.complete else ' · incomplete'}"
    )
    return (
        f"<div><p><b>{escape(heatmap.path.name)}</b> {escape(facts)}</p>"
        f'<img alt="heatmap of {escape(slide.name)}" style="max-width:100%" '
        f'src="data:image/png;base64,{data}">{_table(report)}'
        f"<p><small>{escape(NOTICE)}</small></p></div>"
    )


def _table(report: LesionReport) -> str:
    count = len(report.lesions)
    if not count:
        return "<p>No lesions at the default thresholds.</p>"
    rows = "".join(
        _row("td", (
            str(it.number), it.kind.value, quantities.count(it.longest_diameter_um),
            quantities.area_mm2(it.area_mm2),
            quantities.probability(it.peak_probability),
            quantities.probability(it.mean_probability),
            f"{it.centroid_l0[0]:.0f}, {it.centroid_l0[1]:.0f}",
        ))
        for it in report.lesions[:SHOWN_LESIONS]
    )  # fmt: skip
    head = _row("th", ("", "class", "longest, µm", "area, mm²", "peak", "mean", "centre, level 0"))
    more = f"<p>and {count - SHOWN_LESIONS} more</p>" if count > SHOWN_LESIONS else ""
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>{more}"


def _row(cell: str, texts: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{cell}>{escape(text)}</{cell}>" for text in texts) + "</tr>"
