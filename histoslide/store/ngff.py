"""The metadata of OME-Zarr 0.4 and 0.5 for a two-dimensional multiscale image and its labels.

Source: the OME-NGFF specifications 0.4 and 0.5, sections "multiscales", "omero", "image-label".
"""

from __future__ import annotations

from typing import Any

from histoslide.grid.status import Status

_TUMOUR_COLOUR = "FF0000"
_CLASS_COLOURS = ("E69F00", "56B4E9", "009E73", "F0E442", "0072B2", "D55E00", "CC79A7")
"""Of the classes of a model that has more than two; they repeat where there are more of them.

Viewers add the channels up, and the probabilities of a cell add up to one, so a cell that is sure
of its class shows that class's colour. Source: Okabe and Ito, Color Universal Design (2008).
"""


def multiscale(
    name: str, um: float, levels: int, *, channels: bool, downscaling: str, version: str
) -> list[dict[str, Any]]:
    """One ``multiscales`` entry with axes (c,) y, x; level k has pixels of ``um * 2**k`` µm.

    Args:
        name: shown by viewers.
        um: micrometres a pixel of level 0.
        levels: number of levels.
        channels: whether there is a leading channel axis.
        downscaling: how coarser levels are made, for people to read.
        version: of OME-Zarr; 0.4 repeats it in each entry.
    """
    axes: list[dict[str, str]] = [
        {"name": name_, "type": "space", "unit": "micrometer"} for name_ in "yx"
    ]
    if channels:
        axes.insert(0, {"name": "c", "type": "channel"})
    lead = [1.0] if channels else []
    entry: dict[str, Any] = {
        "name": name,
        "axes": axes,
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [*lead, um * 2**level, um * 2**level]}
                ],
            }
            for level in range(levels)
        ],
        "type": downscaling,
    }
    if version == "0.4":
        entry["version"] = version
    return [entry]


def image_metadata(
    name: str, um: float, levels: int, channels: tuple[str, ...], version: str
) -> dict[str, Any]:
    """Group attributes of the heatmap image; the display window is fixed to 0-1."""
    body: dict[str, Any] = {
        "multiscales": multiscale(
            name,
            um,
            levels,
            channels=len(channels) > 1,
            downscaling="maximum, ignoring NaN",
            version=version,
        ),
        "omero": {
            "channels": [
                {
                    "label": channel,
                    "color": colour,
                    "active": True,
                    "window": {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0},
                }
                for channel, colour in zip(channels, _colours(len(channels)), strict=True)
            ]
        },
    }
    return _wrap(body, version)


def _colours(channels: int) -> list[str]:
    if channels == 1:
        return [_TUMOUR_COLOUR]
    return [_CLASS_COLOURS[index % len(_CLASS_COLOURS)] for index in range(channels)]


def labels_metadata(names: tuple[str, ...], version: str) -> dict[str, Any]:
    """Group attributes of what holds the labels."""
    return _wrap({"labels": list(names)}, version)


def label_metadata(name: str, um: float, levels: int, version: str) -> dict[str, Any]:
    """Group attributes of the status labels, with a name and a colour for each status."""
    label: dict[str, Any] = {
        "colors": [{"label-value": it.value, "rgba": list(it.rgba)} for it in Status],
        "properties": [{"label-value": it.value, "status": it.label} for it in Status],
        "source": {"image": "../../"},
    }
    if version == "0.4":
        label["version"] = version
    body = {
        "multiscales": multiscale(
            name,
            um,
            levels,
            channels=False,
            downscaling="the most important status",
            version=version,
        ),
        "image-label": label,
    }
    return _wrap(body, version)


def _wrap(body: dict[str, Any], version: str) -> dict[str, Any]:
    return {"ome": {"version": version, **body}} if version == "0.5" else body
