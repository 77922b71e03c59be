# SPDX-License-Identifier: Apache-2.0
"""Smooth LDDT (AF3 Algorithm 27) in tiles of atom pairs: distances live in registers, no A x A tensor exists.

Forward: a program sums the scores and counts of one tile of atoms with all others. Backward: it sums the
gradient of its atoms over all others, each pair in both of its orders, so nothing is added atomically and
the result is deterministic. Four sigmoids of one error cost one exponential, σ(c - e) = 1 / (1 + eᵉ e⁻ᶜ),
and one division: the error is capped at 22 Å, where they are 1e-8 and their product still a float.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels.launch import needs_triton
from foldwright.kernels.registry import register

_ROWS, _COLS = 32, 32


@triton.jit
def _point(x_ptr, atom, a):
    x = tl.load(x_ptr + atom * 3, mask=atom < a, other=0.0)
    y = tl.load(x_ptr + atom * 3 + 1, mask=atom < a, other=0.0)
    z = tl.load(x_ptr + atom * 3 + 2, mask=atom < a, other=0.0)
    return x, y, z


@triton.jit
def _distance(xi, yi, zi, xj, yj, zj):
    dx, dy, dz = xi[:, None] - xj[None, :], yi[:, None] - yj[None, :], zi[:, None] - zj[None, :]
    square = dx * dx + dy * dy + dz * dz + 1e-10
    inverse = tl.rsqrt(square)
    return square * inverse, inverse, dx, dy, dz


@triton.jit
def _sigmoids(d, d_true):
    """1 / σ(c - |d - d_true|) for c = 0.5, 1, 2, 4 Å, and the product of the four sigmoids."""
    e = tl.exp(tl.minimum(tl.abs(d_true - d), 22.0))
    a0, a1 = 1.0 + e * 0.6065306597126334, 1.0 + e * 0.36787944117144233
    a2, a3 = 1.0 + e * 0.1353352832366127, 1.0 + e * 0.01831563888873418
    return a0, a1, a2, a3, 1.0 / ((a0 * a1) * (a2 * a3))


@triton.jit
def _slope(sigmoid):
    return sigmoid * (1.0 - sigmoid)


@triton.jit
def _counted(mask_ptr, rows, cols, a):
    """Resolved pairs of two different atoms."""
    row_ok = tl.load(mask_ptr + rows, mask=rows < a, other=0) != 0
    col_ok = tl.load(mask_ptr + cols, mask=cols < a, other=0) != 0
    return row_ok[:, None] & col_ok[None, :] & (rows[:, None] != cols[None, :])


@triton.jit
def _radius(nucleotide_ptr, atom, a):
    return tl.where(tl.load(nucleotide_ptr + atom, mask=atom < a, other=0) != 0, 30.0, 15.0)


@triton.jit
def _smooth_lddt_forward(x_ptr, t_ptr, mask_ptr, nucleotide_ptr, score_ptr, count_ptr, a,
                         samples, tiles, ROWS: tl.constexpr, COLS: tl.constexpr):  # fmt: skip
    tile, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    x_ptr, t_ptr = x_ptr + sample * a * 3, t_ptr + sample * a * 3
    mask_ptr, nucleotide_ptr = mask_ptr + sample // samples * a, nucleotide_ptr + sample // samples * a
    rows = tile * ROWS + tl.arange(0, ROWS)
    xi, yi, zi = _point(x_ptr, rows, a)
    ti, ui, vi = _point(t_ptr, rows, a)
    radius = _radius(nucleotide_ptr, rows, a)
    score = tl.zeros([ROWS, COLS], tl.float32)
    count = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(0, a, COLS):
        cols = start + tl.arange(0, COLS)
        xj, yj, zj = _point(x_ptr, cols, a)
        tj, uj, vj = _point(t_ptr, cols, a)
        d, _, _, _, _ = _distance(xi, yi, zi, xj, yj, zj)
        d_true, _, _, _, _ = _distance(ti, ui, vi, tj, uj, vj)
        included = _counted(mask_ptr, rows, cols, a) & (d_true < radius[:, None])
        a0, a1, a2, a3, inverse = _sigmoids(d, d_true)
        s = ((a0 + a1) * (a2 * a3) + (a2 + a3) * (a0 * a1)) * inverse
        score += tl.where(included, 0.25 * s, 0.0)
        count += tl.where(included, 1.0, 0.0)
    tl.store(score_ptr + sample * tiles + tile, tl.sum(tl.sum(score, 1), 0))
    tl.store(count_ptr + sample * tiles + tile, tl.sum(tl.sum(count, 1), 0))


@triton.jit
def _smooth_lddt_gradient(x_ptr, t_ptr, mask_ptr, nucleotide_ptr, factor_ptr, dx_ptr, a,
                          samples, ROWS: tl.constexpr, COLS: tl.constexpr):  # fmt: skip
    """factor [B D]: incoming gradient over the number of pairs."""
    tile, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    x_ptr, t_ptr, dx_ptr = x_ptr + sample * a * 3, t_ptr + sample * a * 3, dx_ptr + sample * a * 3
    mask_ptr, nucleotide_ptr = mask_ptr + sample // samples * a, nucleotide_ptr + sample // samples * a
    rows = tile * ROWS + tl.arange(0, ROWS)
    xi, yi, zi = _point(x_ptr, rows, a)
    ti, ui, vi = _point(t_ptr, rows, a)
    radius = _radius(nucleotide_ptr, rows, a)
    gx = tl.zeros([ROWS, COLS], tl.float32)
    gy = tl.zeros([ROWS, COLS], tl.float32)
    gz = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(0, a, COLS):
        cols = start + tl.arange(0, COLS)
        xj, yj, zj = _point(x_ptr, cols, a)
        tj, uj, vj = _point(t_ptr, cols, a)
        d, inverse_d, dx, dy, dz = _distance(xi, yi, zi, xj, yj, zj)
        d_true, _, _, _, _ = _distance(ti, ui, vi, tj, uj, vj)
        counted = _counted(mask_ptr, rows, cols, a)
        orders = tl.where(counted & (d_true < radius[:, None]), 1.0, 0.0)
        orders += tl.where(counted & (d_true < _radius(nucleotide_ptr, cols, a)[None, :]), 1.0, 0.0)
        a0, a1, a2, a3, inverse = _sigmoids(d, d_true)
        slope = _slope(a1 * a2 * a3 * inverse) + _slope(a0 * a2 * a3 * inverse)
        slope += _slope(a0 * a1 * a3 * inverse) + _slope(a0 * a1 * a2 * inverse)
        sign = tl.where(d > d_true, 1.0, tl.where(d < d_true, -1.0, 0.0))
        g = orders * 0.25 * slope * sign * inverse_d
        gx += g * dx
        gy += g * dy
        gz += g * dz
    factor = tl.load(factor_ptr + sample)
    tl.store(dx_ptr + rows * 3, tl.sum(gx, 1) * factor, mask=rows < a)
    tl.store(dx_ptr + rows * 3 + 1, tl.sum(gy, 1) * factor, mask=rows < a)
    tl.store(dx_ptr + rows * 3 + 2, tl.sum(gz, 1) * factor, mask=rows < a)


@torch.library.custom_op("foldwright::smooth_lddt", mutates_args=())
def _smooth_lddt(x: Tensor, x_true: Tensor, mask: Tensor, is_nucleotide: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and the number of pairs, float32 [B, D]."""
    batch, samples, a = x.shape[:3]
    tiles = triton.cdiv(a, _ROWS)
    score, count = (x.new_empty(batch, samples, tiles) for _ in range(2))
    _smooth_lddt_forward[(tiles, batch * samples)](
        x.contiguous(), x_true.contiguous(), mask.contiguous(), is_nucleotide.contiguous(), score, count,
        a, samples, tiles, ROWS=_ROWS, COLS=_COLS, num_warps=8,
    )  # fmt: skip
    pairs = count.sum(-1).clamp(min=1.0)
    return 1.0 - score.sum(-1) / pairs, pairs


