"""A command starts without what it does not need, and begins early what it will."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from models import colour_model

from histoslide.machine import processors
from histoslide.machine.background import begin
from histoslide.machine.processors import network_threads, usable_processors
from histoslide.model import devices, pick_device
from histoslide.model.openvino_extra import has_openvino
from histoslide.scoring.lazy import make_heatmap
from histoslide.slide import open_slide
from histoslide.store import open_heatmap, store_heatmap
from histoslide.synthetic import fiducial_slide

ROOT = Path(__file__).parents[2]

COMMANDS = """
import sys
sys.modules["torch"] = None
import histoslide.viewer.server
from histoslide_cli.main import main
slide, heat, folder = sys.argv[1:]
for command in (
    ["info", slide],
    ["tile", slide, "--out", folder + "/tiles"],
    ["overlay", heat, "--slide", slide, "--out", folder + "/overlay.png"],
    ["lesions", heat, "--out", folder + "/lesions"],
    ["diff", heat, heat],
    ["export", heat, "--to", "geojson", "--out", folder + "/heat.geojson"],
    ["report", heat, "--slide", slide, "--out", folder + "/heat.html"],
    ["model", "info"],
):
    assert main([*command, "--quiet"]) == 0, command
"""

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # whoever imports it now fails
from histoslide_cli.main import main
code = main(sys.argv[1:])
print(*sorted({"dask", "distributed", "fastai", "pandas", "xarray"} & set(sys.modules)))
sys.exit(code)
"""


def score(slide: Path, bundle: Path, out: Path, code: str, tmp_path: Path) -> str:
    environment = os.environ | {
        "HISTOSLIDE_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    options = ["--backend", "openvino", "--precision", "fp32", "--quiet"]
    where = ["--model", str(bundle), "--out", str(out)]
    run = subprocess.run(
        [sys.executable, "-c", code, "score", str(slide), *where, *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1]


@pytest.mark.skipif(not has_openvino(), reason="the extra openvino is missing")
def test_a_kept_network_is_run_without_torch(tmp_path: Path, small_bundle: Path) -> None:
    slide = fiducial_slide(tmp_path / "slide.tif", width=900, height=700, mpp=0.5)
    first, second = tmp_path / "first.zarr", tmp_path / "second.zarr"
    converting = "import sys; from histoslide_cli.main import main; sys.exit(main(sys.argv[1:]))"
    score(slide, small_bundle, first, converting, tmp_path)
    loaded = score(slide, small_bundle, second, WITHOUT_TORCH, tmp_path)
    expected, found = (open_heatmap(path).probability() for path in (first, second))
    assert found.tobytes() == expected.tobytes()
    assert (tmp_path / "second.png").stat().st_size > 10_000  # drawn, with Matplotlib
    assert loaded == ""  # Dask is for clusters, and would bring pandas and xarray where they are


def test_commands_without_a_network_need_no_torch(tmp_path: Path) -> None:
    slide = fiducial_slide(tmp_path / "slide.tif", width=900, height=700, mpp=0.5)
    with open_slide(slide) as opened:
        heat = store_heatmap(make_heatmap(opened, colour_model()), tmp_path / "heat.zarr")
    assert heat.complete
    subprocess.run(
        [sys.executable, "-c", COMMANDS, str(slide), str(tmp_path / "heat.zarr"), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )


def test_many_slides_are_begun_without_what_draws() -> None:
    begun = "import sys, histoslide.cohort.run; sys.exit('matplotlib' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", begun],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )


@pytest.mark.parametrize("driver", [True, False])
def test_torch_is_asked_for_a_gpu_only_where_there_is_a_driver(
    monkeypatch: pytest.MonkeyPatch, driver: bool
) -> None:
    def load(name: str) -> None:
        if not (driver and name == "libcuda.so.1"):
            raise OSError(f"{name}: no such library")

    monkeypatch.setattr(devices, "_DOORS", (Path("/nowhere"),))
    monkeypatch.setattr("ctypes.CDLL", load)
    monkeypatch.setattr(sys, "platform", "linux")
    assert devices.may_have_accelerator() is driver
    monkeypatch.setitem(sys.modules, "torch", None)
    if driver:
        with pytest.raises(ImportError):
            pick_device()
    else:
        assert pick_device() == "cpu"
    assert pick_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("given", "threads"), [("3", 3), ("5,2", 5), ("0", None), ("many", None), ("", None)]
)
def test_threads_are_those_that_the_user_set(
    monkeypatch: pytest.MonkeyPatch, given: str, threads: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    if threads is None:
        assert 1 <= network_threads() <= usable_processors()
    else:
        assert network_threads() == threads


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux says it")
def test_halves_of_a_core_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5, 6})
    assert processors._usable_cores(tmp_path) == 0  # as in some containers
    for processor, siblings in {0: "0,4", 1: "1,5", 5: "1,5", 6: "2,6"}.items():
        topology = tmp_path / f"cpu{processor}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{siblings}\n")
    assert processors._usable_cores(tmp_path) == 3


def test_what_goes_wrong_ahead_of_time_is_left_to_who_needs_it() -> None:
    done = threading.Event()

    def work() -> None:
        done.set()
        raise OSError("not yet there")

    begin(work).join(20)  # an error in a thread would fail this test
    assert done.is_set()
