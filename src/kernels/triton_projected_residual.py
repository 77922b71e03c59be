# SPDX-License-Identifier: Apache-2.0
"""The end of a triangle attention: output projection, dropout and residual in one pass.

The update is never written. Backward: a program walks over tiles of pairs, drops and projects the gradient
and holds its part of the weight's gradient in registers; the parts are added in a fixed order. The input
may be transposed, as that of the ending node is: it is read as it lies, and its gradient lies alike.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels import reference
from foldwright.kernels.casts import cast
from foldwright.kernels.launch import dense, needs_triton, next_power_of_two
from foldwright.kernels.registry import register
from foldwright.kernels.tiles import tile
from foldwright.kernels.triton_dropout import drop_of, dropout_residual, kept_factors

MAX_CHANNELS = 128  # of which a program holds all, and of the weight's gradient their square
_PROGRAMS = 132  # of the backward pass, each with a part of the weight's gradient


@triton.jit
def _rows(start, n_j, size, stride_i, stride_j, cols, ROWS: tl.constexpr):
    """Pairs [ROWS] from a number on, which of them there are, and where they lie with their channels."""
    pairs = start + tl.arange(0, ROWS)
    place = (pairs // n_j).to(tl.int64) * stride_i + (pairs % n_j).to(tl.int64) * stride_j
    return pairs, (pairs < size)[:, None], place[:, None] + cols[None, :]


@triton.jit
def _projected_residual(x_ptr, w_ptr, z_ptr, keep_ptr, y_ptr, n_j, size, columns, s_b, s_i, s_j, scale,
                        c: tl.constexpr, c_in: tl.constexpr, DROPS: tl.constexpr, BY_ROW: tl.constexpr,
                        ROWS: tl.constexpr, C: tl.constexpr, C_IN: tl.constexpr):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    cols, from_cols = tl.arange(0, C), tl.arange(0, C_IN)
    start = tl.program_id(0) * ROWS
    pairs, there, at_x = _rows(start, n_j, size, s_i, s_j, from_cols, ROWS)
    x = tl.load(x_ptr + batch * s_b + at_x, mask=there & (from_cols < c_in)[None, :], other=0.0)
    inside_w = (cols < c)[:, None] & (from_cols < c_in)[None, :]
    w = tl.load(w_ptr + cols[:, None] * c_in + from_cols[None, :], mask=inside_w, other=0.0)
    inside = there & (cols < c)[None, :]
    at = (batch * size + start) * c + tl.arange(0, ROWS)[:, None] * c + cols[None, :]
    z = tl.load(z_ptr + at, mask=inside, other=0.0)
    update = tl.dot(x, tl.trans(w), input_precision="ieee")
    if DROPS:
        other = pairs // n_j if BY_ROW else pairs % n_j
        update *= kept_factors(keep_ptr + batch * columns, other, cols, c, scale, inside)
    tl.store(y_ptr + at, (z.to(tl.float32) + update).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _projected_residual_backward(dy_ptr, x_ptr, w_ptr, keep_ptr, dx_ptr, dw_ptr, n_j, size, columns, tiles,
                                 s_b, s_i, s_j, scale, c: tl.constexpr, c_in: tl.constexpr,
                                 DROPS: tl.constexpr, BY_ROW: tl.constexpr, ROWS: tl.constexpr,
                                 C: tl.constexpr, C_IN: tl.constexpr):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    cols, from_cols = tl.arange(0, C), tl.arange(0, C_IN)
    inside_w = (cols < c)[:, None] & (from_cols < c_in)[None, :]
    at_w = cols[:, None] * c_in + from_cols[None, :]
    w = tl.load(w_ptr + at_w, mask=inside_w, other=0.0)
    dw = tl.zeros([C, C_IN], tl.float32)
    for number in range(0, tiles):
        start = (tl.program_id(0) * tiles + number) * ROWS
        pairs, there, at_x = _rows(start, n_j, size, s_i, s_j, from_cols, ROWS)
        inside, inside_x = there & (cols < c)[None, :], there & (from_cols < c_in)[None, :]
        at = (batch * size + pairs.to(tl.int64))[:, None] * c + cols[None, :]
        d = tl.load(dy_ptr + at, mask=inside, other=0.0)
        x = tl.load(x_ptr + batch * s_b + at_x, mask=inside_x, other=0.0)
        if DROPS:
            other = pairs // n_j if BY_ROW else pairs % n_j
            factors = kept_factors(keep_ptr + batch * columns, other, cols, c, scale, inside)
            d = (d.to(tl.float32) * factors).to(x.dtype)
        dx = tl.dot(d, w, input_precision="ieee")
        dw = tl.dot(tl.trans(d), x, dw, input_precision="ieee")
        tl.store(dx_ptr + batch * s_b + at_x, dx.to(dx_ptr.dtype.element_ty), mask=inside_x)
    program = batch * tl.num_programs(0) + tl.program_id(0)
    tl.store(dw_ptr + program * c * c_in + at_w, dw, mask=inside_w)


def _launch(x: Tensor, weight: Tensor, kernel: str, rate: float, shared_axis: int) -> dict[str, int | bool]:
    c, c_in = weight.shape
    width = max(16, next_power_of_two(max(c, c_in)))
    sizes = {"C": max(16, next_power_of_two(c)), "C_IN": max(16, next_power_of_two(c_in))}
    options = {"DROPS": rate > 0.0, "BY_ROW": shared_axis == 2}
    return sizes | options | tile("projected_residual", kernel, width, x.dtype)


@torch.library.custom_op("foldwright::projected_residual", mutates_args=())
def _forward(z: Tensor, x: Tensor, weight: Tensor, seed: Tensor, rate: float, shared_axis: int) -> Tensor:
    z, x = z.contiguous(), dense(x)
    b, n_i, n_j, c = z.shape
    sizes = _launch(x, weight, "forward", rate, shared_axis)
    y = torch.empty_like(z)
    columns = z.shape[3 - shared_axis] * c
    keep, scale = drop_of(seed, rate, columns)
    _projected_residual[(triton.cdiv(n_i * n_j, sizes["ROWS"]), b)](
        x, cast(weight, x.dtype).contiguous(), z, keep, y, n_j, n_i * n_j, columns, *x.stride()[:3], scale,
        c, x.shape[3], **sizes,
    )  # fmt: skip
    return y


@_forward.register_fake
def _(z: Tensor, x: Tensor, weight: Tensor, seed: Tensor, rate: float, shared_axis: int) -> Tensor:
    return torch.empty_like(z, memory_format=torch.contiguous_format)


@torch.library.custom_op("foldwright::projected_residual_backward", mutates_args=())
def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, seed: Tensor, rate: float, shared_axis: int
) -> tuple[Tensor, Tensor]:
    dy, x = dy.contiguous(), dense(x)
    b, n_i, n_j, c = dy.shape
    sizes = _launch(x, weight, "backward", rate, shared_axis)
    all_tiles = triton.cdiv(n_i * n_j, sizes["ROWS"])
    tiles = triton.cdiv(all_tiles, _PROGRAMS)
    programs = triton.cdiv(all_tiles, tiles)
    dx = torch.empty_like(x)
    dw = x.new_empty(b * programs, *weight.shape, dtype=torch.float32)
    columns = dy.shape[3 - shared_axis] * c
    keep, scale = drop_of(seed, rate, columns)
    _projected_residual_backward[(programs, b)](
        dy, x, cast(weight, x.dtype).contiguous(), keep, dx, dw, n_j, n_i * n_j, columns, tiles,
        *x.stride()[:3], scale, c, x.shape[3], **sizes,
    )  # fmt: skip
    return dx, dw.sum(0).to(weight.dtype)


@_backward.register_fake
def _(
    dy: Tensor, x: Tensor, weight: Tensor, seed: Tensor, rate: float, shared_axis: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(dense(x)), torch.empty_like(weight)


def _setup(ctx, inputs, output) -> None:
    _, x, weight, seed, rate, shared_axis = inputs
    ctx.save_for_backward(x, weight, seed)
    ctx.options = rate, shared_axis


def _gradient(ctx, dy):
    return dy, *_backward(dy, *ctx.saved_tensors, *ctx.options), None, None, None


torch.library.register_autograd("foldwright::projected_residual", _gradient, setup_context=_setup)


@register("projected_residual", "triton", supports=needs_triton, preference=2)
def projected_residual(
    z: Tensor, x: Tensor, weight: Tensor, seed: Tensor, rate: float, shared_axis: int
) -> Tensor:
    """See kernels.reference.projected_residual. Wide pairs are projected by cuBLAS."""
    if max(weight.shape) > MAX_CHANNELS or z.dtype != x.dtype:
        return dropout_residual(z, reference.linear(x, weight), seed, rate, shared_axis)
    return _forward(z, x, weight, seed, rate, shared_axis)
