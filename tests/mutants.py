"""Damaged files: mutants of good ones, the same for the same seed on every machine."""

import hashlib
import json
import random
import struct
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

Damage = Callable[[bytes, random.Random], bytes]
"""Makes a damaged file of a good one."""

_DEEP, _DIGITS, _SURROGATE = "@deep@", "@digits@", "@surrogate@"
"""Stand in a JSON document for what ``json.dumps`` cannot write."""

_RAW = {_DEEP: "[" * 50_000 + "]" * 50_000, _DIGITS: "9" * 5000, _SURROGATE: '"\\ud800"'}

_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, -0.0, 2**31, 2**63, -(2**64), 10**400, 1e308, 1e-320,
    float("nan"), float("inf"), float("-inf"), "", "0", "\0", "a\nb", "\x1b[31m", "../..", "=1+1",
    "x" * 5000, [], {}, [[]], [None], [1, 2, 3, 4, 5], {"": None}, {"a": {"b": 1}},
    _DEEP, _DIGITS, _SURROGATE,
)  # fmt: skip
"""What may stand in a document where something else is expected."""

_SPECIAL = (
    b"\0", b"\n", b"\r", b'"', b"'", b",", b";", b"=", b"-", b"\\", b"\xff", b"\xef\xbb\xbf",
    b"[", b"{", b"]", b"}", b"nan", b"-1", b"1e999", b"9" * 5000, b"\xf0\x9f\x94\xac", b"\x1b[2J",
    b"[" * 3000, b"x" * 200_000,
)  # fmt: skip
"""What may stand in a text where nothing of the kind is expected."""

_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 0x10000)
"""What may stand in a field of a binary file."""


def damaged_bytes(raw: bytes, chance: random.Random) -> bytes:
    """One to four changes that know nothing of the format."""
    data = bytearray(raw)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        chance.choice(_BYTES)(data, chance)
    return bytes(data)


def _flip(data: bytearray, chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _overwrite(data: bytearray, chance: random.Random) -> None:
    start, stop = _span(data, chance)
    data[start:stop] = chance.randbytes(stop - start)


def _zero(data: bytearray, chance: random.Random) -> None:
    start, stop = _span(data, chance)
    data[start:stop] = bytes(stop - start)


def _duplicate(data: bytearray, chance: random.Random) -> None:
    start, stop = _span(data, chance)
    data[stop:stop] = data[start:stop]


def _take_out(data: bytearray, chance: random.Random) -> None:
    start, stop = _span(data, chance)
    del data[start:stop]


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _number(data: bytearray, chance: random.Random) -> None:
    """A field of a header, which lies in the beginning or the end of most formats."""
    size = chance.choice((1, 2, 4, 8))
    reach = min(len(data), chance.choice((64, 512, 1 << 40)))
    at = chance.randrange(reach + 1)
    at = at if chance.random() < 0.7 else max(0, len(data) - at)
    value = chance.choice(_NUMBERS) & ((1 << 8 * size) - 1)
    data[at : at + size] = value.to_bytes(size, chance.choice(("little", "big")))


def _insert(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    data[at:at] = chance.choice(_SPECIAL)


_BYTES = (_flip, _flip, _overwrite, _zero, _duplicate, _take_out, _cut, _number, _number, _insert)


def _span(data: bytearray, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.choice((1, 4, 16, 64, 512)))


def damaged_text(raw: bytes, chance: random.Random) -> bytes:
    """Words that are taken out, doubled or exchanged for odd ones; else changes of bytes."""
    if chance.random() < 0.4:
        return damaged_bytes(raw, chance)
    marks = b"\n,=[]\"' "
    words, start = [], 0
    for at, byte in enumerate(raw):
        if byte in marks:
            words += [raw[start:at], raw[at : at + 1]]
            start = at + 1
    words.append(raw[start:])
    for _ in range(chance.choice((1, 1, 2))):
        at = chance.randrange(len(words))
        words[at] = chance.choice((b"", words[at] * 2, chance.choice(words), *_SPECIAL))
    return b"".join(words)


def damaged_json(raw: bytes, chance: random.Random) -> bytes:
    """A document that still is JSON but holds something odd somewhere; else changes of text."""
    if chance.random() < 0.3:
        return damaged_text(raw, chance)
    return _text(_changed(json.loads(raw), chance))


def _changed(document: Any, chance: random.Random) -> Any:
    """A document with one to three of its parts changed."""
    whole = [document]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if places := _places(whole):
            _change(*chance.choice(places), chance)
    return whole[0] if whole else None


def _places(node: Any) -> list[tuple[Any, Any]]:
    """All parts of a document, as (what holds it, its key or index there)."""
    found = []
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    for key, part in pairs:
        found.append((node, key))
        if isinstance(part, dict | list):
            found += _places(part)
    return found


def _change(holder: Any, key: Any, chance: random.Random) -> None:
    what = chance.random()
    if what < 0.6:
        holder[key] = chance.choice(_ODD)
    elif what < 0.7:
        del holder[key]
    elif what < 0.8:
        holder[key] = [holder[key]] if chance.random() < 0.5 else {"a": holder[key]}
    elif isinstance(holder[key], int | float):
        holder[key] = -holder[key] if chance.random() < 0.5 else holder[key] * 10**9
    elif isinstance(holder, dict):
        holder[chance.choice(("\0", "", "a\nb", "__class__", key + "x"))] = holder.pop(key)
    else:
        holder.append(holder[key])


def _text(document: Any) -> bytes:
    text = json.dumps(document)
    for name, raw in _RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode()


def damaged_safetensors(raw: bytes, chance: random.Random) -> bytes:
    """Changes in the header, or in the model's spec in it, with length and hash that fit them."""
    if chance.random() < 0.3:
        return damaged_bytes(raw, chance)
    (length,) = struct.unpack("<Q", raw[:8])
    header, numbers = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    if chance.random() < 0.5:
        text = _text(_changed(header, chance))
    else:
        spec = damaged_json(header["__metadata__"]["histoslide"].encode(), chance)
        metadata = {"histoslide": spec.decode("utf-8", "replace")}
        metadata["sha256"] = hashlib.sha256(spec).hexdigest()
        text = json.dumps(header | {"__metadata__": metadata}).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def damage_of(file: PurePath) -> Damage:
    """How a file of some kind is damaged."""
    if file.suffix in (".json", ".geojson"):
        return damaged_json
    if file.suffix == ".safetensors":
        return damaged_safetensors
    return damaged_text if file.suffix in (".toml", ".csv") else damaged_bytes
