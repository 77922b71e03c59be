# SPDX-License-Identifier: Apache-2.0
"""LayerNorm of a tile inside other kernels: what the fused transition and triangle multiplication share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def statistics(x, cols, c, eps):
    """Mean and 1/σ of the rows of a float32 tile [ROWS, C], which is 0 beyond its first c columns."""
    mean = tl.sum(x, 1) / c
    centred = tl.where(inside_width(cols, c), x - mean[:, None], 0.0)
    return mean, tl.rsqrt(tl.sum(centred * centred, 1) / c + eps)


@triton.jit
def inside_width(cols, c):
    """[1, C]: which columns count. Always true, and left out by the compiler, where a constant c is C."""
    return (cols < c)[None, :] | (c == cols.shape[0])


@triton.jit
def scale_and_shift(w_ptr, b_ptr, cols, c):
    """The norm's parameters [C], float32."""
    w = tl.load(w_ptr + cols, mask=cols < c, other=0.0).to(tl.float32)
    return w, tl.load(b_ptr + cols, mask=cols < c, other=0.0).to(tl.float32)


@triton.jit
def affine_norm(x, w_ptr, b_ptr, cols, c, eps):
    """LN of a float32 tile [ROWS, C] whose first c columns count: value, x_hat, 1/σ and the scale."""
    mean, rstd = statistics(x, cols, c, eps)
    hat = tl.where(inside_width(cols, c), (x - mean[:, None]) * rstd[:, None], 0.0)
    w, b = scale_and_shift(w_ptr, b_ptr, cols, c)
    return hat * w[None, :] + b[None, :], hat, rstd, w


@triton.jit
def norm_backward(d, hat, rstd, w, c):
    """Gradient of the tile before its LN from d, that of the LN's value."""
    g = d * w[None, :]
    return (g - tl.sum(g, 1)[:, None] / c - hat * (tl.sum(g * hat, 1)[:, None] / c)) * rstd[:, None]
