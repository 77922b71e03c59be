# SPDX-License-Identifier: Apache-2.0
"""LayerNorm in Triton: one read and one write a pass, float32 statistics, weights in their own precision.

The backward pass writes one partial weight and bias gradient a program and sums them in a fixed order, so it
is deterministic. A transposed input of four axes is read as it lies, and its gradient lies alike.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels.launch import needs_triton, next_power_of_two
from foldwright.kernels.registry import register

_ELEMENTS = 8192  # of a tile: rows x channels
_PROGRAMS = 264  # of the backward pass, each with a partial weight gradient


@triton.jit
def _place(rows, n_1, n_2, s_0, s_1, s_2, c, LAID: tl.constexpr):
    """Where the rows of x begin: one after another, or row (b, i, j) at b s_0 + i s_1 + j s_2."""
    place = rows * c
    if LAID:
        place = rows // (n_1 * n_2) * s_0 + rows // n_2 % n_1 * s_1 + rows % n_2 * s_2
    return place


@triton.jit
def _normalise(x_ptr, w_ptr, b_ptr, y_ptr, mean_ptr, rstd_ptr, n_rows, c, eps, n_1, n_2,
               s_0, s_1, s_2, LAID: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr,
               ROWS: tl.constexpr, C: tl.constexpr):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, C)
    inside = (rows < n_rows)[:, None] & (cols < c)[None, :]
    at = rows[:, None] * c + cols[None, :]
    from_x = _place(rows, n_1, n_2, s_0, s_1, s_2, c, LAID)[:, None] + cols[None, :]
    x = tl.load(x_ptr + from_x, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, 1) / c
    centred = tl.where((cols < c)[None, :], x - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / c + eps)
    y = centred * rstd[:, None]
    if HAS_W:
        y = y * tl.load(w_ptr + cols, mask=cols < c, other=0.0).to(tl.float32)[None, :]
    if HAS_B:
        y = y + tl.load(b_ptr + cols, mask=cols < c, other=0.0).to(tl.float32)[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)
    tl.store(mean_ptr + rows, mean, mask=rows < n_rows)
    tl.store(rstd_ptr + rows, rstd, mask=rows < n_rows)


@triton.jit
def _normalise_backward(dy_ptr, x_ptr, w_ptr, mean_ptr, rstd_ptr, dx_ptr, dw_ptr, db_ptr,
                        n_rows, c, tiles, n_1, n_2, s_0, s_1, s_2, LAID: tl.constexpr,
                        HAS_W: tl.constexpr, ROWS: tl.constexpr, C: tl.constexpr):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, C)
    w = tl.full([C], 1.0, tl.float32)
    if HAS_W:
        w = tl.load(w_ptr + cols, mask=cols < c, other=0.0).to(tl.float32)
    dw = tl.zeros([C], tl.float32)
    db = tl.zeros([C], tl.float32)
    for tile in range(0, tiles):
        rows = (program * tiles + tile) * ROWS + tl.arange(0, ROWS)
        inside = (rows < n_rows)[:, None] & (cols < c)[None, :]
        at = rows[:, None] * c + cols[None, :]
        in_x = _place(rows, n_1, n_2, s_0, s_1, s_2, c, LAID)[:, None] + cols[None, :]
        x = tl.load(x_ptr + in_x, mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + at, mask=inside, other=0.0).to(tl.float32)
        mean = tl.load(mean_ptr + rows, mask=rows < n_rows, other=0.0)
        rstd = tl.load(rstd_ptr + rows, mask=rows < n_rows, other=0.0)
        normed = tl.where((cols < c)[None, :], (x - mean[:, None]) * rstd[:, None], 0.0)
        dw += tl.sum(dy * normed, 0)
        db += tl.sum(dy, 0)
        g = dy * w[None, :]
        dx = (g - tl.sum(g, 1)[:, None] / c - normed * (tl.sum(g * normed, 1)[:, None] / c)) * rstd[:, None]
        tl.store(dx_ptr + in_x, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    tl.store(dw_ptr + program * c + cols, dw, mask=cols < c)
    tl.store(db_ptr + program * c + cols, db, mask=cols < c)


def _tile(c: int) -> tuple[int, int]:
    width = next_power_of_two(c)
    return max(1, _ELEMENTS // width), width


def _laid(x: Tensor) -> bool:
    """Whether x is read as it lies: four axes in another order, without gaps, the channels last."""
    dense = x.dim() == 4 and x.stride(3) == 1 and x.numel() > 0 and not x.is_contiguous()
    return dense and torch.empty_like(x, device="meta").stride() == x.stride()


def _layout(x: Tensor) -> tuple[Tensor, dict[str, int | bool]]:
    """x, contiguous unless it is read as it lies, and what `_place` asks for."""
    if not _laid(x):
        return x.contiguous(), dict.fromkeys(("n_1", "n_2", "s_0", "s_1", "s_2"), 1) | {"LAID": False}
    sizes = {"n_1": x.shape[1], "n_2": x.shape[2]}
    return x, sizes | {f"s_{axis}": x.stride(axis) for axis in range(3)} | {"LAID": True}


@torch.library.custom_op("foldwright::layer_norm", mutates_args=())
def _layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    x, layout = _layout(x)
    c, n_rows = x.shape[-1], x.numel() // x.shape[-1]
    rows, width = _tile(c)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    mean, rstd = (x.new_empty(n_rows, dtype=torch.float32) for _ in range(2))
    w, b = (x if p is None else p for p in (weight, bias))
    _normalise[(triton.cdiv(n_rows, rows),)](
        x, w, b, y, mean, rstd, n_rows, c, eps, **layout,
        HAS_W=weight is not None, HAS_B=bias is not None, ROWS=rows, C=width,
    )  # fmt: skip
    return y, mean, rstd


@_layer_norm.register_fake
def _(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    n_rows = x.numel() // x.shape[-1]
    statistics = [x.new_empty(n_rows, dtype=torch.float32) for _ in range(2)]
    return torch.empty_like(x, memory_format=torch.contiguous_format), statistics[0], statistics[1]


@torch.library.custom_op("foldwright::layer_norm_backward", mutates_args=())
def _layer_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x, and of weight and bias, float32 [2, c]."""
    dy = dy.contiguous()
    x, layout = _layout(x)
    c, n_rows = x.shape[-1], x.numel() // x.shape[-1]
    rows, width = _tile(c)
    tiles = triton.cdiv(triton.cdiv(n_rows, rows), _PROGRAMS)
    programs = triton.cdiv(triton.cdiv(n_rows, rows), tiles)
    dx = torch.empty_like(x)
    partial = x.new_empty(2, programs, c, dtype=torch.float32)
    _normalise_backward[(programs,)](
        dy, x, x if weight is None else weight, mean, rstd, dx, *partial, n_rows, c, tiles, **layout,
        HAS_W=weight is not None, ROWS=rows, C=width,
    )  # fmt: skip
    return dx, partial.sum(1)


@_layer_norm_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(_layout(x)[0]), x.new_empty(2, x.shape[-1], dtype=torch.float32)


def _setup(ctx, inputs, output) -> None:
    x, weight, bias, _ = inputs
    ctx.save_for_backward(x, weight, output[1], output[2])
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.set_materialize_grads(False)


def _gradient(ctx, dy, _dmean, _drstd):
    x, weight, mean, rstd = ctx.saved_tensors
    dx, (dw, db) = _layer_norm_backward(dy, x, weight, mean, rstd)
    dw = None if weight is None else dw.to(weight.dtype)
    return dx, dw, None if ctx.bias_dtype is None else db.to(ctx.bias_dtype), None


torch.library.register_autograd("foldwright::layer_norm", _gradient, setup_context=_setup)


@register("layer_norm", "triton", supports=needs_triton, preference=2)
def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """See kernels.reference.layer_norm."""
    return _layer_norm(x, weight, bias, eps)[0]
