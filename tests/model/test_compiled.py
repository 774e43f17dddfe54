"""Compiled networks are kept: the next run builds nothing, and computes the same to the bit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from histoslide.errors import BundleError
from histoslide.model import (
    Model,
    compiled,
    load_bundle,
    load_model,
    make_model,
    openvino_backend,
    prediction,
    read_spec,
    save_bundle,
)
from histoslide.model.architectures import build_network
from histoslide.model.bundle import file_sha256
from histoslide.model.compiled import KEPT_SETS, CompiledGraphs
from histoslide.model.engine import Precision
from histoslide.model.fast_paths import FastPaths, read_fast_paths, write_fast_paths
from histoslide.model.openvino_extra import has_openvino
from histoslide.model.spec import ModelSpec
from histoslide.model.work import Areas

pytestmark = [
    pytest.mark.skipif(not has_openvino(), reason="the extra openvino is missing"),
    pytest.mark.usefixtures("tiny"),
]

CPU = "cpu"
TILES = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HISTOSLIDE_CACHE", str(tmp_path / "cache"))
    spec = ModelSpec(
        name="small",
        architecture="tiny",
        classes=("normal", "tumour"),
        tumour_class="tumour",
        input_px=64,
        network_px=64,
        label_px=32,
        mpp=0.972,
    )
    path = tmp_path / "small.safetensors"
    save_bundle(path, spec, build_network("tiny", 2).state_dict())
    record(path, 2.0)
    return path


def record(bundle: Path, highest: float) -> None:
    network = build_network("tiny", 2)
    names = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)]
    ranges = dict.fromkeys(names[1:], highest)
    paths = FastPaths(weights_sha256=file_sha256(bundle), data="test", ranges=ranges)
    write_fast_paths(bundle, paths)


def load(bundle: Path, precision: Precision) -> Model:
    return load_model(bundle, device=CPU, backend="openvino", precision=precision)


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "compiled").glob("*/*"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_second_run_builds_nothing_and_computes_the_same(
    bundle: Path, tmp_path: Path, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, state = load_bundle(bundle)
    anew = make_model(
        spec,
        state,
        sha256="0",
        device=CPU,
        fast_paths=read_fast_paths(bundle, sha256=file_sha256(bundle)),
        backend="openvino",
        precision=precision,
    )
    expected = anew.logits(TILES)
    assert kept(tmp_path) == []  # make_model cannot know whether the hash it was told is true

    first = load(bundle, precision).logits(TILES)
    (graph,) = kept(tmp_path)
    assert graph.name.startswith("tiles-")

    def never(_: Path) -> None:
        raise AssertionError("the network was built again")

    monkeypatch.setattr(prediction, "load_bundle", never)
    second = load(bundle, precision)
    torch.testing.assert_close(second.logits(TILES), first, atol=0, rtol=0)
    torch.testing.assert_close(first, expected, atol=0, rtol=0)
    with pytest.raises(AssertionError, match="built again"):
        second.compile(Areas(stride_px=32))  # another graph, which no run has made yet


def test_what_shapes_a_graph_is_what_it_is_kept_under(bundle: Path, tmp_path: Path) -> None:
    results = [load(bundle, precision).logits(TILES) for precision in ("fp32", "int8")]
    record(bundle, 1.0)
    results.append(load(bundle, "int8").logits(TILES))
    other = tmp_path / "other.safetensors"
    save_bundle(other, read_spec(bundle), build_network("tiny", 2).state_dict())
    results.append(load(other, "fp32").logits(TILES))
    assert len({path.parent for path in kept(tmp_path)}) == 4
    for i, one in enumerate(results):
        assert all(not np.array_equal(one, two) for two in results[:i])


@pytest.mark.parametrize("part", ["graph.blob", "sha256.json"])
def test_damaged_files_are_made_again(bundle: Path, tmp_path: Path, part: str) -> None:
    expected = load(bundle, "fp32").logits(TILES)
    damaged = kept(tmp_path)[0] / part
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    again = load(bundle, "fp32")
    torch.testing.assert_close(again.logits(TILES), expected, atol=0, rtol=0)
    assert damaged.read_bytes() != content
    damaged.unlink()
    torch.testing.assert_close(load(bundle, "fp32").logits(TILES), expected, atol=0, rtol=0)
    assert damaged.exists()


def test_what_openvino_cannot_import_is_made_again(bundle: Path, tmp_path: Path) -> None:
    """Whole, but written by another build of it, say."""
    expected = load(bundle, "fp32").logits(TILES)
    (graph,) = kept(tmp_path)
    foreign = graph / "graph.blob"
    foreign.write_bytes(b"not what it exports")
    (graph / "sha256.json").write_text(json.dumps({foreign.name: file_sha256(foreign)}))
    torch.testing.assert_close(load(bundle, "fp32").logits(TILES), expected, atol=0, rtol=0)
    assert foreign.stat().st_size > 1000


def test_what_cannot_be_exported_costs_only_time(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load(bundle, "fp32").logits(TILES)
    shutil.rmtree(tmp_path / "cache")

    def refuse(_: object) -> bytes:
        raise RuntimeError("this device exports nothing")

    monkeypatch.setattr(openvino_backend, "_exported", refuse)
    torch.testing.assert_close(load(bundle, "fp32").logits(TILES), expected, atol=0, rtol=0)
    assert kept(tmp_path) == []


def test_a_kept_graph_serves_any_number_of_threads(bundle: Path, tmp_path: Path) -> None:
    many = [load_model(bundle, device=CPU, backend="openvino", threads=n) for n in (4, 5, 9)]
    first, *others = (model.logits(TILES) for model in many)
    assert len(kept(tmp_path)) == 1
    for found in others:
        torch.testing.assert_close(found, first, atol=0, rtol=0)


def test_another_processor_has_graphs_of_its_own(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiled._processor()
    load(bundle, "fp32").logits(TILES)
    monkeypatch.setattr(compiled, "_processor", lambda: "another")
    load(bundle, "fp32").logits(TILES)
    assert len({path.parent for path in kept(tmp_path)}) == 2


def test_altered_weights_are_refused_though_compiled_ones_are_kept(
    bundle: Path, tmp_path: Path
) -> None:
    load(bundle, "fp32").logits(TILES)
    content = bytearray(bundle.read_bytes())
    content[-1] ^= 1
    bundle.write_bytes(content)
    (tmp_path / "small.fast-paths.json").unlink()
    with pytest.raises(BundleError, match="sha256 mismatch"):
        load(bundle, "fp32")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners of folders here")
@pytest.mark.parametrize("others", ["owner", "group", "world", "link"])
def test_a_folder_that_others_can_write_to_is_not_believed(
    bundle: Path,
    tmp_path: Path,
    others: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An edited graph with its edited checksum: what lies there computes with other weights."""
    expected = load(bundle, "fp32").logits(TILES)
    folder = tmp_path / "cache" / "compiled"
    assert folder.stat().st_mode & 0o777 == 0o700
    graph = kept(tmp_path)[0]
    weights = graph / "graph.blob"
    _, state = load_bundle(bundle)
    last = [tensor for tensor in state.values() if tensor.ndim == 2][-1].numpy()
    content = weights.read_bytes()
    assert content.count(last.tobytes()) == 1
    weights.write_bytes(content.replace(last.tobytes(), (last * 2).tobytes()))
    (graph / "sha256.json").write_text(json.dumps({weights.name: file_sha256(weights)}))
    # In the user's own folder it is believed: who can write there can do anything.
    assert not np.array_equal(load(bundle, "fp32").logits(TILES), expected)
    assert not caplog.records
    if others == "owner":
        monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    elif others == "link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.chmod(0o770 if others == "group" else 0o777)
    torch.testing.assert_close(load(bundle, "fp32").logits(TILES), expected, atol=0, rtol=0)
    assert "may be written to by others than you" in caplog.text


