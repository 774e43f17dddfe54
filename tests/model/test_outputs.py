"""What a network puts out is checked at its first batch, and one that hangs is given up."""

import dataclasses
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FakeSlide
from numpy.typing import NDArray
from torch import Tensor, nn

from histoslide.cohort.run import score_slides
from histoslide.errors import BundleError, StalledError
from histoslide.geometry import Mpp
from histoslide.model import Model, ModelSpec
from histoslide.model.backend import Program
from histoslide.model.engine import Engine
from histoslide.model.pixels import HostMemory
from histoslide.model.work import Areas, Tiles, Views
from histoslide.pipeline import ScoreOptions, TissueOptions
from histoslide.scoring.lazy import LazyHeatmap, make_heatmap
from histoslide.scoring.mode import ScoreMode
from histoslide.store import store_heatmap
from histoslide.synthetic import fiducial_slide
from histoslide.tissue.masks import METHODS, find_tissue

SPEC = ModelSpec(
    name="some",
    architecture="none",
    classes=("normal", "tumour"),
    tumour_class="tumour",
    input_px=96,
    label_px=32,
    mpp=0.972,
)


OPENVINO = Engine(backend="openvino")


class Outputs(nn.Module):
    """Zeros of a shape for every tile."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self._shape = shape

    def forward(self, tiles: Tensor) -> Tensor:
        return torch.zeros(len(tiles), *self._shape)


class Pair(nn.Module):
    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        return tiles, tiles


def white() -> FakeSlide:
    return FakeSlide([np.full((300, 300, 3), 120, np.uint8)], mpp=Mpp(value=0.972, source="test"))


def lay_out(slide: FakeSlide, model: Model, **options: Any) -> LazyHeatmap:
    return make_heatmap(slide, model, tissue=find_tissue(slide, METHODS["none"]), **options)


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Outputs(1), "has 1 outputs where its spec names 2 classes (normal, tumour)"),
        (Outputs(3), "has 3 outputs where its spec names 2 classes (normal, tumour)"),
        (Outputs(), "has outputs of shape"),
        (Outputs(2, 1, 1), "has outputs of shape"),
        (nn.Linear(7, 2), "the network fails on"),
        (Pair(), "the network puts out a tuple, not one tensor of logits"),
    ],
)
def test_outputs_that_are_not_the_classes_are_refused(
    network: nn.Module, said: str, tta: bool, tmp_path: Path
) -> None:
    model = Model(SPEC, network, sha256="0")
    lazy = lay_out(white(), model, mode=ScoreMode(tta=tta))
    with pytest.raises(BundleError) as caught:
        store_heatmap(lazy, tmp_path / "h.zarr")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


class Probabilities(nn.Module):
    def forward(self, tiles: Tensor) -> Tensor:
        share = tiles.mean(dim=(1, 2, 3)).sigmoid()
        return torch.stack([1 - share, share], dim=1)


def test_probabilities_for_logits_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    tiles = np.full((8, 3, 96, 96), 120, np.uint8)
    model = Model(SPEC, Probabilities(), sha256="0")
    for _ in range(2):
        model.probabilities(tiles)
    assert ["seems to give probabilities" in message for message in caplog.messages] == [True]
    caplog.clear()
    Model(SPEC, Outputs(2), sha256="0").probabilities(tiles)
    assert not caplog.messages


def test_outputs_that_are_the_classes_are_taken(tmp_path: Path) -> None:
    for tta in (False, True):
        model = Model(SPEC, Outputs(2), sha256="0")
        lazy = lay_out(white(), model, mode=ScoreMode(tta=tta))
        heat = store_heatmap(lazy, tmp_path / f"{tta}.zarr")
        assert (heat.probability() == 0.5).all()


@dataclass(frozen=True)
class HangingBackend:
    """Computes until it is told to hang, and then nothing until it is let go."""

    hangs: threading.Event
    leave: threading.Event
    hangs_in: str = "run"
    engine: Engine = OPENVINO
    device: str = "cpu"
    in_flight: int = 2
    memory: HostMemory = dataclasses.field(default_factory=HostMemory)

    def must_compile(self, shape: tuple[int, int, int, int], *, name: str) -> bool:
        return False

    def compile(
        self,
        make_graph: Callable[[], nn.Module],
        shape: tuple[int, int, int, int],
        *,
        name: str,
    ) -> Program:
        def run(pixels: Any) -> NDArray[np.float32]:
            if self.hangs.is_set() and self.hangs_in == "run":
                self.leave.wait(60)
            return np.zeros((len(pixels), 2), dtype=np.float32)

        if self.hangs.is_set() and self.hangs_in == "compile":
            self.leave.wait(60)
        return run


@pytest.fixture
def backend() -> Any:
    made = HangingBackend(threading.Event(), threading.Event())
    yield made
    made.leave.set()


def hanging(backend: HangingBackend) -> Model:
    return Model(SPEC, Outputs(2), sha256="0", backend=backend, stall_s=0.3)


def test_a_network_that_hangs_is_named_with_the_way_out(backend: HangingBackend) -> None:
    model, tiles = hanging(backend), np.zeros((4, 3, 96, 96), dtype=np.uint8)
    assert model.probabilities(tiles).shape == (4, 2)
    backend.hangs.set()
    with pytest.raises(StalledError, match="openvino fp32 on cpu has computed nothing") as caught:
        model.probabilities(tiles)
    assert "with --backend torch if that hangs too" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_making_it_ready_may_hang_as_well(backend: HangingBackend) -> None:
    backend.hangs.set()
    with pytest.raises(StalledError):
        hanging(dataclasses.replace(backend, hangs_in="compile")).compile(Tiles())


def test_a_run_whose_network_hangs_ends(backend: HangingBackend, tmp_path: Path) -> None:
    """All blocks: those that run it, and those that wait for their turn."""
    backend.hangs.set()
    slide = FakeSlide([np.zeros((900, 900, 3), np.uint8)], mpp=Mpp(value=0.972, source="test"))
    lazy = lay_out(slide, hanging(backend), block_cells=4)
    with pytest.raises(StalledError):
        store_heatmap(lazy, tmp_path / "h.zarr")


def test_a_cohort_ends_too_for_no_other_slide_would_fare_better(
    backend: HangingBackend, tmp_path: Path
) -> None:
    slides = [
        fiducial_slide(tmp_path / f"{name}.tif", width=400, height=300, mpp=0.972)
        for name in "abcdef"
    ]
    backend.hangs.set()
    options = ScoreOptions(
        tissue=TissueOptions(method="none", threshold=0), overlay=False, lesions=None
    )
    model = hanging(backend)
    with pytest.raises(StalledError):
        score_slides(slides, tmp_path / "out", model, options)
    backend.leave.set()
    results = score_slides(slides, tmp_path / "out", Model(SPEC, Outputs(2), sha256="0"), options)
    assert {result.state for result in results} <= {"done", "failed"}


def test_kinds_of_work_know_their_shapes() -> None:
    spec, areas = SPEC, Areas(stride_px=32)
    assert Tiles().shape(spec, "cpu") == Views().shape(spec, "cpu") == (32, 3, 96, 96)
    assert (Tiles().batch_items(spec, "cpu"), Views().batch_items(spec, "cpu")) == (32, 8)
    assert Tiles().batch_items(spec, "cuda:1") == 256
    assert (Tiles().graph, Views().graph, areas.graph) == ("tiles", "tiles", "areas-32")
    assert areas.across == 16
    assert areas.shape(spec, "cpu") == (2, 3, 96 + 15 * 32, 96 + 15 * 32)
    assert areas.logits_shape(spec) == (16, 16, 2)
    assert len({Tiles(), Views(), areas, Areas(stride_px=96), Tiles()}) == 4


def test_modes_say_what_the_network_is_given() -> None:
    assert ScoreMode().works(32) == (Tiles(),)
    assert ScoreMode(tta=True).works(32) == (Views(),)
    assert ScoreMode(mode="dense").works(96) == (Areas(stride_px=96),)
    assert ScoreMode(mode="cascade").works(64) == (Areas(stride_px=64), Tiles())
