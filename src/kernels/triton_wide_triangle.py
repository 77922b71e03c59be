# SPDX-License-Identifier: Apache-2.0
"""The passes of the triangle multiplication for wide pairs, which a program cannot hold: see
triton_triangle_multiplication for what they are. Here LN(z) and LN(product) are written once, by kernels of
their own, and every projection is a product that walks the channels in tiles. Programs that share a tile of
pairs follow one another, so that it is read from memory once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels.tiles import tile
from foldwright.kernels.triton_dropout import Drop, kept_factors
from foldwright.kernels.triton_layer_norm import _layer_norm, _layer_norm_backward
from foldwright.kernels.triton_norm import affine_norm, norm_backward
from foldwright.kernels.triton_product import product
from foldwright.kernels.triton_sigmoid import sigmoid

EPS = 1e-5
Norm = tuple[Tensor, Tensor]  # scale and shift


class Passes(NamedTuple):
    """The passes around the product a b^T [B, c, N, N], for z [B, N, N, c]; weights in z's dtype, all
    contiguous. The backward passes write the gradients of the five projections of LN(z) into d [pairs, 5 c]:
    the gate's into the last c columns, the others' (w_in's order) into the rest.

    project(z, mask, norm, w) -> a, b
    gate_out(z, product, norm_in, norm_out, w_out, w_gate, drop) -> z + dropout(update)
    gate_out_backward(dy, *gate_out's, d) -> gradients of the product, of norm_out [2, c], of w_out
    project_backward(da, db, dy, *project's, w_gate, d) -> LN(z) [pairs, c], gradients of z, the residual's
    included, and of norm [2, c]
    """

    project: Callable[..., tuple[Tensor, Tensor]]
    gate_out: Callable[..., Tensor]
    gate_out_backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    project_backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


@triton.jit
def _place(slices, ROWS: tl.constexpr, OUT: tl.constexpr):
    """Pairs of an example, its number, and the slice of channels of a program: `slices` follow one
    another.
    """
    rows = (tl.program_id(0) // slices).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return rows, tl.program_id(1).to(tl.int64), tl.program_id(0) % slices


@triton.jit
def pair_mask(mask_ptr, rows, n):
    """token_mask[i] token_mask[j] of pairs row = i n + j, as float32."""
    i = tl.load(mask_ptr + rows // n, mask=rows < n * n, other=0).to(tl.float32)
    return i * tl.load(mask_ptr + rows % n, mask=rows < n * n, other=0).to(tl.float32)


@triton.jit
def _gated_slice(x_ptr, w_ptr, n, c, ROWS: tl.constexpr, OUT: tl.constexpr, INNER: tl.constexpr):
    """A program's slice of a's (`which` 0) or b's (1) channels: pairs, example, which, channels; gate and
    value, before the gate's application; where the slice lies, channel-major, and what of it there is.
    """
    size = n * n
    slices = tl.cdiv(c, OUT)
    rows, batch, number = _place(2 * slices, ROWS, OUT)
    which = number // slices
    out = number % slices * OUT + tl.arange(0, OUT)
    x_ptr += batch * size * c
    w_ptr += which * c * c
    gate = sigmoid(product(x_ptr, w_ptr, rows, out, size, c, c, ROWS, OUT, INNER))
    value = product(x_ptr, w_ptr + 2 * c * c, rows, out, size, c, c, ROWS, OUT, INNER)
    at = (batch * c + out[None, :]) * size + rows[:, None]
    return rows, batch, which, out, gate, value, at, (rows < size)[:, None] & (out < c)[None, :]


@triton.jit
def _wide_triangle_project(x_ptr, mask_ptr, w_ptr, a_ptr, b_ptr, n, c,
                           ROWS: tl.constexpr, OUT: tl.constexpr, INNER: tl.constexpr):  # fmt: skip
    rows, batch, which, _, gate, value, at, inside = _gated_slice(x_ptr, w_ptr, n, c, ROWS, OUT, INNER)
    y = gate * value * pair_mask(mask_ptr + batch * n, rows, n)[:, None]
    y = y.to(a_ptr.dtype.element_ty)
    if which == 0:
        tl.store(a_ptr + at, y, mask=inside)
    else:
        tl.store(b_ptr + at, y, mask=inside)


@triton.jit
def _wide_triangle_project_backward(da_ptr, db_ptr, x_ptr, mask_ptr, w_ptr, d_ptr, n, c, ROWS: tl.constexpr,
                                    OUT: tl.constexpr, INNER: tl.constexpr):  # fmt: skip
    """Gradients of gate logits and values of a and b, in columns 0 to 4 c of d."""
    rows, batch, which, out, gate, value, at, inside = _gated_slice(x_ptr, w_ptr, n, c, ROWS, OUT, INNER)
    if which == 0:
        g = tl.load(da_ptr + at, mask=inside, other=0.0)
    else:
        g = tl.load(db_ptr + at, mask=inside, other=0.0)
    g = g.to(tl.float32) * pair_mask(mask_ptr + batch * n, rows, n)[:, None]
    d_at = (batch * n * n + rows[:, None]) * 5 * c + which * c + out[None, :]
    d_gate = g * value * gate * (1.0 - gate)
    tl.store(d_ptr + d_at, d_gate.to(d_ptr.dtype.element_ty), mask=inside)
    tl.store(d_ptr + d_at + 2 * c, (g * gate).to(d_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _wide_triangle_gate_out(x_ptr, y_ptr, z_ptr, keep_ptr, wo_ptr, wg_ptr, out_ptr, n, c, scale,
                            DROPS: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr,
                            INNER: tl.constexpr):  # fmt: skip
    size = n * n
    rows, batch, number = _place(tl.cdiv(c, OUT), ROWS, OUT)
    out = number * OUT + tl.arange(0, OUT)
    pairs = batch * size * c
    value = product(y_ptr + pairs, wo_ptr, rows, out, size, c, c, ROWS, OUT, INNER)
    gate = sigmoid(product(x_ptr + pairs, wg_ptr, rows, out, size, c, c, ROWS, OUT, INNER))
    inside = (rows < size)[:, None] & (out < c)[None, :]
    at = pairs + rows[:, None] * c + out[None, :]
    update = value * gate
    if DROPS:
        update *= kept_factors(keep_ptr + batch * n * c, rows % n, out, c, scale, inside)
    update += tl.load(z_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, update.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _wide_triangle_gate_out_backward(dy_ptr, x_ptr, y_ptr, keep_ptr, wo_ptr, wg_ptr, dv_ptr, d_ptr, n, c,
                                     scale, DROPS: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr,
                                     INNER: tl.constexpr):  # fmt: skip
    """Gradient of the projected value; that of the gate's logit, in columns 4 c to 5 c of d."""
    size = n * n
    rows, batch, number = _place(tl.cdiv(c, OUT), ROWS, OUT)
    out = number * OUT + tl.arange(0, OUT)
    pairs = batch * size * c
    value = product(y_ptr + pairs, wo_ptr, rows, out, size, c, c, ROWS, OUT, INNER)
    gate = sigmoid(product(x_ptr + pairs, wg_ptr, rows, out, size, c, c, ROWS, OUT, INNER))
    inside = (rows < size)[:, None] & (out < c)[None, :]
    at = pairs + rows[:, None] * c
    dy = tl.load(dy_ptr + at + out[None, :], mask=inside, other=0.0).to(tl.float32)
    if DROPS:
        dy *= kept_factors(keep_ptr + batch * n * c, rows % n, out, c, scale, inside)
    d_gate = dy * value * gate * (1.0 - gate)
    tl.store(dv_ptr + at + out[None, :], (dy * gate).to(dv_ptr.dtype.element_ty), mask=inside)
    tl.store(d_ptr + 5 * at + 4 * c + out[None, :], d_gate.to(d_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _wide_triangle_norm(p_ptr, w_ptr, b_ptr, y_ptr, size, c, eps, ROWS: tl.constexpr, C: tl.constexpr):
    """LN of the product, which is channel-major, by pairs."""
    rows, batch, _ = _place(1, ROWS, C)
    cols = tl.arange(0, C)
    inside = (rows < size)[:, None] & (cols < c)[None, :]
    p = tl.load(p_ptr + (batch * c + cols[None, :]) * size + rows[:, None], mask=inside, other=0.0)
    y, _, _, _ = affine_norm(p.to(tl.float32), w_ptr, b_ptr, cols, c, eps)
    at = (batch * size + rows[:, None]) * c + cols[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _wide_triangle_norm_backward(d_ptr, p_ptr, w_ptr, b_ptr, dp_ptr, dw_ptr, db_ptr, size, c, eps,
                   ROWS: tl.constexpr, C: tl.constexpr):  # fmt: skip
    rows, batch, _ = _place(1, ROWS, C)
    cols = tl.arange(0, C)
    inside = (rows < size)[:, None] & (cols < c)[None, :]
    channel_major = (batch * c + cols[None, :]) * size + rows[:, None]
    p = tl.load(p_ptr + channel_major, mask=inside, other=0.0).to(tl.float32)
    _, hat, rstd, w = affine_norm(p, w_ptr, b_ptr, cols, c, eps)
    at = (batch * size + rows[:, None]) * c + cols[None, :]
    d = tl.load(d_ptr + at, mask=inside, other=0.0).to(tl.float32)
    program = batch * tl.num_programs(0) + tl.program_id(0)
    tl.store(dw_ptr + program * c + cols, tl.sum(d * hat, 0), mask=cols < c)
    tl.store(db_ptr + program * c + cols, tl.sum(d, 0), mask=cols < c)
    dp = norm_backward(d, hat, rstd, w, c)
    tl.store(dp_ptr + channel_major, dp.to(dp_ptr.dtype.element_ty), mask=inside)


def _launch(z: Tensor, kernel: str, channels: int) -> tuple[dict[str, int], tuple[int, int]]:
    """Sizes with launch options, and the grid: tiles of pairs x slices of `channels`, examples."""
    b, n, _, c = z.shape
    sizes = tile("wide_triangle", kernel, 512, z.dtype)
    slices = channels // c * triton.cdiv(c, sizes["OUT"])
    return sizes, (triton.cdiv(n * n, sizes["ROWS"]) * slices, b)


def _launch_norm(product: Tensor, kernel: str) -> tuple[dict[str, int], tuple[int, int]]:
    b, _, n, _ = product.shape
    sizes = tile("wide_triangle", kernel, 512, product.dtype)
    return {"C": 512} | sizes, (triton.cdiv(n * n, sizes["ROWS"]), b)


def _normed_product(product: Tensor, norm: Norm) -> Tensor:
    b, c, n, _ = product.shape
    y = product.new_empty(b * n * n, c)
    sizes, grid = _launch_norm(product, "norm")
    _wide_triangle_norm[grid](product, *norm, y, n * n, c, EPS, **sizes)
    return y


def _project_wide(z: Tensor, mask: Tensor, norm: Norm, w: Tensor) -> tuple[Tensor, Tensor]:
    b, n, _, c = z.shape
    x = _layer_norm(z, *norm, EPS)[0]
    left, right = (z.new_empty(b, c, n, n) for _ in range(2))
    sizes, grid = _launch(z, "project", 2 * c)
    _wide_triangle_project[grid](x, mask, w, left, right, n, c, **sizes)
    return left, right


def _gate_out_wide(
    z: Tensor, product: Tensor, norm_in: Norm, norm_out: Norm, w_out: Tensor, w_gate: Tensor, drop: Drop
) -> Tensor:
    _, n, _, c = z.shape
    x, y = _layer_norm(z, *norm_in, EPS)[0], _normed_product(product, norm_out)
    out = torch.empty_like(z)
    sizes, grid = _launch(z, "gate_out", c)
    _wide_triangle_gate_out[grid](
        x, y, z, drop.keep, w_out, w_gate, out, n, c, drop.scale, DROPS=drop.scale != 1.0, **sizes
    )
    return out


def _gate_out_backward_wide(
    dy: Tensor, z: Tensor, product: Tensor, norm_in: Norm, norm_out: Norm, w_out: Tensor, w_gate: Tensor,
    drop: Drop, d: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    b, n, _, c = z.shape
    x, y = _layer_norm(z, *norm_in, EPS)[0], _normed_product(product, norm_out)
    d_value = torch.empty_like(y)
    sizes, grid = _launch(z, "gate_out_backward", c)
    _wide_triangle_gate_out_backward[grid](
        dy, x, y, drop.keep, w_out, w_gate, d_value, d, n, c, drop.scale, DROPS=drop.scale != 1.0, **sizes
    )
    dw_out = d_value.t() @ y
    d_y = torch.mm(d_value, w_out, out=y)  # in y's memory: it is not needed any more
    d_product = torch.empty_like(product)
    sizes, grid = _launch_norm(product, "norm_backward")
    d_norm = z.new_empty(2, grid[0] * b, c, dtype=torch.float32)
    _wide_triangle_norm_backward[grid](d_y, product, *norm_out, d_product, *d_norm, n * n, c, EPS, **sizes)
    return d_product, d_norm.sum(1), dw_out


def _project_backward_wide(
    d_left: Tensor, d_right: Tensor, dy: Tensor, z: Tensor, mask: Tensor, norm: Norm, w: Tensor,
    w_gate: Tensor, d: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    _, n, _, c = z.shape
    x, mean, rstd = _layer_norm(z, *norm, EPS)
    sizes, grid = _launch(z, "project_backward", 2 * c)
    _wide_triangle_project_backward[grid](d_left, d_right, x, mask, w, d, n, c, **sizes)
    dx = torch.mm(d, torch.cat([w, w_gate]))
    dz, d_norm = _layer_norm_backward(dx.view(z.shape), z, norm[0], mean, rstd)
    return x.view(-1, c), dz.add_(dy), d_norm


PASSES = Passes(_project_wide, _gate_out_wide, _gate_out_backward_wide, _project_backward_wide)