@_smooth_lddt.register_fake
def _(x: Tensor, x_true: Tensor, mask: Tensor, is_nucleotide: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])


@torch.library.custom_op("foldwright::smooth_lddt_backward", mutates_args=())
def _smooth_lddt_backward(
    factor: Tensor, x: Tensor, x_true: Tensor, mask: Tensor, is_nucleotide: Tensor
) -> Tensor:
    batch, samples, a = x.shape[:3]
    x = x.contiguous()
    dx = torch.empty_like(x)
    _smooth_lddt_gradient[(triton.cdiv(a, _ROWS), batch * samples)](
        x, x_true.contiguous(), mask.contiguous(), is_nucleotide.contiguous(), factor.contiguous(), dx,
        a, samples, ROWS=_ROWS, COLS=_COLS, num_warps=8,
    )  # fmt: skip
    return dx


@_smooth_lddt_backward.register_fake
def _(factor: Tensor, x: Tensor, x_true: Tensor, mask: Tensor, is_nucleotide: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _gradient(ctx, dy, _dpairs):
    x, x_true, mask, is_nucleotide, pairs = ctx.saved_tensors
    return _smooth_lddt_backward(dy / pairs, x, x_true, mask, is_nucleotide), None, None, None


torch.library.register_autograd("foldwright::smooth_lddt", _gradient, setup_context=_setup)


@register("smooth_lddt", "triton", supports=needs_triton, preference=2)
def smooth_lddt(x: Tensor, x_true: Tensor, mask: Tensor, is_nucleotide: Tensor) -> Tensor:
    """See kernels.reference.smooth_lddt; float32, and no gradient reaches the truth."""
    return _smooth_lddt(x, x_true, mask, is_nucleotide)[0]
