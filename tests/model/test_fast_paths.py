"""Faster ways of computing: what they compute, when they are chosen, and what they must pass."""

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from fakes import FakeSlide
from histoslide_cli.main import main
from models import colour_model
from PIL import Image
from torch import Tensor, nn

from histoslide.errors import BundleError, HistoslideError, SettingsDifferError
from histoslide.geometry import Mpp
from histoslide.model import Model, default_bundle, load_model, save_bundle
from histoslide.model.architectures import build_network
from histoslide.model.backend import Backend
from histoslide.model.bundle import file_sha256
from histoslide.model.choosing import make_backend, supported
from histoslide.model.engine import FULL_PRECISION, BackendName, Engine, Precision
from histoslide.model.fast_paths import (
    FastPaths,
    Gate,
    choose_engine,
    fast_paths_file,
    read_fast_paths,
    write_fast_paths,
)
from histoslide.model.graphs import TileGraph
from histoslide.model.int8 import activation_ranges, quantised
from histoslide.model.networks import fold_batch_norm
from histoslide.model.openvino_backend import OpenVinoBackend
from histoslide.model.openvino_extra import has_openvino
from histoslide.model.spec import ModelSpec
from histoslide.model.torch_backend import TorchBackend
from histoslide.model.work import Areas
from histoslide.scoring.lazy import LazyHeatmap, make_heatmap
from histoslide.store import store_heatmap

CPU = "cpu"
SPEC = ModelSpec(
    name="small",
    architecture="resnet18",
    classes=("normal", "tumour"),
    tumour_class="tumour",
    input_px=64,
    network_px=64,
    label_px=32,
    mpp=0.972,
)
needs_openvino = pytest.mark.skipif(not has_openvino(), reason="the extra openvino is missing")


def engine(backend: BackendName, precision: Precision) -> Engine:
    return Engine(backend=backend, precision=precision)


def gate(auc: float) -> Gate:
    return Gate(
        auc=auc,
        auc_fp32=0.95,
        largest_difference=0.01,
        mean_difference=0.001,
        patches=100,
        computed_by="test",
    )


def record(**gates: float) -> FastPaths:
    return FastPaths(
        weights_sha256="0",
        data="test",
        gates={precision: gate(auc) for precision, auc in gates.items()},  # type: ignore[misc]
        ranges={"0.4.0.conv1": 1.0, "0.4.0.conv2": (-1.0, 2.5)},
    )


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    torch.manual_seed(0)
    made = build_network("resnet18", 2)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.7)
    return fold_batch_norm(made.eval())


