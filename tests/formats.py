"""Every format that is read: how a good file comes about, and all that reads it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import shapely
import tifffile
import torch
from fakes import FakeSlide
from heatmaps import stored_heatmap
from patch_files import pixels_of, write_kaggle, write_split
from PIL import Image
from tiffs import KINDS, tissue_pixels, write_kind

from histoslide.annotations.truth import read_truth
from histoslide.cohort.jobs import read_slide_list
from histoslide.cohort.records import read_run, write_run
from histoslide.datasets.images import read_image
from histoslide.datasets.kaggle import open_kaggle
from histoslide.datasets.mined import (
    MINED_NAME,
    MinedHeatmap,
    MinedPatch,
    MinedRecord,
    MinedSlide,
    MiningSettings,
    mining_facts,
    read_mined,
)
from histoslide.datasets.patches import PatchSet
from histoslide.datasets.pcam_hdf5 import open_pcam_hdf5
from histoslide.datasets.split_file import read_split
from histoslide.evaluation.patches.history import RateSearch
from histoslide.evaluation.patches.predictions import Predictions
from histoslide.evaluation.slides.detections import read_detections
from histoslide.export.numpy_file import write_npz
from histoslide.export.ome_tiff import write_ome_tiff
from histoslide.geometry import Mpp, Region, Size
from histoslide.judging.reference import read_reference as read_judged_reference
from histoslide.lesions import LesionSettings, find_lesions
from histoslide.lesions.settings_file import (
    SETTINGS_NAME,
    ChosenOn,
    ChosenSettings,
    read_settings,
    write_settings,
)
from histoslide.lesions.table import heatmap_of_lesions, write_lesions
from histoslide.mining.reference import read_reference
from histoslide.model import ModelSpec, save_bundle
from histoslide.model.bundle import is_bundle, load_bundle, measure_bundle, read_spec
from histoslide.model.fast_paths import FastPaths, Gate, read_fast_paths, write_fast_paths
from histoslide.model.given_weights import read_state
from histoslide.pipeline.result import SlideResult
from histoslide.review import (
    FocusOrigin,
    ReviewedSlide,
    ReviewFile,
    ReviewObject,
    read_review,
)
from histoslide.slide import Slide
from histoslide.slide.access import DEFAULT_ACCESS
from histoslide.slide.opening import open_slide
from histoslide.slide.resolutions import read_mpp_csv
from histoslide.storage.records import to_json
from histoslide.store import open_heatmap
from histoslide.tiling.labelled.patient_split import read_patient_split
from histoslide.tiling.labelled.slide_list import read_labelled_list
from histoslide.tissue.mask_files import read_mask
from histoslide.training.checkpoint import Checkpoint, load_checkpoint
from histoslide.training.recipe import RECIPES
from histoslide.training.recipe_file import find_recipe
from histoslide.training.run_folder import RATES_NAME, read_rates
from histoslide.viewer.cells import CellSource

Read = Callable[[Path], object]
"""Reads what lies in a folder; a result of any kind is good."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format that is read."""

    make: Callable[[Path], object]
    """Writes good files into a folder."""
    reads: Sequence[Read]
    """All that reads them, each from the folder."""
    isolated: Sequence[Read] = ()
    """The same as the commands do it, where a native library may end the process."""
    refused: bool = True
    """Whether damage is an error; what is not ours may also be passed over."""


SPEC = ModelSpec(
    name="small",
    architecture="resnet18",
    classes=("normal", "tumour"),
    tumour_class="tumour",
    input_px=96,
    label_px=32,
    mpp=0.972,
)

WEIGHTS = {
    "0.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "1.running_mean": torch.zeros(4),
    "1.num_batches_tracked": torch.tensor(7),
}

_BUNDLE = "model.safetensors"


def _make_fast_paths(folder: Path) -> None:
    gate = Gate(
        auc=0.9,
        auc_fp32=0.9,
        largest_difference=0.1,
        mean_difference=0.01,
        patches=10,
        computed_by="openvino 2026.1",
    )
    paths = FastPaths(
        weights_sha256="00",
        data="made",
        gates={"bf16": gate},
        ranges={"0.weight": 1.5, "1.weight": (-0.5, 1.5)},
    )
    write_fast_paths(folder / _BUNDLE, paths)


