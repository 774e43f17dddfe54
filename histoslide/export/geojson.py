"""GeoJSON as QuPath (0.4 and later) reads it: lesions as annotations, cells as tiles.

Coordinates are level-0 pixels, from the corner of what QuPath shows.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import shapely

from histoslide.lesions import LESION_COLOURS, NOTICE, Lesion, LesionReport
from histoslide.storage.location import Location, as_location
from histoslide.storage.records import to_builtins
from histoslide.storage.writing import new_file
from histoslide.store import Heatmap

_NAMESPACE = uuid.UUID("6a4ef4c4-5a0b-4a44-9a3f-8f7b41f0c9a1")
"""Of object ids, so that the same heatmap and settings make the same file."""


def write_geojson(
    heatmap: Heatmap,
    report: LesionReport,
    path: Location | str,
    *,
    cells: bool = False,
    bounds_crop: bool = True,
    overwrite: bool = False,
) -> None:
    """Write the outlines of lesions, and on request every scored cell.

    Args:
        heatmap: stored.
        report: its lesions.
        path: file to write.
        cells: also write scored cells, as QuPath's tiles with their probabilities.
        bounds_crop: subtract the corner of the slide's bounds, where it records some: QuPath
            crops a slide to them when it opens it, and counts from there.
        overwrite: replace an existing file.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        StoreError: it cannot be written, or the heatmap is damaged.
    """
    path = as_location(path)
    corner = qupath_corner_l0(heatmap) if bounds_crop else (0.0, 0.0)
    features = [_lesion_feature(report, lesion, corner) for lesion in report.lesions]
    facts = {
        "notice": NOTICE,
        "source": to_builtins(report.source),
        "corner_l0": list(corner),
    }
    with (
        new_file(path, overwrite=overwrite) as partial,
        partial.open("w", encoding="utf-8") as file,
    ):
        # One feature a line and no list of them all: a slide has up to a million cells.
        file.write('{"type": "FeatureCollection",\n"histoslide": ' + _text(facts))
        file.write(',\n"features": [')
        separator = "\n"
        for source in (features, _cell_features(heatmap, report, corner) if cells else ()):
            for feature in source:
                file.write(separator + _text(feature))
                separator = ",\n"
        file.write("\n]}\n")


def qupath_corner_l0(heatmap: Heatmap) -> tuple[float, float]:
    """The level-0 point (x, y) that is QuPath's origin: the corner of the slide's bounds."""
    bounds = heatmap.record.slide.bounds_l0
    return (0.0, 0.0) if bounds is None else (float(bounds[0]), float(bounds[1]))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _geometry(shape: shapely.Geometry, corner: tuple[float, float]) -> dict[str, Any]:
    moved: Any = shapely.transform(shape, lambda points: points - np.array(corner))
    return dict(shapely.geometry.mapping(moved))


def _lesion_feature(
    report: LesionReport, lesion: Lesion, corner: tuple[float, float]
) -> dict[str, Any]:
    settings = _text({key: str(value) for key, value in vars(report.settings).items()})
    identity = f"{report.source.heatmap_id} {settings} {lesion.number}"
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, identity)),
        "geometry": _geometry(lesion.polygon_l0, corner),
        "properties": {
            "objectType": "annotation",
            "name": f"Lesion {lesion.number}",
            "classification": _classification(lesion),
            "measurements": {
                "Longest diameter µm": lesion.longest_diameter_um,
                "Area mm^2": lesion.area_mm2,
                "Perimeter µm": lesion.perimeter_um,
                "Heatmap cells": lesion.cells,
                "Peak probability": lesion.peak_probability,
                "Mean probability": lesion.mean_probability,
            },
            "metadata": {"Notice": NOTICE},
        },
    }


def _classification(lesion: Lesion) -> dict[str, Any]:
    return {"name": lesion.kind.capitalize(), "color": list(LESION_COLOURS[lesion.kind])}


def _cell_features(
    heatmap: Heatmap, report: LesionReport, corner: tuple[float, float]
) -> Iterator[dict[str, Any]]:
    """Scored cells in reading order, those of a lesion in its class."""
    grid = heatmap.grid
    x_edges, y_edges = grid.edges_l0()
    by_class = {name: heatmap.probability(name) for name in heatmap.classes}
    owner = np.zeros(grid.shape, dtype=np.intp)
    for lesion in report.lesions:
        owner[tuple(lesion.cells_rc.T)] = lesion.number
    for row, col in np.argwhere(np.isfinite(by_class[heatmap.classes[0]])):
        square = shapely.box(x_edges[col], y_edges[row], x_edges[col + 1], y_edges[row + 1])
        measurements = {f"P({name})": float(p[row, col]) for name, p in by_class.items()}
        properties: dict[str, Any] = {"objectType": "tile", "measurements": measurements}
        if owner[row, col]:
            properties["classification"] = _classification(report.lesions[owner[row, col] - 1])
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(_NAMESPACE, f"{heatmap.id} cell {row} {col}")),
            "geometry": _geometry(square, corner),
            "properties": properties,
        }