def test_a_folder_that_cannot_be_written_costs_only_time(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load(bundle, "fp32").logits(TILES)
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("HISTOSLIDE_CACHE", str(file / "cache"))
    torch.testing.assert_close(load(bundle, "fp32").logits(TILES), expected, atol=0, rtol=0)


def test_sets_that_were_used_longest_ago_are_forgotten(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "compiled"
    for age in range(KEPT_SETS + 2):
        (folder / str(age) / "tiles").mkdir(parents=True)
        os.utime(folder / str(age), (1e9 - age, 1e9 - age))
    assert not CompiledGraphs(folder=folder / "0").any_kept
    load(bundle, "fp32").logits(TILES)
    names = {path.name for path in folder.iterdir()}
    assert len(names) == KEPT_SETS
    assert {str(age) for age in range(KEPT_SETS - 1)} < names


def test_openvino_reports_nothing_to_anybody(tmp_path: Path) -> None:
    code = (
        "import sys, torch\n"
        "from histoslide.model.openvino_backend import OpenVinoBackend\n"
        "class Mean(torch.nn.Module):\n"
        "    def forward(self, pixels): return pixels.float().mean(dim=(2, 3))\n"
        "program = OpenVinoBackend().compile(Mean, (2, 3, 8, 8), name='mean')\n"
        "pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)\n"
        "program(pixels.numpy())\n"  # imported, traced, converted
        "told = type(sys.modules['openvino.tools.ovc'].telemetry).__module__\n"
        "print(told, *(n for n, m in sys.modules.items() if m and 'telemetry.backend' in n))\n"
    )
    environment = os.environ | {"HOME": str(tmp_path)}
    environment.pop("CI", None)  # where it is set, OpenVINO is silent by itself
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == ["openvino.tools.ovc.telemetry_stub"]
    assert not (tmp_path / "intel").exists()  # where it would keep an id of this user
