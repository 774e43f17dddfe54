"""The files that go with a heatmap."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from histoslide.errors import StoreError
from histoslide.lesions import are_lesion_files, heatmap_of_lesions
from histoslide.pipeline.options import ScoreOptions
from histoslide.render.png import read_png_label
from histoslide.storage.location import Location, storage_errors
from histoslide.storage.writing import refuse_existing
from histoslide.store import Heatmap

logger = logging.getLogger(__name__)

_OVERLAY, _MASK = "P(", "mask, cells "
"""What our labels of pictures begin with."""


@dataclass(frozen=True, kw_only=True)
class OutputsBeside:
    """Files that go with a heatmap and take its name."""

    picture: Location
    """The overlay."""
    mask_picture: Location
    """Mask and grid."""
    lesions_csv: Location
    """Table of lesions."""
    lesions_json: Location
    """The same for programs."""

    @classmethod
    def of(cls, out: Location) -> OutputsBeside:
        """Those of a heat.zarr."""
        return cls(
            picture=out.with_suffix(".png"),
            mask_picture=out.with_name(f"{out.stem}-mask.png"),
            lesions_csv=out.with_name(f"{out.stem}-lesions.csv"),
            lesions_json=out.with_name(f"{out.stem}-lesions.json"),
        )

    def refuse_others(self, options: ScoreOptions) -> None:
        """Make sure that nothing of somebody else's is in the way.

        Raises:
            OutputExistsError: a file of that name is not ours, and overwriting was not asked for.
        """
        for path, drawn in (
            (self.picture, options.overlay),
            (self.mask_picture, options.mask_png),
        ):
            if drawn and not read_png_label(path):  # without our label it is somebody else's
                refuse_existing(path, overwrite=options.overwrite)
        tables = (self.lesions_csv, self.lesions_json)
        if options.lesions and not are_lesion_files(*tables):
            for table in tables:
                refuse_existing(table, overwrite=options.overwrite)

    @staticmethod
    def overlay_label(heat: Heatmap, shown_class: str, options: ScoreOptions) -> str:
        """What an overlay shows."""
        return (
            f"{_OVERLAY}{shown_class}), threshold {options.overlay_threshold:g}, "
            f"{options.overlay_px} px{_signature(heat)}"
        )

    @staticmethod
    def mask_label(fingerprint: Mapping[str, Any]) -> str:
        """What a picture of mask and grid shows, by the fingerprint of its heatmap."""
        return f"{_MASK}{fingerprint['mask.plan_sha256']}"

    def remove_others(self, heat: Heatmap, *, tables: bool) -> None:
        """Remove what we wrote of a heatmap that this one has taken the place of.

        Args:
            heat: whole.
            tables: whether tables are of another heatmap even if they have its id, since what
                could not be read then has been read now.
        """
        for path in self._others(heat, tables=tables):
            try:
                with storage_errors(path):
                    path.unlink(missing_ok=True)
            except (OSError, StoreError) as error:
                logger.warning(
                    "%s is of a heatmap that was replaced, and stays: %s", path.name, error
                )
            else:
                logger.info("removed %s: it was of the heatmap that was replaced", path.name)

    def _others(self, heat: Heatmap, *, tables: bool) -> Iterator[Location]:
        label = read_png_label(self.picture) or ""
        if label.startswith(_OVERLAY) and not label.endswith(_signature(heat)):
            yield self.picture
        label = read_png_label(self.mask_picture) or ""
        if label.startswith(_MASK) and label != self.mask_label(heat.record.fingerprint):
            yield self.mask_picture
        listed = heatmap_of_lesions(self.lesions_json)
        if listed is not None and (tables or listed != heat.id):
            yield from (self.lesions_csv, self.lesions_json)  # the CSV is known by the JSON


def _signature(heat: Heatmap) -> str:
    return f", {heat.id}, {heat.record.seconds} s"