def _make_heatmap(folder: Path) -> None:
    rows, cols = np.mgrid[:40, :50]
    values = np.abs(np.sin(rows / 7.0) * np.cos(cols / 5.0))
    stored_heatmap(folder / "h.zarr", np.where(values < 0.05, np.nan, values))


def _make_settings(folder: Path) -> None:
    chosen = ChosenSettings(
        settings=LesionSettings(seed_probability=0.9),
        aim="best FROC",
        reached={"froc_score": 0.5},
        tried=2,
        models=("00",),
        chosen_on=(ChosenOn(slide="a.tif", quickhash="q", patient=None),),
        histoslide="0",
    )
    write_settings(chosen, folder / SETTINGS_NAME, overwrite=False)


def _make_reference(folder: Path) -> None:
    (folder / "reference.csv").write_text(
        "slide,label,patient,centre,scanner,exhaustive,node,stage\n"
        "a.tif,tumour,p1,one,s,yes,macro,pN1\nb.tif,0,p2,,,,,\n"
    )


def _cells_in_viewer(folder: Path) -> None:
    source = CellSource(folder / "h.zarr")
    source.state()
    source.highest()
    source.tile(0, 0, 0)


def _values(folder: Path) -> None:
    heat = open_heatmap(folder / "h.zarr", allow_incomplete=True)
    for name in heat.classes:
        heat.probability(name)
    assert heat.counts
    assert heat.disagreement is None or heat.disagreement.size


def _ome_tiff(folder: Path) -> None:
    write_ome_tiff(open_heatmap(folder / "h.zarr"), folder / "out.ome.tiff", overwrite=True)


def _npz(folder: Path) -> None:
    write_npz(open_heatmap(folder / "h.zarr"), folder / "out.npz", overwrite=True)


def _slide() -> FakeSlide:
    return FakeSlide(
        [np.zeros((300, 400, 3), np.uint8)], mpp=Mpp(value=2.0, source="slide metadata")
    )


def _make_mask(folder: Path, mode: str) -> None:
    drawn = np.zeros((60, 80), np.uint8)
    drawn[10:40, 20:60] = 200
    Image.fromarray(drawn).convert(mode).save(folder / "mask.png")


def _make_outlines(folder: Path) -> None:
    (folder / "mask.geojson").write_text(
        '{"type": "FeatureCollection", "features": ['
        '{"type": "Feature", "geometry": '
        '{"type": "Polygon", "coordinates": '
        "[[[10, 10], [300, 20], [200, 250], [10, 10]], [[50, 50], [60, 50], [60, 60], [50, 50]]]}, "
        '"properties": {"name": "a"}}, '
        '{"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries": ['
        '{"type": "MultiPolygon", "coordinates": [[[[5, 5], [90.5, 5], [90, 80]]]]}]}}]}'
    )


def _annotations(name: str, make: Callable[[Path], object]) -> Format:
    def read(folder: Path) -> None:
        truth = read_truth(folder / name, Size(400, 300))
        boxes = np.array([[0, 0, 400, 300], [15, 15, 60, 60], [100.5, 20, 130, 50.25]])
        truth.tumour_in(boxes)
        truth.unknown_in(boxes, exhaustive=False)
        truth.tumour_mask(Size(40, 30))
        truth.lesions()

    def read_as_mask(folder: Path) -> None:
        read_mask(folder / name, _slide())

    drawn = not name.endswith((".tif", ".png"))
    return Format(make=make, reads=[read, read_as_mask] if drawn else [read])


def _make_asap(folder: Path) -> None:
    rings: dict[str, list[tuple[float, float]]] = {
        "Tumor": [(10, 10), (300.5, 20), (200, 250)],
        "_2": [(50, 50), (90, 50), (90, 90)],
    }
    parts = "".join(
        f'<Annotation Name="a" Type="Polygon" PartOfGroup="{group}"><Coordinates>'
        + "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(ring))
        + "</Coordinates></Annotation>"
        for group, ring in rings.items()
    )
    (folder / "a.xml").write_text(
        f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{parts}</Annotations>'
        "</ASAP_Annotations>"
    )


