"""A bundle comes back as it was written, and a damaged or foreign file is refused."""

import hashlib
import json
import os
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from histoslide_cli.main import main
from safetensors.torch import save_file
from torch import Tensor

from histoslide.errors import BundleError, OutputExistsError
from histoslide.model import load_bundle, load_model, measure_bundle, read_spec, save_bundle
from histoslide.model.bundle import bundle_sha256
from histoslide.model.spec import ModelSpec

SPEC = ModelSpec(
    name="tiny",
    architecture="resnet18",
    classes=("normal", "tumour"),
    tumour_class="tumour",
    temperature=1.25,
    training={"seed": 3, "epochs": [{"auc": 0.5}]},
    input_px=96,
    label_px=32,
    mpp=0.972,
)


def some_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "body.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "body.view": torch.randn(6, 5, generator=generator).T,  # not contiguous
        "head.scalar": torch.tensor(0.1),
        "head.empty": torch.zeros(0, 3),
        "head.num_batches_tracked": torch.tensor(1_234_567_891_234),
    }


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_bundle(path, SPEC, some_weights())
    return path


def tensor_area(path: Path) -> int:
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    return 8 + int(length)


def test_round_trip_is_exact(bundle: Path) -> None:
    spec, state = load_bundle(bundle)
    assert spec == SPEC
    assert read_spec(bundle) == SPEC
    assert state.keys() == some_weights().keys()
    for name, tensor in some_weights().items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor), name


def test_half_is_exact_to_the_rounding_of_float16_and_half_the_size(tmp_path: Path) -> None:
    values = torch.randn(200, 100, generator=torch.Generator().manual_seed(1))
    count = torch.tensor(70_000)  # more than float16 can hold
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_bundle(full, SPEC, {"w": values, "n": count})
    save_bundle(half, SPEC, {"w": values, "n": count}, half=True)
    _, state = load_bundle(half)
    assert state["w"].dtype == torch.float32
    assert torch.equal(state["w"], values.half().float())
    assert not torch.equal(state["w"], values)
    assert torch.allclose(state["w"], values, rtol=2**-11, atol=2**-25)
    assert state["n"].item() == 70_000
    assert half.stat().st_size < 0.55 * full.stat().st_size


