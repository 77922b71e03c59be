# SPDX-License-Identifier: Apache-2.0
"""Two projections of the same rows as one product: what the gated kernels share.

The weights' rows are taken in an order in which a thread that holds an element of one projection holds the
same element of the other, and its neighbour (NVIDIA's fragments: two columns a thread, again every eight).
So the halves come apart, go together again, and enter further products without a word between threads. Any
order gives the same result.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def order(start, N: tl.constexpr):
    """Of 2 N rows: which projection each belongs to (0 or 1), and which of its outputs it is."""
    n = tl.arange(0, 2 * N)
    return n % 2, start + n // 16 * 8 + n // 2 % 4 * 2 + n // 8 % 2


@triton.jit
def apart(both, ROWS: tl.constexpr, N: tl.constexpr):
    """[ROWS, 2 N] in that order -> the two projections [ROWS, N]."""
    return both.reshape(ROWS, N // 8, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(ROWS, N, 2).split()


@triton.jit
def together(first, second, ROWS: tl.constexpr, N: tl.constexpr):
    """Two tiles [ROWS, N] -> [ROWS, 2 N] in that order."""
    both = tl.join(first, second).reshape(ROWS, N // 8, 4, 2, 2)
    return both.permute(0, 1, 3, 2, 4).reshape(ROWS, 2 * N)
