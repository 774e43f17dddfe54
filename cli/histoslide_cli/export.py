"""``histoslide export``: a heatmap in the formats of other programs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from histoslide_cli.console import location
from histoslide_cli.lesions import add_lesion_options, lesion_settings
from histoslide_cli.outcomes import EXIT_DONE

if TYPE_CHECKING:
    from histoslide.storage.location import Location
    from histoslide.store import Heatmap, NgffVersion

FORMATS = {
    "geojson": (".geojson", ".json"),
    "csv": (".csv",),
    "ome-zarr": (".zarr",),
    "ome-tiff": (".tif", ".tiff"),
    "dicom": (".dcm",),
    "numpy": (".npz",),
}
"""What can be written, and the endings under which people look for it."""

OPTIONS = {
    "geojson": {
        "cells": "--cells",
        "no_bounds_crop": "--no-bounds-crop",
        "lesion_settings": "--lesion-settings",
        "seed": "--seed",
        "extend": "--extend",
        "smooth": "--smooth",
        "gap": "--gap",
        "min_cells": "--min-cells",
        "class_name": "--class",
    },
    "ome-zarr": {"ngff": "--ngff", "packed": "--packed"},
}
"""Options of one format alone."""


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "export",
        parents=[common],
        help="write a heatmap for another program",
        description="Writes a heatmap as GeoJSON (lesion outlines for QuPath), CSV (WSInfer's "
        "columns), OME-Zarr of another version, pyramidal OME-TIFF, DICOM parametric map or NumPy "
        "file. The slide is not needed.",
        epilog="example: histoslide export heat.zarr --to geojson --out heat.geojson",
    )
    parser.add_argument("heatmap", type=location, metavar="HEAT.ZARR", help="made by score")
    parser.add_argument("--to", choices=FORMATS, required=True, help="format")
    parser.add_argument("--out", type=location, required=True, metavar="PATH", help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--ngff",
        choices=("0.4", "0.5"),
        help="OME-Zarr version of ome-zarr (default: 0.4)",
    )
    parser.add_argument(
        "--packed",
        action="store_true",
        help="ome-zarr in some thirty files instead of one a chunk, for archives and object "
        "storage; needs --ngff 0.5",
    )
    geojson = parser.add_argument_group("geojson")
    geojson.add_argument(
        "--cells", action="store_true", help="also write every scored cell, as QuPath's tiles"
    )
    geojson.add_argument(
        "--no-bounds-crop",
        action="store_true",
        help="count from the slide's corner, not from its bounds as QuPath does by default",
    )
    add_lesion_options(geojson)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Write the export and say where it lies."""
    from histoslide.storage.writing import refuse_existing
    from histoslide.store import open_heatmap

    _check_name(arguments.out, arguments.to)
    _check_options(arguments)
    refuse_existing(arguments.out, overwrite=arguments.overwrite)
    _write(open_heatmap(arguments.heatmap), arguments)
    print(arguments.out)  # noqa: T201
    return EXIT_DONE


def _check_name(out: Location, wanted: str) -> None:
    """Refuse a name that promises another format; any other ending is the user's choice."""
    from histoslide.errors import HistoslideError

    promised = [name for name, endings in FORMATS.items() if out.suffix.lower() in endings]
    if promised and wanted not in promised:
        raise HistoslideError(
            f"--out {out} ends like {promised[0]}, not {wanted}: end it in {FORMATS[wanted][0]}"
        )


def _check_options(arguments: argparse.Namespace) -> None:
    """Refuse options that the chosen format would ignore."""
    from histoslide.errors import HistoslideError

    for wanted, options in OPTIONS.items():
        for name, option in options.items():
            value = getattr(arguments, name)
            if wanted != arguments.to and value is not None and value is not False:
                raise HistoslideError(
                    f"{option} says nothing to --to {arguments.to}, only to {wanted}: leave it out"
                )


def _write(heat: Heatmap, arguments: argparse.Namespace) -> None:
    from histoslide.export.cell_table import write_csv
    from histoslide.export.dicom import write_dicom
    from histoslide.export.geojson import write_geojson
    from histoslide.export.numpy_file import write_npz
    from histoslide.export.ome_tiff import write_ome_tiff
    from histoslide.lesions import find_lesions
    from histoslide.store import convert_heatmap

    out, overwrite = arguments.out, arguments.overwrite
    if arguments.to == "geojson":
        write_geojson(
            heat,
            find_lesions(heat, lesion_settings(arguments)),
            out,
            cells=arguments.cells,
            bounds_crop=not arguments.no_bounds_crop,
            overwrite=overwrite,
        )
    elif arguments.to == "ome-zarr":
        ngff: NgffVersion = arguments.ngff or "0.4"
        convert_heatmap(heat, out, ngff=ngff, overwrite=overwrite, packed=arguments.packed)
    else:
        writers = {
            "csv": write_csv, "ome-tiff": write_ome_tiff, "dicom": write_dicom, "numpy": write_npz,
        }  # fmt: skip
        writers[arguments.to](heat, out, overwrite=overwrite)
