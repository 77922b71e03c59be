# SPDX-License-Identifier: Apache-2.0
"""Damaged versions of files: cut short, with flipped bits, overwritten, and pure noise."""

import random
from collections.abc import Iterator


def damaged(data: bytes, count: int, seed: int = 1, noise: int = 300) -> Iterator[bytes]:
    """`count` damaged versions of `data`, the four kinds of damage in turn; none equals `data`."""
    rng = random.Random(seed)
    for case in range(count):
        broken = bytearray(data)
        if case % 4 == 0:
            broken = broken[: rng.randrange(len(broken))]
        elif case % 4 == 1:
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        elif case % 4 == 2:
            start = rng.randrange(len(broken))
            broken[start : start + 40] = rng.randbytes(len(broken[start : start + 40]))
        else:
            broken = bytearray(rng.randbytes(rng.randrange(noise)))
        if bytes(broken) != data:
            yield bytes(broken)
