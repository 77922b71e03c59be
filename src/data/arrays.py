# SPDX-License-Identifier: Apache-2.0
"""A container of named arrays and a few plain attributes as bytes: what the store keeps under each key.

Layout, little endian, nothing executable inside:

    4 bytes  magic b"FWA2"
    4 bytes  CRC-32 of all that follows
    4 bytes  unsigned length H of the header
    H bytes  UTF-8 JSON: {"arrays": {name: [dtype, shape, offset]}, "attributes": {...}, "bytes": total}
    rest     one zstd frame holding the arrays' raw C-order bytes, each starting at a multiple of 8

Strings are NumPy's fixed-width 'U' arrays. Object arrays are refused.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

MAGIC = b"FWA2"
_PREFIX = struct.Struct("<4sI")
_LENGTH = struct.Struct("<I")
_ALIGNMENT = 8
_KINDS = "biufU"


def encode(arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any] | None = None) -> bytes:
    """Serialise named arrays and JSON attributes.

    Raises:
        ValueError: an array's dtype is not boolean, integer, float or fixed-width string.
    """
    header: dict[str, list[Any]] = {}
    chunks: list[bytes] = []
    offset = 0
    for name, array in arrays.items():
        if array.dtype.kind not in _KINDS:
            raise ValueError(
                f"array {name}: got dtype {array.dtype}, expected a number, boolean or string dtype"
            )
        raw = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tobytes()
        header[name] = [array.dtype.newbyteorder("<").str, list(array.shape), offset]
        padding = -len(raw) % _ALIGNMENT
        chunks += [raw, bytes(padding)]
        offset += len(raw) + padding
    text = json.dumps({"arrays": header, "attributes": dict(attributes or {}), "bytes": offset}).encode()
    payload = zstandard.ZstdCompressor(level=9).compress(b"".join(chunks))
    rest = _LENGTH.pack(len(text)) + text + payload
    return _PREFIX.pack(MAGIC, zlib.crc32(rest)) + rest


def decode(data: bytes | memoryview) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays (read-only views of one buffer) and attributes of an encoded container.

    Raises:
        ValueError: the bytes are not such a container, or not as they were written.
    """
    view = memoryview(data)
    if len(view) < _PREFIX.size + _LENGTH.size or bytes(view[:4]) != MAGIC:
        raise ValueError(
            f"got bytes starting {bytes(view[:4])!r}, expected {MAGIC!r}: the store is damaged; "
            "prepare it again"
        )
    rest = view[_PREFIX.size :]
    if zlib.crc32(rest) != _PREFIX.unpack_from(view)[1]:
        raise ValueError("a stored record is damaged: its checksum differs; prepare the store again")
    body = _LENGTH.size + _LENGTH.unpack_from(rest)[0]
    header = json.loads(bytes(rest[_LENGTH.size : body]))
    raw = zstandard.ZstdDecompressor().decompress(rest[body:], max_output_size=max(header["bytes"], 1))
    arrays = {}
    for name, (dtype, shape, offset) in header["arrays"].items():
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(raw, np.dtype(dtype), count, offset).reshape(shape)
    return arrays, header["attributes"]
