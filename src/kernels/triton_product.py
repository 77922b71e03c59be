# SPDX-License-Identifier: Apache-2.0
"""A tile of x w^T that walks the channels: what the transition and the triangle multiplication share where a
row of channels is too wide to be held on chip.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(x_ptr, w_ptr, rows, out, n_rows, n_out, c,
            ROWS: tl.constexpr, OUT: tl.constexpr, INNER: tl.constexpr):  # fmt: skip
    """Rows `rows` (64-bit) of x [n_rows, c] times rows `out` of w [n_out, c]: float32 [ROWS, OUT]."""
    total = tl.zeros([ROWS, OUT], tl.float32)
    for start in range(0, c, INNER):
        inner = start + tl.arange(0, INNER)
        inside = (inner < c)[None, :]
        x_at, w_at = rows[:, None] * c + inner[None, :], out[:, None] * c + inner[None, :]
        x = tl.load(x_ptr + x_at, mask=(rows < n_rows)[:, None] & inside, other=0.0)
        w = tl.load(w_ptr + w_at, mask=(out < n_out)[:, None] & inside, other=0.0)
        total = tl.dot(x, tl.trans(w), total, input_precision="ieee")
    return total
