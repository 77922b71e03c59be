# SPDX-License-Identifier: Apache-2.0
import json
import struct
import zlib

import numpy as np
import pytest
import zstandard

from foldwright.data.arrays import decode, encode

ARRAYS = {
    "ints": np.arange(6, dtype=np.int32).reshape(2, 3),
    "flags": np.array([True, False, True]),
    "names": np.array(["CA", "OP1", "Å"]),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(2.5),
}


def test_round_trip_keeps_values_dtypes_and_shapes():
    arrays, attributes = decode(encode(ARRAYS, {"method": "X-RAY", "resolution": 1.5}))
    assert attributes == {"method": "X-RAY", "resolution": 1.5}
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)


def test_layout_is_the_documented_one():
    """Read by hand, with nothing of the module."""
    data = encode({"a": np.array([1, 2], np.int32), "b": np.array([3.5])})
    magic, checksum, length = struct.unpack("<4sII", data[:12])
    header = json.loads(data[12 : 12 + length])
    raw = zstandard.decompress(data[12 + length :])
    assert (magic, checksum) == (b"FWA2", zlib.crc32(data[8:]))
    assert header["arrays"] == {"a": ["<i4", [2], 0], "b": ["<f8", [1], 8]}
    assert struct.unpack("<iid", raw) == (1, 2, 3.5)


def test_big_endian_and_strided_arrays_are_stored_in_order():
    array = np.arange(12, dtype=">i4").reshape(3, 4)[:, ::2]
    np.testing.assert_array_equal(decode(encode({"a": array}))[0]["a"], array)


def test_objects_are_refused():
    with pytest.raises(ValueError, match="dtype object"):
        encode({"a": np.array([{}, None])})


@pytest.mark.parametrize("damage", [lambda d: b"junk" + d[4:], lambda d: d[:-5], lambda d: b""])
def test_damaged_bytes_are_refused(damage):
    data = encode({"a": np.arange(100)})
    with pytest.raises(ValueError, match="prepare"):
        decode(damage(data))


def test_no_flipped_bit_passes():
    data = encode(ARRAYS, {"method": "X-RAY"})
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="prepare"):
            decode(bytes(flipped))
