"""A DICOM parametric map, the standard's object for a picture of computed values.

Made with highdicom, which is not among histoslide's dependencies: ``pip install
"histoslide[dicom]"``.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from histoslide.errors import HistoslideError
from histoslide.lesions import NOTICE
from histoslide.storage.location import Location, as_location
from histoslide.storage.writing import new_file
from histoslide.store import Heatmap

if TYPE_CHECKING:
    from pydicom import Dataset

NOT_SCORED = -1.0
"""Stands for cells without a probability: not every reader of DICOM knows NaN. It is recorded as
the padding value and said in the explanation of the values."""

_TILE_PX = 512
"""Side of a frame."""

_VL_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of the slide that the map speaks of."""


def write_dicom(heatmap: Heatmap, path: Location | str, *, overwrite: bool = False) -> None:
    """Write the probabilities as a tiled parametric map of 32-bit floats, one pixel a cell.

    A heatmap knows no patient, and most slides are no DICOM files. The map is therefore a study of
    its own, whose slide coordinates start at the slide's upper left corner, x to the right and y
    down. Its UIDs follow from the heatmap, so the same heatmap has the same.

    Args:
        heatmap: stored.
        path: file to write.
        overwrite: replace an existing file.

    Raises:
        HistoslideError: highdicom is not installed.
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        StoreError: it cannot be written, or the heatmap is damaged.
    """
    path = as_location(path)
    try:
        import highdicom  # noqa: F401, PLC0415
    except ImportError as error:
        raise HistoslideError(
            'DICOM needs the package highdicom: pip install "histoslide[dicom]"'
        ) from error
    parametric_map = _parametric_map(heatmap)
    with new_file(path, overwrite=overwrite) as partial:
        parametric_map.save_as(partial)


def _parametric_map(heatmap: Heatmap) -> Any:
    import highdicom as hd  # noqa: PLC0415
    from pydicom.uid import ExplicitVRLittleEndian  # noqa: PLC0415

    channels = heatmap.shown_classes
    values = np.stack([heatmap.probability(name) for name in channels], axis=-1)
    values = np.where(np.isfinite(values), values, np.float32(NOT_SCORED))[None]
    half_mm = heatmap.grid.cell_um / 2000
    made = hd.pm.ParametricMap(
        source_images=[_slide_dataset(heatmap)],
        pixel_array=values,
        series_instance_uid=_uid(heatmap, "map series"),
        series_number=1,
        sop_instance_uid=_uid(heatmap, "map"),
        instance_number=1,
        manufacturer="histoslide",
        manufacturer_model_name=_long(heatmap.record.model.name),
        software_versions=version("histoslide"),
        device_serial_number=heatmap.record.model.sha256[:16],
        contains_recognizable_visual_features=False,
        content_label="PROBABILITY",
        content_description=NOTICE,
        real_world_value_mappings=[[_identity(name)] for name in channels],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.5, window_width=1.0)],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        pixel_measures=_pixel_measures(heatmap.grid.cell_um),
        plane_orientation=hd.PlaneOrientationSequence(
            coordinate_system=hd.CoordinateSystemNames.SLIDE, image_orientation=_ORIENTATION
        ),
        # A position is that of the middle of the first pixel.
        plane_positions=[
            hd.PlanePositionSequence(
                coordinate_system=hd.CoordinateSystemNames.SLIDE,
                image_position=(half_mm, half_mm, 0.0),
                pixel_matrix_position=(1, 1),
            )
        ],
        tile_pixel_array=True,
        tile_size=(_TILE_PX, _TILE_PX),
    )
    made.FloatPixelPaddingValue = NOT_SCORED
    made.SeriesDescription = _long(f"{heatmap.record.slide.name}: P({', '.join(channels)})")
    return made


def _long(text: str, most: int = 64) -> str:
    """Text as DICOM's Long String holds it (PS3.5, section 6.2): no longer, and of one value."""
    return " ".join(text.replace("\\", "/").split())[:most]


_ORIENTATION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""Rows run along x and columns along y of the slide's coordinates."""


def _identity(name: str) -> Any:
    """Stored values are probabilities of a class."""
    import highdicom as hd  # noqa: PLC0415
    from pydicom.sr.codedict import codes  # noqa: PLC0415

    return hd.pm.RealWorldValueMapping(
        lut_label=_long(name, 16),
        lut_explanation=f"probability of {_long(name, 28)}, -1 where not scored",
        unit=codes.UCUM.NoUnits,
        value_range=(NOT_SCORED, 1.0),
        slope=1.0,
        intercept=0.0,
    )


def _pixel_measures(um: float) -> Any:
    import highdicom as hd  # noqa: PLC0415

    return hd.PixelMeasuresSequence(pixel_spacing=(um / 1000, um / 1000), slice_thickness=um / 1000)


def _slide_dataset(heatmap: Heatmap) -> Dataset:
    """What a parametric map must know of the slide that it was made from; holds no pixels."""
    import highdicom as hd  # noqa: PLC0415
    from pydicom import Dataset  # noqa: PLC0415

    slide = heatmap.record.slide
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, also of the map: slides have any name
    made.SOPClassUID = _VL_WHOLE_SLIDE
    made.SOPInstanceUID = _uid(heatmap, "slide")
    made.StudyInstanceUID = _uid(heatmap, "study")
    made.SeriesInstanceUID = _uid(heatmap, "slide series")
    made.FrameOfReferenceUID = _uid(heatmap, "frame of reference")
    made.PositionReferenceIndicator = "SLIDE_CORNER"
    made.Modality = "SM"
    for name in (
        "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
        "StudyDate", "StudyTime", "ReferringPhysicianName",
    ):  # fmt: skip
        setattr(made, name, "")
    made.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    made.Rows, made.Columns, made.NumberOfFrames = _TILE_PX, _TILE_PX, 1
    made.TotalPixelMatrixColumns, made.TotalPixelMatrixRows = slide.size_l0
    made.TotalPixelMatrixFocalPlanes = 1
    made.NumberOfOpticalPaths = 1
    made.DimensionOrganizationType = "TILED_FULL"
    made.ImageOrientationSlide = list(_ORIENTATION)
    origin, shared = Dataset(), Dataset()
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = slide.mpp / 2000
    made.TotalPixelMatrixOriginSequence = [origin]
    shared.PixelMeasuresSequence = _pixel_measures(slide.mpp)
    made.SharedFunctionalGroupsSequence = [shared]
    made.ContainerIdentifier = slide.quickhash[:64]
    made.IssuerOfTheContainerIdentifierSequence = []
    made.ContainerTypeCodeSequence = []
    made.SpecimenDescriptionSequence = [
        hd.SpecimenDescription(
            specimen_id=slide.quickhash[:64], specimen_uid=_uid(heatmap, "specimen")
        )
    ]
    return made


def _uid(heatmap: Heatmap, what: str) -> Any:
    from pydicom.uid import generate_uid  # noqa: PLC0415

    return generate_uid(entropy_srcs=["histoslide", heatmap.id, what])
