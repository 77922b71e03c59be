# SPDX-License-Identifier: Apache-2.0
"""Residual addition with shared dropout in Triton: one read of each input, one write.

The mask is the reference's to the bit: the same counter-based draws (`randomness.uniform`), hashed in
registers once a column of the mask and used for all rows that share it. The update may have any strides, so
that a transposed one needs no copy; its gradient has the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels.launch import needs_triton, next_power_of_two
from foldwright.kernels.registry import register

_ELEMENTS = 4096  # of a tile
_COLUMNS = 512  # of a tile, at most

# splitmix64, as in randomness.py
_GOLDEN = tl.constexpr(-7046029254386353131)
_MIX_1 = tl.constexpr(-4658895280553007687)
_MIX_2 = tl.constexpr(-7723592293110705685)


@triton.jit
def _mix(x):
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


@triton.jit
def _keeps(seed, q, rate):
    """Whether the draws q [COLS] of a seed are kept."""
    bits = _mix(_mix(seed + q * _GOLDEN))
    uniform = (((bits >> 40) & 0xFFFFFF).to(tl.float32) + 0.5) * 5.9604644775390625e-08
    return uniform >= rate


@triton.jit
def _dropout_mask(seed_ptr, keep_ptr, rate, columns, COLS: tl.constexpr):
    example = tl.program_id(1).to(tl.int64)
    q = tl.program_id(0).to(tl.int64) * COLS + tl.arange(0, COLS)
    keep = _keeps(tl.load(seed_ptr + example), q, rate)
    tl.store(keep_ptr + example * columns + q, keep.to(tl.uint8), mask=q < columns)


@triton.jit
def _dropout_apply(x_ptr, u_ptr, seed_ptr, y_ptr, rate, n_shared, n_other, c, xb, xs, xo, ub, us, uo, uc,
                   yb, ys, yo, yc, HAS_X: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):  # fmt: skip
    """y = (x +) u ⊙ keep / (1 - rate): tile of shared rows and of (other, channel) columns of the mask."""
    example = tl.program_id(2).to(tl.int64)
    q = tl.program_id(0).to(tl.int64) * COLS + tl.arange(0, COLS)
    rows = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    other, channel = q // c, q % c
    factor = tl.where(_keeps(tl.load(seed_ptr + example), q, rate), 1.0 / (1.0 - rate), 0.0)
    inside = (rows < n_shared)[:, None] & (q < n_other * c)[None, :]
    at = example * ub + rows[:, None] * us + (other * uo + channel * uc)[None, :]
    y = tl.load(u_ptr + at, mask=inside, other=0.0).to(tl.float32) * factor[None, :]
    if HAS_X:
        at = example * xb + rows[:, None] * xs + (other * xo + channel)[None, :]
        y += tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    at = example * yb + rows[:, None] * ys + (other * yo + channel * yc)[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def kept_factors(keep_ptr, other, cols, c, scale, inside):
    """Factors [ROWS, COLS] of an example's mask [N, c] of 0 and 1: `scale` or 0. `other` is the place of each
    row along the axis that shares no mask.
    """
    at = (other * c)[:, None] + cols[None, :]
    return tl.load(keep_ptr + at, mask=inside, other=0).to(tl.float32) * scale


class Drop(NamedTuple):
    """The dropout of an op of its own: factors are `scale` where `keep`, uint8 [B, columns], is 1; none if
    scale is 1.
    """

    keep: Tensor
    scale: float


def drop_of(seed: Tensor, rate: float, columns: int) -> Drop:
    """Made anew by a backward pass: it is N times smaller than what it acts on. Not read without dropout."""
    return Drop(kept_columns(seed, rate, columns), 1.0 / (1.0 - rate)) if rate else Drop(seed, 1.0)


def kept_columns(seed: Tensor, rate: float, columns: int) -> Tensor:
    """The mask itself for ops with a dropout of their own: uint8 [B, columns], 1 where an element is kept.

    `columns` counts the elements of an example that do not share one; seed int64 [B].
    """
    keep = seed.new_empty(seed.shape[0], columns, dtype=torch.uint8)
    grid = (triton.cdiv(columns, _COLUMNS), seed.shape[0])
    _dropout_mask[grid](seed.contiguous(), keep, rate, columns, COLS=_COLUMNS)
    return keep


def _launch(x: Tensor | None, update: Tensor, seed: Tensor, y: Tensor, rate: float, shared_axis: int) -> None:
    other_axis = 3 - shared_axis
    n_shared, n_other, c = update.shape[shared_axis], update.shape[other_axis], update.shape[3]
    columns = min(_COLUMNS, next_power_of_two(n_other * c))
    rows = min(max(1, _ELEMENTS // columns), next_power_of_two(n_shared))

    def strides(t: Tensor) -> tuple[int, int, int]:
        return t.stride(0), t.stride(shared_axis), t.stride(other_axis)

    source = update if x is None else x
    grid = (triton.cdiv(n_other * c, columns), triton.cdiv(n_shared, rows), update.shape[0])
    _dropout_apply[grid](
        source, update, seed.contiguous(), y, rate, n_shared, n_other, c,
        *strides(source), *strides(update), update.stride(3), *strides(y), y.stride(3),
        HAS_X=x is not None, ROWS=rows, COLS=columns,
    )  # fmt: skip


@torch.library.custom_op("foldwright::dropout_residual", mutates_args=())
def _dropout_residual(x: Tensor, update: Tensor, seed: Tensor, rate: float, shared_axis: int) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    _launch(x, update, seed, y, rate, shared_axis)
    return y


@_dropout_residual.register_fake
def _(x: Tensor, update: Tensor, seed: Tensor, rate: float, shared_axis: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("foldwright::dropout_gradient", mutates_args=())
def _dropout_gradient(
    dy: Tensor, seed: Tensor, rate: float, shared_axis: int, strides: Sequence[int], dtype: torch.dtype
) -> Tensor:
    du = torch.empty_strided(dy.shape, strides, dtype=dtype, device=dy.device)
    _launch(None, dy, seed, du, rate, shared_axis)
    return du


@_dropout_gradient.register_fake
def _(
    dy: Tensor, seed: Tensor, rate: float, shared_axis: int, strides: Sequence[int], dtype: torch.dtype
) -> Tensor:
    return torch.empty_strided(dy.shape, strides, dtype=dtype, device=dy.device)


def _dense_strides(update: Tensor) -> list[int]:
    """Strides of a gradient in the layout of the update, without gaps or overlap."""
    return list(torch.empty_like(update, device="meta").stride())


def _setup(ctx, inputs, output) -> None:
    x, update, seed, rate, shared_axis = inputs
    ctx.save_for_backward(seed)
    ctx.x_dtype = x.dtype
    ctx.options = rate, shared_axis, _dense_strides(update), update.dtype


def _gradient(ctx, dy):
    (seed,) = ctx.saved_tensors
    return dy.to(ctx.x_dtype), _dropout_gradient(dy, seed, *ctx.options), None, None, None


torch.library.register_autograd("foldwright::dropout_residual", _gradient, setup_context=_setup)


@register("dropout_residual", "triton", supports=needs_triton, preference=2)
def dropout_residual(x: Tensor, update: Tensor, seed: Tensor, rate: float, shared_axis: int) -> Tensor:
    """See kernels.reference.dropout_residual. Without dropout it is a plain addition."""
    return x + update if rate == 0.0 else _dropout_residual(x, update, seed, rate, shared_axis)
