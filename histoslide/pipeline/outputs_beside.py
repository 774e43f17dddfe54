"""The files that go with a heatmap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from histoslide.lesions import are_lesion_files
from histoslide.outputs import refuse_existing
from histoslide.pipeline.options import ScoreOptions
from histoslide.render import read_png_label


@dataclass(frozen=True, kw_only=True)
class OutputsBeside:
    """Files that go with a heatmap and take its name."""

    picture: Path
    """The overlay."""
    mask_picture: Path
    """Mask and grid."""
    lesions_csv: Path
    """Table of lesions."""
    lesions_json: Path
    """The same for programs."""

    @classmethod
    def of(cls, out: Path) -> OutputsBeside:
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
