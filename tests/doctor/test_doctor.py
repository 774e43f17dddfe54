"""The doctor: machines made of files, libraries that are missing, and rates on a clock of ours."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from histoslide_cli.main import main
from models import colour_model

from histoslide.doctor import (
    Diagnosis,
    Finding,
    examination,
    examine,
    machine,
    measurements,
    software,
)
from histoslide.doctor.findings import Check
from histoslide.doctor.limits import memory_limit, usable_cores
from histoslide.doctor.machine import (
    check_accelerators,
    check_folders,
    check_load,
    check_threads,
    read_processor,
)
from histoslide.doctor.measurements import Rates, measure_rates
from histoslide.doctor.software import check_bundle, check_extras, check_libraries
from histoslide.model import default_bundle


def healthy() -> Iterator[Finding]:
    yield Finding(name="first", state="ok", text="well")
    yield Finding(name="second", state="warning", text="slow", remedy="do this")


def ill() -> Iterator[Finding]:
    yield Finding(name="before", state="ok", text="well")
    raise ZeroDivisionError("one line\nand more")


def unimportable() -> Iterator[Finding]:
    yield from ()
    raise ModuleNotFoundError("No module named 'torch'")


def checks(monkeypatch: pytest.MonkeyPatch, *these: Check) -> None:
    monkeypatch.setattr(examination, "CHECKS", these)


def test_problems_come_first_and_a_broken_check_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    checks(monkeypatch, healthy, ill)
    diagnosis = examine(quick=True)
    assert [(f.name, f.state) for f in diagnosis.findings] == [
        ("ill", "problem"),
        ("second", "warning"),
        ("first", "ok"),
        ("before", "ok"),
    ]
    assert diagnosis.findings[0].text == "ZeroDivisionError: one line"
    assert not diagnosis.works


def test_what_follows_from_a_missing_library_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checks(monkeypatch, ill, unimportable)
    assert [f.name for f in examine(quick=True).findings] == ["ill", "before"]
    checks(monkeypatch, unimportable)
    (finding,) = examine(quick=True).findings
    assert (finding.state, finding.name) == ("problem", "unimportable")


def test_nothing_is_measured_where_nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def measure(device: str) -> Iterator[Finding]:
        measured.append(device)
        yield Finding(name="measured", state="ok", text="fast")

    monkeypatch.setattr(examination, "TESTS", (measure,))
    checks(monkeypatch, ill)
    assert not examine(device="cpu").works
    checks(monkeypatch, healthy)
    assert examine(device="cpu", quick=True).works
    assert measured == []
    assert [f.name for f in examine(device="cpu").findings] == ["second", "first", "measured"]
    assert measured == ["cpu"]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_processors_of_both_kinds(tmp_path: Path) -> None:
    x86 = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512_vnni\n\n"
    model, flags = read_processor(write(tmp_path / "x86", x86 * 2))
    assert (model, flags) == ("Some CPU @ 2 GHz", frozenset({"fpu", "avx2", "avx512_vnni"}))
    _, flags = read_processor(write(tmp_path / "arm", "processor : 0\nFeatures : fp asimd sve\n"))
    assert flags == {"fp", "asimd", "sve"}
    model, flags = read_processor(tmp_path / "none")
    assert model
    assert flags == frozenset()


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)


@pytest.mark.usefixtures("many_cores")
def test_control_groups_of_version_2(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", write(tmp_path / "own", "0::/pods/one\n")
    write(root / "pods" / "one" / "cpu.max", "max 100000\n")
    write(root / "pods" / "one" / "memory.max", "max\n")
    assert usable_cores(root, own) == 64
    assert memory_limit(root, own) is None
    write(root / "pods" / "cpu.max", "250000 100000\n")  # the parent's limit holds, too
    write(root / "pods" / "memory.max", "8000\n")
    assert usable_cores(root, own) == 2.5
    assert memory_limit(root, own) == 8000
    write(root / "pods" / "one" / "cpu.max", "50000 100000\n")
    write(root / "memory.max", "9000\n")
    assert usable_cores(root, own) == 0.5
    assert memory_limit(root, own) == 8000


@pytest.mark.usefixtures("many_cores")
def test_control_groups_of_version_1(tmp_path: Path) -> None:
    own = write(tmp_path / "own", "4:memory:/job\n3:cpu,cpuacct:/job\n2:devices:/other\n")
    root = tmp_path / "cgroup"
    write(root / "cpu" / "job" / "cpu.cfs_quota_us", "-1\n")
    write(root / "cpu" / "job" / "cpu.cfs_period_us", "100000\n")
    write(root / "memory" / "memory.limit_in_bytes", "9223372036854771712\n")
    assert usable_cores(root, own) == 64
    assert memory_limit(root, own) is None
    write(root / "cpu" / "job" / "cpu.cfs_quota_us", "300000\n")
    write(root / "memory" / "job" / "memory.limit_in_bytes", "5000\n")
    assert usable_cores(root, own) == 3
    assert memory_limit(root, own) == 5000
    write(root / "cpu" / "other" / "cpu.cfs_quota_us", "1\n")  # another controller's group
    write(root / "cpu" / "other" / "cpu.cfs_period_us", "100000\n")
    assert usable_cores(root, own) == 3


@pytest.mark.parametrize(("cores", "state"), [(64.0, "warning"), (0.5, "warning"), (2.0, "ok")])
def test_threads_that_do_not_fit(cores: float, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(machine, "network_threads", lambda: 2)
    (finding,) = check_threads()
    assert finding.state == state
    if state == "warning":
        assert finding.remedy == (
            f"set the environment variable OMP_NUM_THREADS={max(1, round(cores))}"
        )


@pytest.mark.parametrize(("load", "state"), [(0.5, "ok"), (4.0, "ok"), (4.5, "warning")])
def test_others_at_work(load: float, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 9.0, 9.0), raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    (finding,) = check_load()
    assert finding.state == state
    assert finding.text.startswith(f"{load} programs at work on 8 cores")


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    (finding,) = check_accelerators()
    assert finding.state == "warning"
    assert "torch does not see it" in finding.text
    assert torch.__version__ in str(finding.remedy)


def test_a_missing_library_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    there = software._version
    monkeypatch.setattr(software, "_version", lambda name: None if name == "zarr" else there(name))
    findings = list(check_libraries())
    (problem,) = (f for f in findings if f.state == "problem")
    assert (problem.name, problem.remedy) == ("zarr", "pip install zarr")
    assert findings[-1].facts["versions"]["zarr"] is None
    assert findings[-1].facts["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_extras_come_from_our_own_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    there = software._version
    monkeypatch.setattr(
        software, "_version", lambda name: None if name == "highdicom" else there(name)
    )
    by_name = {finding.facts["extra"]: finding for finding in check_extras()}
    assert {"dicom", "cluster", "tensorboard"} <= set(by_name)
    assert not {"dev", "docs"} & set(by_name)
    assert by_name["dicom"].remedy == 'pip install "histoslide[dicom]"'
    assert by_name["dicom"].facts["missing"] == ["highdicom"]
    assert by_name["tensorboard"].facts["missing"] == []


def test_a_damaged_model_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = check_bundle()
    assert finding.state == "ok"
    damaged = tmp_path / "damaged.safetensors"
    data = bytearray(default_bundle().read_bytes())
    data[-1000] ^= 1
    damaged.write_bytes(data)
    monkeypatch.setattr("histoslide.model.default_bundle", lambda: damaged)
    (finding,) = check_bundle()
    assert finding.state == "problem"
    assert "sha256 mismatch" in finding.text


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "file", "")
    monkeypatch.setenv("HISTOSLIDE_CACHE", str(file / "cache"))
    by_name = {finding.name: finding for finding in check_folders()}
    assert by_name["cache"].state == "warning"
    assert "cannot be written" in by_name["cache"].text
    assert "HISTOSLIDE_CACHE" in str(by_name["cache"].remedy)
    monkeypatch.setenv("HISTOSLIDE_CACHE", str(tmp_path / "new" / "cache"))
    by_name = {finding.name: finding for finding in check_folders()}
    assert by_name["cache"].text.endswith("GiB free")
    assert not (tmp_path / "new").exists()  # looking leaves nothing behind


class Clock:
    """Each look at it finds a second gone."""

    def __init__(self) -> None:
        self.now = -1.0

    def perf_counter(self) -> float:
        self.now += 1
        return self.now


def test_rates_are_work_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "time", Clock())
    model = colour_model()
    monkeypatch.setattr("histoslide.model.load_model", lambda device: model)
    found = list(measure_rates("cpu"))
    rates = found[0].facts
    side_l0 = (14 * 32 + 96) * 0.972 / 0.25
    assert rates["read_mp_s"] == pytest.approx(side_l0**2 / 1e6)
    assert rates["read_tiles_s"] == 15 * 15
    assert rates["store_cells_s"] == 187**2  # 2,176 px in cells of 3 × 0.972 / 0.25 px
    names = ("read_mp_s", "read_tiles_s", "network_tiles_s", "store_cells_s")
    whole = Rates(**{name: rates[name] for name in names}).seconds(20_000)
    assert found[1].facts["minutes"] == pytest.approx(whole / 60)
    assert "a slide with 20,000 tissue tiles takes about" in found[1].text


def test_steps_add_up() -> None:
    rates = Rates(read_mp_s=1, read_tiles_s=10, network_tiles_s=2.5, store_cells_s=2)
    assert rates.seconds(100) == pytest.approx(10 + 40 + 50)


@pytest.mark.parametrize(
    ("minutes", "text"), [(0.001, "1 s"), (0.5, "30 s"), (3.4, "3 min"), (150, "2.5 h")]
)
def test_times_for_people(minutes: float, text: str) -> None:
    assert measurements._minutes(minutes) == text


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    checks(monkeypatch, healthy)
    diagnosis = examine(device="nonsense")
    assert isinstance(diagnosis, Diagnosis)
    assert diagnosis.findings[0].name == "self-test"
    assert "there is no device 'nonsense'" in diagnosis.findings[0].text
    assert not diagnosis.works


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--quick", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["works"] is True
    names = [finding["name"] for finding in document["findings"]]
    assert {"libraries", "slide formats", "default model", "processor", "cores"} <= set(names)
    assert "self-test" not in names
    checks(monkeypatch, healthy)
    assert main(["doctor", "--quick"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["warning", "second", "slow"]
    assert out[1].split() == ["→", "do", "this"]
    assert out[-1] == "slides can be scored here, with 1 warning"
    checks(monkeypatch, ill)
    assert main(["doctor"]) == 4
    assert capsys.readouterr().out.splitlines()[0].startswith("PROBLEM ill ")


def test_it_speaks_where_torch_is_broken() -> None:
    code = "import sys; sys.modules['torch'] = None; from histoslide_cli.main import main\n"
    code += "sys.exit(main(['doctor']))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["PROBLEM", "torch"]
    assert "pip install --force-reinstall torch" in lines[1]
    assert any(line.split()[:1] == ["memory"] for line in lines)