def _make_classed(folder: Path) -> None:
    (folder / "a.geojson").write_text(
        '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": '
        '{"name": "x", "classification": {"name": "Tumor"}}, "geometry": {"type": "Polygon", '
        '"coordinates": '
        "[[[10, 10], [300, 20], [200, 250], [10, 10]], [[60, 50], [90, 50], [90, 60], [60, 50]]]}}"
        ', {"type": "Feature", "properties": {"classification": "normal"}, "geometry": {"type": '
        '"MultiPolygon", "coordinates": [[[[5, 5], [90.5, 5], [90, 80]]]]}}]}'
    )


def _make_drawn_mask(folder: Path, name: str) -> None:
    drawn = np.zeros((150, 200), np.uint8)
    drawn[10:40, 20:60] = 1
    if name.endswith(".png"):
        Image.fromarray(drawn).save(folder / name)
    else:
        tifffile.imwrite(folder / name, drawn, tile=(64, 64), compression="lzw")


_REVIEWED = ReviewedSlide(name="made.tif", quickhash="made", size_l0=(400, 300))
_JUDGED = ReviewObject(
    id="focus",
    class_name="Normal",
    outline_l0=shapely.box(10, 20, 300, 200),
    origin=FocusOrigin(number=1, heatmap_id="a", model_sha256="b"),
)


def _make_review(folder: Path) -> None:
    ReviewFile(folder / "review.geojson", _REVIEWED).change("focus", base=None, to=_JUDGED)


def _make_mined(folder: Path) -> None:
    heatmap = MinedHeatmap(
        slide="made.tif", quickhash="made", heatmap="h.zarr", heatmap_id="1", model="m",
        model_sha256="2", truth="negative", truth_file=None, truth_sha256=None, exhaustive=True,
    )  # fmt: skip
    settings = MiningSettings(
        heatmaps=(heatmap,), above=0.5, below=0.5, label_rule="any", classes={}, per_slide=9,
        per_lesion=3, folders=("0", "1"),
    )  # fmt: skip
    patch = MinedPatch(
        file="0/a.png", why="false positive", heatmap=0, row=3, col=4, probability=0.75, focus=1
    )
    slide = MinedSlide(patches=(patch,), false_positives=7, misses=0)
    record = MinedRecord(settings=settings, slides=(slide,), left_out={"b.zarr": "unknown"})
    (folder / MINED_NAME).write_text(to_json(record))


def _mining_reference(folder: Path) -> None:
    reference = read_reference(folder / "list.csv", split=folder / "list.csv")
    reference.refusal("a.tif")
    reference.find(ReviewedSlide(name="a.tif", quickhash="a", size_l0=(400, 300)))


def _make_recipe(folder: Path) -> None:
    (folder / "recipe.toml").write_text(
        'base = "pcam"\nbatch_size = 32\nmixup = 0.2\n[augmentation]\nstain = 0.1\n'
        "[[stages]]\nepochs = 2\nlr = [1e-5, 1e-3]\n[[stages]]\nepochs = 1\nlr = 1e-4\n"
    )


def _make_run(folder: Path) -> None:
    results = [
        SlideResult(
            slide="a.svs",
            state="done",
            output="a.zarr",
            counts={"scored": 10, "background": 3},
            threshold=0.5,
            warnings=("w",),
        ),
        SlideResult(slide="b.svs", state="failed", error="b.svs is empty"),
    ]
    write_run(folder, "small", results, total=2)