@pytest.fixture(scope="module")
def tiles() -> Tensor:
    """Smooth blobs, as far from noise as tissue is."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(40, 3, 8, 8, generator=generator)
    return (
        (torch.nn.functional.interpolate(coarse, size=64, mode="bicubic") * 255)
        .clamp(0, 255)
        .byte()
    )


@pytest.fixture(scope="module")
def ranges(network: nn.Sequential, tiles: Tensor) -> dict[str, float]:
    found = activation_ranges(network, [TileGraph(SPEC, network).prepare(tiles)])
    return cast("dict[str, float]", found)  # all behind a ReLU


def test_ranges_hold_what_convolutions_are_given(
    network: nn.Sequential, tiles: Tensor, ranges: dict[str, float]
) -> None:
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    assert set(names) - set(ranges) == {"0.0"}  # which is given the image
    seen: list[Tensor] = []
    hook = network.get_submodule("0.5.1.conv2").register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    with torch.inference_mode():
        network(TileGraph(SPEC, network).prepare(tiles))
    hook.remove()
    highest = float(seen[0].max())
    beyond = (seen[0] > ranges["0.5.1.conv2"]).float().mean()
    assert 0.3 * highest < ranges["0.5.1.conv2"] <= highest
    assert beyond <= 1e-5


def test_ranges_of_what_may_be_negative_have_two_ends_and_round_zero_to_itself() -> None:
    torch.manual_seed(1)
    padding = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Hardswish(), padding, nn.ReLU(), nn.Conv2d(8, 2, 1)
    ).eval()
    images = torch.randn(4, 3, 16, 16)
    ranges = activation_ranges(network, [images])
    with torch.no_grad():
        lowest = float(network[:2](images).min())
        exact, rounded = network(images), quantised(network, ranges)(images)
        nothing = quantised(network, ranges).get_submodule("2")(torch.zeros(1, 8, 4, 4))
    assert set(ranges) == {"2", "4"}
    bottom, top = ranges["2"]  # type: ignore[misc]
    assert lowest <= bottom < 0 < top
    assert isinstance(ranges["4"], float)
    assert 0 < float((rounded - exact).abs().mean()) < 0.05 * float(exact.std())
    assert not nothing.any()


def test_rounding_to_eight_bits_changes_little_but_something(
    network: nn.Sequential, tiles: Tensor, ranges: dict[str, float]
) -> None:
    images = TileGraph(SPEC, network).prepare(tiles)
    with torch.inference_mode():
        exact, rounded = network(images), quantised(network, ranges)(images)
        coarse = quantised(network, {name: top * 40 for name, top in ranges.items()})(images)
    spread = float(exact.std())
    assert 0 < float((rounded - exact).abs().mean()) < 0.1 * spread
    assert float((coarse - exact).abs().mean()) > 3 * float((rounded - exact).abs().mean())


@needs_openvino
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_openvino_computes_what_torch_does(
    network: nn.Sequential, tiles: Tensor, ranges: dict[str, float], precision: Precision
) -> None:
    twin = network if precision == "fp32" else quantised(network, ranges)
    reference = Model(SPEC, twin, device=CPU, sha256="0")
    backend = OpenVinoBackend(precision=precision)
    model = Model(SPEC, network, device=CPU, sha256="0", backend=backend, ranges=ranges)
    assert str(model.engine) == f"openvino {precision}"
    expected, found = reference.probabilities(tiles), model.probabilities(tiles)  # 40: 32 and 8
    tolerance = 1e-4 if precision == "fp32" else 0.02
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(model.probabilities(tiles[:5]), found[:5], atol=1e-6, rtol=0)
    assert expected[:, 1].std() > 2 * np.abs(found - expected).max()


@needs_openvino
def test_openvino_rounds_what_may_be_negative_as_torch_does(tiles: Tensor) -> None:
    torch.manual_seed(2)
    bottlenecks = [nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 8, 1)]  # end in no ReLU
    padded = [nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 1)]
    shifted = [nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU()]
    network = nn.Sequential(
        *bottlenecks, *padded, *shifted, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 2)
    ).eval()
    nn.init.normal_(network[-1].weight)  # type: ignore[arg-type]
    ranges = activation_ranges(network, [TileGraph(SPEC, network).prepare(tiles)])
    both_ends = {name for name, spanned in ranges.items() if isinstance(spanned, tuple)}
    assert both_ends == {"3", "6"}
    reference = Model(SPEC, quantised(network, ranges), device=CPU, sha256="0")
    backend = OpenVinoBackend(precision="int8")
    model = Model(SPEC, network, device=CPU, sha256="0", backend=backend, ranges=ranges)
    expected, found = reference.probabilities(tiles), model.probabilities(tiles)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    assert expected[:, 1].std() > 4 * np.abs(found - expected).max()


@needs_openvino
def test_openvino_resizes_as_torch_does(tiles: Tensor) -> None:
    spec = dataclasses.replace(SPEC, network_px=96)
    torch.manual_seed(0)
    network = fold_batch_norm(build_network("resnet18", 2).eval())
    reference = Model(spec, network, device=CPU, sha256="0")
    model = Model(spec, network, device=CPU, sha256="0", backend=OpenVinoBackend())
    torch.testing.assert_close(
        model.probabilities(tiles[:4]), reference.probabilities(tiles[:4]), atol=2e-3, rtol=0
    )


@needs_openvino
def test_openvino_scores_areas_as_torch_does(tiles: Tensor, network: nn.Sequential) -> None:
    reference = Model(SPEC, network, device=CPU, sha256="0")
    model = Model(SPEC, network, device=CPU, sha256="0", backend=OpenVinoBackend())
    work = Areas(stride_px=32)
    side = (work.across - 1) * 32 + 64
    area = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    results = []
    for one in (reference, model):
        batches = one.batches(work)
        with batches.reader():
            request = batches.put(one.memory.hold(area).__getitem__, 1)
            batches.wait([request])
        assert request.result is not None
        assert request.result.shape == (1, 16, 16, 2)
        results.append(request.result)
    np.testing.assert_allclose(results[1], results[0], atol=1e-4)


def test_bfloat16_in_torch_is_close_and_not_equal(network: nn.Sequential, tiles: Tensor) -> None:
    exact = Model(SPEC, network, device=CPU, sha256="0").probabilities(tiles[:4])
    torch.manual_seed(0)
    backend = TorchBackend(device=CPU, precision="bf16")
    model = Model(SPEC, quantised(network, {}), device=CPU, sha256="0", backend=backend)
    found = model.probabilities(tiles[:4])
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.05


@pytest.mark.parametrize(
    "backend",
    [
        TorchBackend(device=CPU),
        pytest.param(OpenVinoBackend(), marks=needs_openvino),
        pytest.param(OpenVinoBackend(precision="int8"), marks=needs_openvino),
    ],
)
def test_a_result_does_not_depend_on_place_or_company(
    network: nn.Sequential, tiles: Tensor, ranges: dict[str, float], backend: Backend
) -> None:
    """To the bit: a resumed run fills its batches with other tiles."""
    model = Model(SPEC, network, device=CPU, sha256="0", backend=backend, ranges=ranges)
    batch = tiles[:32]
    one = model.probabilities(batch)
    np.testing.assert_array_equal(model.probabilities(batch.flip(0))[::-1], one)
    other = torch.cat([batch[:16], tiles[24:40]])
    np.testing.assert_array_equal(model.probabilities(other)[:16], one[:16])


@needs_openvino
def test_threads_may_share_openvino(network: nn.Sequential, tiles: Tensor) -> None:
    """More of them than it has requests for, each with more than one batch."""
    model = Model(SPEC, network, sha256="0", backend=OpenVinoBackend(threads=2))
    expected = [model.logits(tiles.roll(shift, 0)) for shift in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda shift: model.logits(tiles.roll(shift, 0)), range(6)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("have", "paths", "asked", "expected"),
    [
        # Without a record nothing but float32 is used unasked.
        ({"int8", "bf16"}, None, {}, ("torch", "fp32")),
        ({"int8"}, record(int8=0.9485), {}, ("openvino", "int8")),
        ({"int8"}, record(int8=0.9475), {}, ("torch", "fp32")),  # changes the AUC too much
        ({"int8"}, record(int8=0.9525), {}, ("torch", "fp32")),  # better is other, too
        ({"int8", "bf16"}, record(int8=0.9, bf16=0.95), {}, ("openvino", "bf16")),
        (set(), record(int8=0.95), {}, ("torch", "fp32")),
        ({"int8"}, record(int8=0.95), {"backend": "torch"}, ("torch", "fp32")),
        ({"int8"}, record(int8=0.95), {"precision": "fp32"}, ("torch", "fp32")),
        ({"int8"}, record(int8=0.9), {"precision": "int8"}, ("openvino", "int8")),
        ({"int8"}, record(int8=0.9), {"backend": "openvino"}, ("openvino", "fp32")),
        ({"int8"}, None, {"precision": "bf16"}, ("torch", "bf16")),
    ],
)
def test_the_fastest_path_that_passed_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
    have: set[str],
    paths: FastPaths | None,
    asked: dict[str, Any],
    expected: tuple[BackendName, Precision],
) -> None:
    fast = [Engine(backend="openvino", precision=precision) for precision in ("int8", "bf16")]
    offered = [engine for engine in fast if engine.precision in have]
    module = "histoslide.model.fast_paths"
    monkeypatch.setattr(f"{module}.supported", lambda _: [*offered, FULL_PRECISION])
    monkeypatch.setattr(f"{module}.refuse_engine", lambda *_: None)
    assert choose_engine(CPU, paths, **asked) == engine(*expected)


def test_what_cannot_run_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HistoslideError, match="--precision int8 needs --backend openvino"):
        make_backend(engine("torch", "int8"), CPU)
    with pytest.raises(HistoslideError, match="on the CPU, not on cuda"):
        make_backend(engine("openvino", "fp32"), "cuda")
    with pytest.raises(HistoslideError, match="cannot compute in fp16"):
        make_backend(engine("openvino", "fp16"), CPU)
    monkeypatch.setattr("histoslide.model.openvino_extra.find_spec", lambda _: None)
    with pytest.raises(HistoslideError, match=r"pip install 'histoslide\[openvino\]'"):
        make_backend(engine("openvino", "int8"), CPU)
    assert supported(CPU) == [FULL_PRECISION]


@needs_openvino
def test_a_heatmap_is_not_gone_on_with_after_other_ranges_were_measured(
    tmp_path: Path, ranges: dict[str, float], network: nn.Sequential
) -> None:
    slide = FakeSlide([np.full((300, 300, 3), 120, np.uint8)], mpp=Mpp(value=0.972, source="test"))

    def lazy(top: float, precision: Precision = "int8") -> LazyHeatmap:
        model = Model(
            SPEC,
            network,
            device=CPU,
            sha256="same",
            backend=OpenVinoBackend(precision=precision),
            ranges={name: value * top for name, value in ranges.items()},
        )
        return make_heatmap(slide, model)

    assert lazy(1.0).fingerprint == lazy(1.0).fingerprint
    assert lazy(1.0, "fp32").fingerprint == lazy(2.0, "fp32").fingerprint
    out = tmp_path / "h.zarr"
    heat = store_heatmap(lazy(1.0), out)
    assert heat.record.model.ranges_sha256 == lazy(1.0).fingerprint["model.ranges_sha256"]
    with pytest.raises(SettingsDifferError, match=r"model\.ranges_sha256 differs"):
        store_heatmap(lazy(2.0), out)


def test_int8_needs_measured_ranges(small_bundle: Path) -> None:
    with pytest.raises(HistoslideError, match="histoslide model calibrate"):
        load_model(small_bundle, device=CPU, precision="int8")


def test_a_record_is_read_back_and_belongs_to_its_weights(tmp_path: Path) -> None:
    bundle = tmp_path / "m.safetensors"
    write_fast_paths(bundle, record(int8=0.95))
    assert read_fast_paths(bundle, sha256="0") == record(int8=0.95)
    with pytest.raises(BundleError, match=r"about other weights than m\.safetensors"):
        read_fast_paths(bundle, sha256="1")
    assert read_fast_paths(tmp_path / "other.safetensors", sha256="0") is None
    path = fast_paths_file(bundle)
    whole = json.loads(path.read_text())
    odd = [
        whole | {"gates": {"int8": 3}},
        whole | {"gates": {"fp8": whole["gates"]["int8"]}},
        whole | {"gates": {"int8": whole["gates"]["int8"] | {"auc": "high"}}},
        whole | {"ranges": {"conv1": "1"}},
        whole | {"colour": 1},
        whole | {"version": [1]},
        whole | {"data": "a" * 5 + "\0", "weights_sha256": None},
    ]
    damaged = ["{", "[]", '{"version": 1}', '{"version": 9}', "null", "\0", "[" * 100_000]
    for damage in [*damaged, *map(json.dumps, odd)]:
        path.write_text(damage)
        with pytest.raises(BundleError, match="run histoslide model calibrate again"):
            read_fast_paths(bundle, sha256="0")


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    """A folder per class: dark blobs are tumour."""
    rng = np.random.default_rng(0)
    for index in range(24):
        label = index % 2
        folder = tmp_path / "patches" / ("tumour" if label else "normal")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (64, 64, 3)) + (0 if label else 120)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "patches"


@needs_openvino
def test_calibrate_measures_a_bundle_and_score_uses_it(
    tmp_path: Path, network: nn.Sequential, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    bundle = tmp_path / "m.safetensors"
    save_bundle(bundle, SPEC, build_network("resnet18", 2).state_dict())
    command = ["model", "calibrate", str(patches), "--model", str(bundle), "--quiet"]
    assert main([*command, "--range-patches", "20"]) == 2  # 24 are too few
    assert "24 patches are too few" in capsys.readouterr().err
    assert main([*command, "--range-patches", "8", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["file"] == str(tmp_path / "m.fast-paths.json")
    found = read_fast_paths(bundle, sha256=file_sha256(bundle))
    assert found is not None
    assert set(found.gates) == {"int8", "bf16"}
    int8 = found.gates["int8"]
    assert int8.patches == 16
    assert 0 < int8.largest_difference < 0.2
    assert printed["gates"]["int8"]["auc"] == int8.auc
    assert load_model(bundle, device=CPU, precision="int8").engine == engine("openvino", "int8")
    expected = engine("openvino", "int8") if int8.passed else FULL_PRECISION
    assert load_model(bundle, device=CPU).engine in {expected, engine("openvino", "bf16")}
    assert main(command) == 2  # there is a record already
    assert "--overwrite" in capsys.readouterr().err


@needs_openvino
def test_the_shipped_weights_have_a_record_and_it_passed() -> None:
    bundle = default_bundle()
    found = read_fast_paths(bundle, sha256=file_sha256(bundle))
    assert found is not None
    assert found.gates["int8"].passed
    assert found.gates["int8"].patches > 2000
    assert load_model(device=CPU).engine == engine("openvino", "int8")


def test_int8_without_a_record_names_the_way_out(tmp_path: Path) -> None:
    """A model that is no file has no record either."""
    bundle = shutil.copy(default_bundle(), tmp_path / "alone.safetensors")
    model = load_model(Path(bundle), device=CPU)
    assert model.engine == FULL_PRECISION
    assert colour_model().engine == FULL_PRECISION
