# SPDX-License-Identifier: Apache-2.0
"""Counter-based randomness: every draw is a pure function of (seed, n, purpose).

`n` is the global sample number (global step x global batch + position). On the host, `generator` gives a
NumPy generator; on the device, `key`, `uniform` and `normal` are plain tensor operations on a seed tensor, so
they need no generator state, survive recomputation under checkpointing, and give the same values on every
device, world size and after every resume.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def generator(seed: int, n: int, purpose: str) -> np.random.Generator:
    """The host generator of sample (or step) `n` for one purpose, independent of all others."""
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence([seed, n, zlib.crc32(purpose.encode())]))
    )


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 (wrapping products, logical shifts)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def key(seed: Tensor, salt: int | str) -> Tensor:
    """Derive an independent int64 seed tensor, of the same shape, for one purpose or module."""
    number = zlib.crc32(salt.encode()) if isinstance(salt, str) else salt
    offset = (number + 1) * _GOLDEN & 0xFFFFFFFFFFFFFFFF
    return _mix(seed + (offset - 2**64 if offset >= 2**63 else offset))


def keys(seed: Tensor, count: int) -> Tensor:
    """key(seed, n) of n = 0 .. count - 1: [count, *seed.shape]."""
    numbers = torch.arange(1, count + 1, device=seed.device, dtype=torch.int64)
    return _mix(seed + (numbers * _GOLDEN).view(-1, *([1] * seed.dim())))


def random_bits(seed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """int64 [*seed.shape, *shape] of 64 random bits each; one counter per element of `shape`."""
    counter = torch.arange(math.prod(shape), device=seed.device, dtype=torch.int64).view(shape)
    return _mix(_mix(seed.view(*seed.shape, *([1] * len(shape))) + counter * _GOLDEN))


def uniform(seed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """float32 [*seed.shape, *shape], uniform in (0, 1]: 24 random bits, never 0."""
    bits = (random_bits(seed, shape) >> 40) & 0xFFFFFF
    return (bits.to(torch.float32) + 0.5) * 2.0**-24


def normal(seed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """float32 [*seed.shape, *shape], standard normal (Box-Muller on two independent uniforms)."""
    radius = torch.sqrt(-2.0 * torch.log(uniform(key(seed, "normal radius"), shape)))
    return radius * torch.cos(2.0 * math.pi * uniform(key(seed, "normal angle"), shape))