def test_tensors_that_share_memory_are_kept(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    save_bundle(tmp_path / "m.safetensors", SPEC, {"a": shared, "b": shared.view(2, 3)})
    _, state = load_bundle(tmp_path / "m.safetensors")
    assert torch.equal(state["a"], shared)
    assert torch.equal(state["b"], shared.view(2, 3))


def test_missing_folders_are_made_and_nothing_is_left_beside_the_bundle(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "m.safetensors"
    save_bundle(path, SPEC, some_weights())
    assert [p.name for p in path.parent.iterdir()] == ["m.safetensors"]


def test_the_spec_is_read_without_the_weights(bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[: tensor_area(bundle)])
    assert read_spec(bundle) == SPEC
    with pytest.raises(BundleError):
        load_bundle(bundle)


def test_hash_depends_on_spec_names_shapes_types_and_values() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
    variants: list[dict[str, Tensor]] = [
        base,
        {"a": torch.zeros(3, 2), "b": torch.ones(4)},
        {"a": torch.zeros(2, 3), "c": torch.ones(4)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.ones(4)},
        {"a": torch.zeros(2, 3), "b": torch.tensor([1.0, 1, 1, 2])},
        {"a": torch.zeros(2, 3)},
    ]
    assert len({bundle_sha256("{}", v) for v in variants}) == len(variants)
    assert bundle_sha256("{ }", base) != bundle_sha256("{}", base)
    assert bundle_sha256("", dict(reversed(base.items()))) == bundle_sha256("", base)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.safetensors"
    for reader in (read_spec, load_bundle, load_model):
        with pytest.raises(BundleError, match=r"nowhere\.safetensors does not exist: pass --model"):
            reader(path)


@pytest.mark.parametrize(
    "content",
    [
        b"this is a text file, not a model at all, however long it may be",
        b"",
        b"\x10\0\0",
        struct.pack("<Q", 50) + b'{"a": {"dty',
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
    ],
    ids=["text", "empty", "short", "cut header", "huge header", "list", "not utf-8"],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    for reader in (read_spec, load_bundle, load_model):
        with pytest.raises(BundleError, match=r"foreign\.safetensors is not a safetensors file"):
            reader(path)


HEADERS: list[Any] = [
    {"x": {"dtype": "F16", "shape": ["2"], "data_offsets": [0, 0]}},
    {"x": {"dtype": "F16", "shape": [-2], "data_offsets": [0, 0]}},
    {"x": {"dtype": "F16", "shape": [2**70], "data_offsets": [0, 0]}},
    {"x": {"dtype": "F16", "shape": [1] * 65, "data_offsets": [0, 0]}},
    {"x": {"dtype": "F16", "shape": [2], "data_offsets": [0]}},
    {"x": {"dtype": 16, "shape": [2], "data_offsets": [0, 4]}},
    {"x": {"shape": [2], "data_offsets": [0, 4]}},
    {"x": {"dtype": "F16", "shape": {"a": 1}, "data_offsets": [0, 4]}},
    {"x": 3},
    {"x": None},
    {"__metadata__": 3},
    {"__metadata__": ["histoslide"]},
    {"__metadata__": {"histoslide": {}}},
    {"x": json.loads("[" * 200 + "]" * 200)},
]


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: json.dumps(header)[:60])
def test_a_header_of_odd_values_is_one_line(
    tmp_path: Path, header: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.safetensors"
    text = json.dumps({"__metadata__": {"histoslide": SPEC.to_json()}} | header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    for reader in (read_spec, load_bundle, load_model, measure_bundle):
        with pytest.raises(BundleError, match=r"odd\.safetensors is not a safetensors file"):
            reader(path)
    assert main(["model", "info", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "its header" in said


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "claims.safetensors"
    tensor = {"dtype": "F16", "shape": [2**62] * 64, "data_offsets": [0, 4]}
    text = json.dumps({"__metadata__": {"histoslide": SPEC.to_json()}, "x": tensor}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    for reader in (measure_bundle, load_bundle):
        with pytest.raises(BundleError, match=r"claims\.safetensors"):
            reader(path)


def test_mutants_of_a_bundle_are_read_or_refused_in_one_line(bundle: Path) -> None:
    """Bytes of the header changed, cut, doubled and exchanged, with a fixed seed."""
    whole, draw = bundle.read_bytes(), random.Random(0)
    end = tensor_area(bundle)
    odd = [b"[" * 300, b"null", b"-1", b"1e999", b"NaN", b"\0", b'"', b"{}", b"\xff", b"9" * 5000]
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(8, end)
            content[at : at + draw.randint(0, 12)] = draw.choice(odd)
        if draw.random() < 0.8:  # else the length of the header is no longer true
            content[:8] = struct.pack("<Q", end - 8 + len(content) - len(whole))
        bundle.write_bytes(content)
        for reader in (read_spec, load_bundle, measure_bundle):
            try:
                reader(bundle)
            except BundleError as error:
                assert "\n" not in str(error)  # noqa: PT017 - it may also be read


def test_a_folder_is_refused(tmp_path: Path) -> None:
    for reader in (read_spec, load_bundle, load_model):
        with pytest.raises(BundleError, match="is a folder: pass a model"):
            reader(tmp_path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_safetensors_file_of_someone_else_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"w": torch.zeros(3)}, path, metadata=metadata)
    for reader in (read_spec, load_bundle, load_model):
        with pytest.raises(BundleError, match=r"other\.safetensors carries no histoslide model"):
            reader(path)


def test_a_bundle_without_its_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(3)}, path, metadata={"histoslide": SPEC.to_json()})
    with pytest.raises(BundleError, match="sha256"):
        load_bundle(path)


@pytest.mark.parametrize("where", [0, 17, -1])
def test_one_flipped_bit_in_the_weights_is_found(bundle: Path, where: int) -> None:
    content = bytearray(bundle.read_bytes())
    start = tensor_area(bundle)
    position = start + where if where >= 0 else len(content) - 1
    content[position] ^= 1
    bundle.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.safetensors.*sha256"):
        load_bundle(bundle)


def test_a_changed_shape_is_found(bundle: Path) -> None:
    content = bundle.read_bytes()
    assert content.count(b"[4,3,3,3]") == 1
    bundle.write_bytes(content.replace(b"[4,3,3,3]", b"[3,4,3,3]"))
    with pytest.raises(BundleError, match="sha256"):
        load_bundle(bundle)


@pytest.mark.parametrize("lost", [1, 50, 400])
def test_a_truncated_file_is_refused(bundle: Path, lost: int) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-lost])
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        load_bundle(bundle)


def test_an_existing_file_is_kept_unless_told_otherwise(bundle: Path) -> None:
    old = bundle.read_bytes()
    other = {"w": torch.ones(2)}
    with pytest.raises(OutputExistsError, match=r"model\.safetensors exists.*--overwrite"):
        save_bundle(bundle, SPEC, other)
    assert bundle.read_bytes() == old
    save_bundle(bundle, SPEC, other, overwrite=True)
    assert load_bundle(bundle)[1].keys() == {"w"}
    assert [p.name for p in bundle.parent.iterdir()] == [bundle.name]


def test_a_failed_write_leaves_the_old_bundle_whole(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = bundle.read_bytes()

    def full_disk(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half a bun")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(BundleError, match=r"model\.safetensors cannot be written.*No space left"):
        save_bundle(bundle, SPEC, some_weights(), overwrite=True)
    assert bundle.read_bytes() == old
    assert [p.name for p in bundle.parent.iterdir()] == [bundle.name]


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BundleError, match=r"m\.safetensors cannot be written"):
        save_bundle(tmp_path / "file" / "m.safetensors", SPEC, some_weights())


def test_a_folder_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(BundleError, match=r"m\.safetensors cannot be written"):
        save_bundle(path, SPEC, some_weights(), overwrite=True)
    assert (path / "inside").is_dir()
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(BundleError, match="cannot be written"):
            save_bundle(tmp_path / "m.safetensors", SPEC, some_weights())
    finally:
        tmp_path.chmod(0o700)


class Bomb:
    """Touches a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["pickle", "torch", "tensor area"])
def test_no_pickle_is_ever_executed(tmp_path: Path, form: str) -> None:
    fuse, path = tmp_path / "exploded", tmp_path / "m.safetensors"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(fuse)))
    elif form == "torch":
        torch.save({"state": Bomb(fuse)}, path)
    else:
        payload = pickle.dumps(Bomb(fuse))
        weights = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        save_bundle(path, SPEC, {"w": weights})
    for reader in (read_spec, load_bundle, load_model):
        try:
            reader(path)
        except BundleError:
            continue
        assert form == "tensor area"
    assert not fuse.exists()
    pickle.loads(pickle.dumps(Bomb(fuse)))  # the bomb does work
    assert fuse.exists()


def test_the_file_is_plain_safetensors(bundle: Path) -> None:
    content = bundle.read_bytes()
    header = json.loads(content[8 : tensor_area(bundle)])
    metadata = header.pop("__metadata__")
    assert json.loads(metadata["histoslide"])["name"] == "tiny"
    assert metadata["sha256"] == bundle_sha256(metadata["histoslide"], some_weights())
    assert header.keys() == some_weights().keys()
    begin, end = header["body.weight"]["data_offsets"]
    raw = content[tensor_area(bundle) :][begin:end]
    weights = some_weights()["body.weight"].numpy()
    assert hashlib.sha256(raw).digest() == hashlib.sha256(weights.tobytes()).digest()


def test_an_edited_spec_is_refused(bundle: Path) -> None:
    """A changed number in the spec, of the same length, is as wrong as a changed weight."""
    content = bundle.read_bytes()
    edited = content.replace(b'\\"mpp\\": 0.972', b'\\"mpp\\": 0.243')
    assert edited != content
    bundle.write_bytes(edited)
    with pytest.raises(BundleError, match="weights or spec differ"):
        load_bundle(bundle)
