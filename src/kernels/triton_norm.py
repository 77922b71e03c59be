# SPDX-License-Identifier: Apache-2.0
"""LayerNorm of a tile inside other kernels: what the fused transition and triangle multiplication share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def affine_norm(x, w_ptr, b_ptr, cols, c, eps):
    """LN of a float32 tile [ROWS, C] whose first c columns count: value, x_hat, 1/σ and the scale."""
    mean = tl.sum(x, 1) / c
    centred = tl.where((cols < c)[None, :], x - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / c + eps)
    hat = centred * rstd[:, None]
    w = tl.load(w_ptr + cols, mask=cols < c, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + cols, mask=cols < c, other=0.0).to(tl.float32)
    return hat * w[None, :] + b[None, :], hat, rstd, w


@triton.jit
def norm_backward(d, hat, rstd, w, c):
    """Gradient of the tile before its LN from d, that of the LN's value."""
    g = d * w[None, :]
    return (g - tl.sum(g, 1)[:, None] / c - hat * (tl.sum(g * hat, 1)[:, None] / c)) * rstd[:, None]