def _make_lesions(folder: Path) -> None:
    heat = stored_heatmap(folder / "h.zarr", np.full((4, 5), 0.95, np.float32))
    write_lesions(find_lesions(heat), folder / "h.lesions.csv", folder / "h.lesions.json")
    for path in sorted((folder / "h.zarr").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def _make_predictions(folder: Path) -> None:
    Predictions(
        logits=np.array([[0.1, 2.0], [1.5, -1.0], [0.3, 0.2]], dtype=np.float32),
        labels=np.array([1, 0, 1]),
        names=("a", "b", "c"),
        slides=("s", "s", "t"),
        classes=("normal", "tumour"),
        tumour=1,
    ).save(folder / "predictions.csv", temperature=1.3)


def _make_checkpoint(folder: Path) -> None:
    Checkpoint(
        settings={"seed": 1, "classes": ["a", "b"]},
        losses=[0.5, 0.25],
        rates=[[0.1], [0.2]],
        network=dict(WEIGHTS),
        optimiser={"state": [{"step": 3}]},
    ).save(folder / "checkpoint.pt")


def _text_file(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def _all_patches(parts: Mapping[str, PatchSet]) -> None:
    for patches in parts.values():
        for index in range(min(len(patches), 8)):
            patches.read(index)


def _picture(suffix: str, **options: str) -> Format:
    def make(folder: Path) -> None:
        Image.fromarray(pixels_of(300, 32)).save(folder / f"p{suffix}", **options)

    return Format(make=make, reads=[lambda folder: read_image(folder / f"p{suffix}")])


def _slide_file(kind: str) -> Format:
    def make(folder: Path) -> None:
        levels = [tissue_pixels(300, 200), tissue_pixels(150, 100)]
        write_kind(folder / "slide.tif", levels, KINDS[kind])

    def read(open_file: Callable[[Path], Slide], folder: Path) -> None:
        slide = open_file(folder / "slide.tif")
        try:
            for level, size in enumerate(slide.level_sizes):
                width, height = min(size.width, 256), min(size.height, 256)
                slide.read(Region(level, 0, 0, width, height))
        finally:
            slide.close()

    return Format(
        make=make,
        reads=[partial(read, open_slide)],
        isolated=[partial(read, DEFAULT_ACCESS.open)],
    )


FORMATS = {
    "bundle": Format(
        make=lambda folder: save_bundle(folder / _BUNDLE, SPEC, WEIGHTS),
        reads=[
            lambda folder: is_bundle(folder / _BUNDLE),
            lambda folder: read_spec(folder / _BUNDLE),
            lambda folder: measure_bundle(folder / _BUNDLE),
            lambda folder: load_bundle(folder / _BUNDLE),
            lambda folder: read_state(folder / _BUNDLE),
        ],
    ),
    "weights": Format(
        make=lambda folder: torch.save(WEIGHTS, folder / "weights.pth"),
        reads=[lambda folder: read_state(folder / "weights.pth")],
    ),
    "fast-paths.json": Format(
        make=_make_fast_paths,
        reads=[lambda folder: read_fast_paths(folder / _BUNDLE, sha256="00")],
    ),
    "heat.zarr": Format(
        make=_make_heatmap,
        reads=[
            _values,
            lambda folder: find_lesions(open_heatmap(folder / "h.zarr")),
            _cells_in_viewer,
            _ome_tiff,
            _npz,
        ],
    ),
    "lesion-settings.json": Format(
        make=_make_settings,
        reads=[lambda folder: read_settings(folder / SETTINGS_NAME)],
    ),
    "detections.csv": Format(
        make=lambda folder: (folder / "found.csv").write_text("0.9,10,20\n0.5,399,299.5\n"),
        reads=[lambda folder: read_detections(folder / "found.csv", Size(400, 300))],
    ),
    "reference.csv": Format(
        make=_make_reference,
        reads=[lambda folder: read_judged_reference(folder / "reference.csv")],
    ),
    "mask PNG": Format(
        make=lambda folder: _make_mask(folder, "L"),
        reads=[lambda folder: read_mask(folder / "mask.png", _slide())],
    ),
    "mask PNG, palette": Format(
        make=lambda folder: _make_mask(folder, "P"),
        reads=[lambda folder: read_mask(folder / "mask.png", _slide())],
    ),
    "mined": Format(
        make=_make_mined,
        reads=[read_mined, lambda folder: mining_facts([folder])],
    ),
    "mining reference": Format(
        make=lambda folder: (folder / "list.csv").write_text(
            "slide,patient,annotations,exhaustive,part\na.tif,p,none,yes,train\nb.tif,q,,no,test\n"
        ),
        reads=[_mining_reference],
    ),
    "review": Format(
        make=_make_review,
        reads=[
            lambda folder: read_review(folder / "review.geojson"),
            lambda folder: ReviewFile(folder / "review.geojson", _REVIEWED).change(
                "another", base=None, to=replace(_JUDGED, id="another")
            ),
        ],
    ),
    "mask GeoJSON": Format(
        make=_make_outlines,
        reads=[lambda folder: read_mask(folder / "mask.geojson", _slide())],
    ),
    "annotations ASAP": _annotations("a.xml", _make_asap),
    "annotations GeoJSON": _annotations("a.geojson", _make_classed),
    "annotations NCRF": _annotations(
        "a.json",
        _text_file(
            "a.json",
            '{"positive": [{"name": "_0", "vertices": [[10, 10], [300, 20], [200, 250]]}], '
            '"negative": [{"name": "a", "vertices": [[50, 50], [90, 50], [90, 90.5]]}]}',
        ),
    ),
    "annotations mask TIFF": _annotations("a.tif", lambda f: _make_drawn_mask(f, "a.tif")),
    "annotations mask PNG": _annotations("a.png", lambda f: _make_drawn_mask(f, "a.png")),
    "list of annotated slides": Format(
        make=_text_file(
            "list.csv",
            "slide,mpp,patient,centre,annotations,exhaustive,part\na.svs,0.25,p,c,a.xml,no,test\n"
            "b.svs,,,,none,,\n",
        ),
        reads=[lambda folder: read_labelled_list(folder / "list.csv")],
    ),
    "split of patients": Format(
        make=_text_file("split.csv", "patient,part,slide\np,train,a.svs\nq,valid,b.svs\n"),
        reads=[lambda folder: read_patient_split(folder / "split.csv")],
    ),
    "recipe TOML": Format(
        make=_make_recipe, reads=[lambda folder: find_recipe(str(folder / "recipe.toml"))]
    ),
    "recipe JSON": Format(
        make=lambda folder: (folder / "recipe.json").write_text(to_json(RECIPES["pcam"])),
        reads=[lambda folder: find_recipe(str(folder / "recipe.json"))],
    ),
    "slide list": Format(
        make=_text_file("list.csv", "slide,mpp,output\na.svs,0.25,a\nb.svs,,\n'=c.svs,0.5,c\n"),
        reads=[lambda folder: read_slide_list(folder / "list.csv")],
    ),
    "mpp table": Format(
        make=_text_file("mpp.csv", "slide,mpp\na.svs,0.25\nC:\\x\\b.svs,0.5\n"),
        reads=[lambda folder: read_mpp_csv(folder / "mpp.csv")],
    ),
    "run.json": Format(make=_make_run, reads=[read_run]),
    "lesions": Format(
        make=_make_lesions,
        reads=[lambda folder: heatmap_of_lesions(folder / "h.lesions.json")],
        refused=False,
    ),
    "split": Format(
        make=_text_file("split.csv", "name,part,slide\na,train,s\nb,valid,t\nc,duplicate,\n"),
        reads=[lambda folder: read_split(folder / "split.csv", ("a", "b", "c"))],
    ),
    "predictions": Format(
        make=_make_predictions,
        reads=[lambda folder: Predictions.load(folder / "predictions.csv", tumour_class="tumour")],
    ),
    "rates": Format(
        make=lambda folder: (folder / RATES_NAME).write_text(
            RateSearch(
                lrs=np.array([1e-5, 1e-3]), losses=np.array([0.7, math.nan]), suggestion=None
            ).to_json()
        ),
        reads=[read_rates],
    ),
    "checkpoint": Format(
        make=_make_checkpoint,
        reads=[
            lambda folder: load_checkpoint(
                folder / "checkpoint.pt", {"seed": 1, "classes": ["a", "b"]}
            )
        ],
    ),
    "Kaggle": Format(
        make=lambda folder: write_kaggle(folder, [0, 1, 1]),
        reads=[lambda folder: _all_patches(open_kaggle(folder).parts)],
    ),
    "PCam HDF5": Format(
        make=lambda folder: write_split(folder, "train", [0, 1, 0], slides=["a", "b", "a"]),
        reads=[lambda folder: _all_patches(open_pcam_hdf5(folder).parts)],
    ),
    "patch PNG": _picture(".png"),
    "patch TIFF": _picture(".tif"),
    "patch TIFF, deflate": _picture(".tiff", compression="tiff_adobe_deflate"),
    "patch JPEG": _picture(".jpg"),
    "patch WebP": _picture(".webp"),
    "slide JPEG": _slide_file("4:2:0"),
    "slide BigTIFF": _slide_file("BigTIFF"),
    "slide SVS, JPEG": _slide_file("4:2:0, tables apart"),
    "slide SVS, JPEG 2000": _slide_file("JPEG 2000 33005"),
    "slide Philips": _slide_file("Philips"),
    "slide deflate": _slide_file("deflate, predicted"),
    "slide LZW": _slide_file("LZW"),
}
"""By name."""
