"""The bundle: one ``.safetensors`` file with the weights and, in its metadata, the spec.

Loading parses numbers and JSON and executes no code. A hash over the weights and the spec is
stored beside them and checked at loading, so a damaged or altered file is refused instead of
scored with.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta
from safetensors import SafetensorError, safe_open

from histoslide.errors import BundleError, reason
from histoslide.model.spec import ModelSpec
from histoslide.storage.records import builtins_from_json, from_builtins
from histoslide.storage.writing import refuse_existing, whole_file

if TYPE_CHECKING:
    from torch import Tensor

_SPEC_KEY = "histoslide"
_HASH_KEY = "sha256"

_LONGEST_HEADER = 100_000_000
"""Bytes; safetensors itself reads no longer one."""

_MOST_DIMENSIONS = 64
"""Of a tensor; torch's have at most so many."""

_Count = Annotated[int, Meta(ge=0, le=2**62)]

_STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
"""Tensors of a batch norm that are counted from the data, not learned."""


@dataclass(frozen=True, kw_only=True)
class BundleSize:
    """How large a bundle is."""

    size_bytes: int
    """Of the file."""
    parameters: int
    """Numbers that were learned; statistics of batch norms are not counted."""
    number_types: tuple[str, ...]
    """How they are stored, in the words of safetensors: ``F16``, ``F32``."""


SHIPPED: Mapping[str, str] = {"default": "pcam-resnet50", "light": "pcam-efficientnet-lite0"}
"""Names by which the bundles that ship are asked for, and their files."""


def shipped_bundle(name: str) -> Path:
    """Path of a bundle that ships with histoslide.

    Args:
        name: one of ``SHIPPED``.
    """
    return Path(__file__).parents[1] / "weights" / f"{SHIPPED[name]}.safetensors"


def default_bundle() -> Path:
    """Path of the bundle that is used where none is named."""
    return shipped_bundle("default")


def bundle_sha256(spec_json: str, state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the spec and the names, types, shapes and bytes of all tensors, by name."""
    import torch  # noqa: PLC0415 - as in all of this module: specs are read without it

    digest = hashlib.sha256(spec_json.encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_bundle(
    path: Path | str,
    spec: ModelSpec,
    state: Mapping[str, Tensor],
    *,
    half: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a bundle atomically: the file is either the whole new one or what was there before.

    Args:
        path: file to write, conventionally ending in ``.safetensors``.
        spec: what the weights are.
        state: the network's state dict.
        half: store floating-point weights as float16, half the size.
        overwrite: replace an existing file.

    Raises:
        OutputExistsError: the file exists and ``overwrite`` is false.
        BundleError: the folder cannot be written.
    """
    path = Path(path)
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    refuse_existing(path, overwrite=overwrite)
    tensors = {}
    for name, tensor in state.items():
        value = tensor.detach().cpu()
        if half and value.is_floating_point():
            value = value.to(torch.float16)
        tensors[name] = value.contiguous().clone()
    text = spec.to_json()
    metadata = {_SPEC_KEY: text, _HASH_KEY: bundle_sha256(text, tensors)}
    try:
        with whole_file(path) as partial:
            save_file(tensors, partial, metadata=metadata)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{path} cannot be written: {reason}") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_bundle(path: Path) -> bool:
    """Whether a file is a bundle: a safetensors file with a spec, whatever that says.

    Raises:
        BundleError: it does not exist or cannot be read.
    """
    if path.suffix.lower() != ".safetensors":
        return False
    return _SPEC_KEY in _header(path).metadata


def read_spec(path: Path | str) -> ModelSpec:
    """Read a bundle's spec without its weights (no torch tensors are made).

    Raises:
        BundleError: missing, not a safetensors file, or without a valid histoslide spec.
    """
    path = Path(path)
    return _spec(path, _metadata(path))


def measure_bundle(path: Path) -> BundleSize:
    """How large a bundle is, from its header alone.

    Raises:
        BundleError: as ``read_spec``.
    """
    _metadata(path)
    tensors = _header(path).tensors
    learned = [t for name, t in tensors.items() if name.rpartition(".")[2] not in _STATISTICS]
    size_bytes, numbers = path.stat().st_size, sum(tensor.numbers for tensor in learned)
    if numbers > 2 * size_bytes:  # the smallest of its types has four bits
        raise BundleError(f"{path} is damaged: it cannot hold all the numbers that it names")
    return BundleSize(
        size_bytes=size_bytes,
        parameters=numbers,
        number_types=tuple(sorted({tensor.dtype for tensor in learned})),
    )


def load_bundle(path: Path | str) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read a bundle's spec and its weights as float32 on the CPU.

    Raises:
        BundleError: as ``read_spec``, or the weights differ from those it was written with.
    """
    path = Path(path)
    metadata = _metadata(path)
    spec = _spec(path, metadata)
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:  # also of types torch does not know
        raise BundleError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if bundle_sha256(metadata[_SPEC_KEY], state) != metadata.get(_HASH_KEY):
        raise BundleError(
            f"{path}: weights or spec differ from what was written (sha256 mismatch): "
            "the file is damaged or was altered, get it again"
        )
    return spec, {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _spec(path: Path, metadata: Mapping[str, str]) -> ModelSpec:
    return ModelSpec.from_json(metadata[_SPEC_KEY], source=f"{path}: its model spec")


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """What a safetensors file's header says of a tensor."""

    dtype: str
    """Of its numbers, in the words of safetensors."""
    shape: Annotated[tuple[_Count, ...], Meta(max_length=_MOST_DIMENSIONS)]
    """Numbers along each dimension."""
    data_offsets: tuple[_Count, _Count]
    """Its first byte and the one after its last, counted from the header's end."""

    @property
    def numbers(self) -> int:
        """How many it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class _Header:
    """What a safetensors file says of itself."""

    metadata: Mapping[str, str]
    """Ours: spec and hash."""
    tensors: Mapping[str, _Tensor]
    """By name."""


def _metadata(path: Path) -> Mapping[str, str]:
    metadata = _header(path).metadata
    if _SPEC_KEY not in metadata:
        raise BundleError(f"{path} carries no histoslide model spec: train or convert it first")
    return metadata


def _header(path: Path) -> _Header:
    try:
        return _parsed(_header_text(path))
    except _NoHeaderError as error:
        raise BundleError(f"{path} is not a safetensors file, as models are{error}") from None


class _NoHeaderError(BundleError):
    """The file is of another format."""


def _parsed(text: bytes) -> _Header:
    said, error = ": its header", _NoHeaderError
    content = builtins_from_json(text, source=said, error=error)
    fields = from_builtins(content, dict[str, Any], source=said, error=error)
    metadata = fields.pop("__metadata__", {})
    return _Header(
        metadata=from_builtins(metadata, dict[str, str], source=said, error=error),
        tensors=from_builtins(fields, dict[str, _Tensor], source=said, error=error),
    )


def _header_text(path: Path) -> bytes:
    # The header of a safetensors file is a little-endian length and that much JSON; reading it
    # ourselves keeps `read_spec` usable without mapping 50 MB of weights.
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LONGEST_HEADER:
                raise ValueError("header too long")
            return file.read(length)
    except FileNotFoundError:
        raise BundleError(f"{path} does not exist: pass --model FILE.safetensors") from None
    except IsADirectoryError:
        raise BundleError(f"{path} is a folder: pass a model's .safetensors file") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {reason(error)}") from error
    except (ValueError, struct.error):
        raise _NoHeaderError from None
