# SPDX-License-Identifier: Apache-2.0
"""The SwiGLU transition of wide rows, which a program cannot hold: its passes walk the channels in tiles.

A product over 512 channels has work enough to be bound by it, so the hidden layer may leave the chip; but of
a chunk of rows alone, so that it never stands in memory as a whole. One kernel makes a chunk's gated hidden
layer, one recomputes it with its gradients; LayerNorm is its own kernel, the other products are cuBLAS's.
Chunks' weight gradients are added in float32, in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels.tiles import tile
from foldwright.kernels.triton_layer_norm import _layer_norm, _layer_norm_backward
from foldwright.kernels.triton_product import product
from foldwright.kernels.triton_sigmoid import sigmoid

_CHUNK_BYTES = 1 << 28  # of what a chunk of rows writes


@triton.jit
def _place(n_rows, h, ROWS: tl.constexpr, OUT: tl.constexpr):
    """Rows and hidden channels of a program, where they lie in [n_rows, h], and which are inside."""
    slices = tl.cdiv(h, OUT)
    rows = (tl.program_id(0) // slices).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    hidden = tl.program_id(0) % slices * OUT + tl.arange(0, OUT)
    return rows, hidden, (rows < n_rows)[:, None] & (hidden < h)[None, :]


@triton.jit
def _wide_transition_gated(x_ptr, w_ptr, y_ptr, n_rows, c, h,
           ROWS: tl.constexpr, OUT: tl.constexpr, INNER: tl.constexpr):  # fmt: skip
    """silu(x w_a^T) * x w_b^T of a tile, w = [w_a; w_b]."""
    rows, hidden, inside = _place(n_rows, h, ROWS, OUT)
    a = product(x_ptr, w_ptr, rows, hidden, n_rows, h, c, ROWS, OUT, INNER)
    b = product(x_ptr, w_ptr + h * c, rows, hidden, n_rows, h, c, ROWS, OUT, INNER)
    y = a * sigmoid(a) * b
    tl.store(y_ptr + rows[:, None] * h + hidden[None, :], y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _wide_transition_gradients(x_ptr, dy_ptr, w_in_ptr, w_out_ptr, y_ptr, d_ptr, n_rows, c, h,
                     ROWS: tl.constexpr, OUT: tl.constexpr, INNER: tl.constexpr):  # fmt: skip
    """The gated hidden layer again, and the gradients of a and b side by side; w_out is transposed."""
    rows, hidden, inside = _place(n_rows, h, ROWS, OUT)
    a = product(x_ptr, w_in_ptr, rows, hidden, n_rows, h, c, ROWS, OUT, INNER)
    b = product(x_ptr, w_in_ptr + h * c, rows, hidden, n_rows, h, c, ROWS, OUT, INNER)
    dh = product(dy_ptr, w_out_ptr, rows, hidden, n_rows, h, c, ROWS, OUT, INNER)
    gate = sigmoid(a)
    silu = a * gate
    da = dh * b * (gate + silu * (1.0 - gate))
    at = rows[:, None] * h + hidden[None, :]
    d_at = rows[:, None] * 2 * h + hidden[None, :]
    tl.store(y_ptr + at, (silu * b).to(y_ptr.dtype.element_ty), mask=inside)
    tl.store(d_ptr + d_at, da.to(d_ptr.dtype.element_ty), mask=inside)
    tl.store(d_ptr + d_at + h, (dh * silu).to(d_ptr.dtype.element_ty), mask=inside)


def _launch(x: Tensor, h: int, kernel: str) -> tuple[dict[str, int], tuple[int]]:
    sizes = tile("wide_transition", kernel, 512, x.dtype)
    return sizes, (triton.cdiv(x.shape[0], sizes["ROWS"]) * triton.cdiv(h, sizes["OUT"]),)


def _chunks(x: Tensor, columns: int) -> tuple[Tensor, ...]:
    """x [..., c] by rows, of which each writes `columns` numbers."""
    rows = _CHUNK_BYTES // (columns * x.element_size())
    return x.view(-1, x.shape[-1]).split(max(1, rows))


def forward(
    x: Tensor, norm_w: Tensor, norm_b: Tensor, w_in: Tensor, w_out: Tensor, share: float, eps: float
) -> Tensor:
    """See kernels.reference.transition; x contiguous, weights w_in and w_out contiguous in its dtype."""
    c, h = w_out.shape
    y = torch.empty_like(x)
    for chunk, out in zip(_chunks(x, h), _chunks(y, h), strict=True):
        normed = _layer_norm(chunk, norm_w, norm_b, eps)[0]
        hidden = x.new_empty(len(chunk), h)
        sizes, grid = _launch(chunk, h, "gated")
        _wide_transition_gated[grid](normed, w_in, hidden, len(chunk), c, h, **sizes)
        torch.addmm(chunk, hidden, w_out.t(), beta=share, out=out)
    return y


def backward(
    dy: Tensor,
    x: Tensor,
    norm_w: Tensor,
    norm_b: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    share: float,
    eps: float,
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of x, in its dtype; in float32 of the norm's parameters [2, c], w_in and w_out. All
    contiguous.
    """
    c, h = w_out.shape
    w_across = w_out.t().contiguous()
    dx = torch.empty_like(x)
    d_norm, d_in, d_out = (
        x.new_zeros(shape, dtype=torch.float32) for shape in ((2, c), w_in.shape, w_out.shape)
    )
    for chunk, dy_chunk, dx_chunk in zip(*(_chunks(t, 3 * h) for t in (x, dy, dx)), strict=True):
        normed, mean, rstd = _layer_norm(chunk, norm_w, norm_b, eps)
        hidden, d = (x.new_empty(len(chunk), k * h) for k in (1, 2))
        sizes, grid = _launch(chunk, h, "gradients")
        _wide_transition_gradients[grid](
            normed, dy_chunk, w_in, w_across, hidden, d, len(chunk), c, h, **sizes
        )
        d_in += d.t() @ normed
        d_out += dy_chunk.t() @ hidden
        d_chunk, d_chunk_norm = _layer_norm_backward(d @ w_in, chunk, norm_w, mean, rstd)
        torch.add(d_chunk, dy_chunk, alpha=share, out=dx_chunk)
        d_norm += d_chunk_norm
    return dx, [d_norm, d_in, d_out]
