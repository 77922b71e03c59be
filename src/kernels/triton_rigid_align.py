# SPDX-License-Identifier: Apache-2.0
"""Weighted rigid alignment (AF3 Algorithm 28) in Triton: one kernel, a program a sample.

A first walk over the atoms sums the moments Σ w (m, 1) (t, 1)ᵀ, a 4 x 4 matrix that holds total weight,
centroids and covariance, in float64, in which no centring is needed first. The rotation is that of
`geometry.best_rotation`: the leading eigenvector of Horn's 4 x 4 matrix by repeated squaring, in registers.
A second walk moves the atoms. Every sum has a fixed order, and no host waits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels.launch import needs_triton
from foldwright.kernels.reference import RANK_ONE
from foldwright.kernels.registry import register

_ATOMS = 256  # of a tile
_SQUARINGS = 32  # as geometry.best_rotation
_LEAST_WEIGHT = 1e-8


@triton.jit
def _points(x_ptr, atoms, n_atoms):
    """(x, y, z, 1) of a tile of atoms, [ATOMS, 4] float64."""
    axis = tl.arange(0, 4)[None, :]
    inside = (atoms < n_atoms)[:, None] & (axis < 3)
    x = tl.load(x_ptr + atoms[:, None].to(tl.int64) * 3 + axis, mask=inside, other=0.0).to(tl.float64)
    return tl.where(axis == 3, 1.0, x)


@triton.jit
def _moments(m_ptr, t_ptr, w_ptr, n_atoms, ATOMS: tl.constexpr):
    """Σ w (m, 1) (t, 1)ᵀ, [4, 4]."""
    sums = tl.zeros([ATOMS, 4, 4], tl.float64)
    for start in range(0, n_atoms, ATOMS):
        atoms = start + tl.arange(0, ATOMS)
        w = tl.load(w_ptr + atoms, mask=atoms < n_atoms, other=0.0).to(tl.float64)
        m = _points(m_ptr, atoms, n_atoms) * w[:, None]
        sums += m[:, :, None] * _points(t_ptr, atoms, n_atoms)[:, None, :]
    return tl.sum(sums, 0)


@triton.jit
def _entry(matrix, i: tl.constexpr, j: tl.constexpr):
    here = (tl.arange(0, 4)[:, None] == i) & (tl.arange(0, 4)[None, :] == j)
    return tl.sum(tl.sum(tl.where(here, matrix, 0.0), 1), 0)


@triton.jit
def _both(value, i: tl.constexpr, j: tl.constexpr):
    """A symmetric [4, 4] of zeros but for (i, j) and (j, i)."""
    row, column = tl.arange(0, 4)[:, None], tl.arange(0, 4)[None, :]
    return tl.where(((row == i) & (column == j)) | ((row == j) & (column == i)), value, 0.0)


@triton.jit
def _centred(moments, means_m, means_t, i: tl.constexpr, j: tl.constexpr):
    """An entry of Σ w (m - mean) (t - mean)ᵀ; right for a total weight of zero, too."""
    crossed = means_m[i] * _entry(moments, 3, j) + means_t[j] * _entry(moments, i, 3)
    return _entry(moments, i, j) - crossed + _entry(moments, 3, 3) * means_m[i] * means_t[j]


@triton.jit
def _minors(a, b):
    """|a x b|² of two rows."""
    x, y, z = a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
    return x * x + y * y + z * z


@triton.jit
def _square(a):
    return a[0] * a[0] + a[1] * a[1] + a[2] * a[2]


@triton.jit
def _quaternion(a, b, c, SQUARINGS: tl.constexpr):
    """(w, x, y, z) of the best rotation for a covariance of rows a, b, c."""
    horn = _both(a[0] + b[1] + c[2], 0, 0) + _both(b[2] - c[1], 0, 1) + _both(c[0] - a[2], 0, 2)
    horn += _both(a[1] - b[0], 0, 3) + _both(a[1] + b[0], 1, 2) + _both(a[2] + c[0], 1, 3)
    horn += _both(b[2] + c[1], 2, 3) + _both(a[0] - b[1] - c[2], 1, 1)
    horn += _both(b[1] - a[0] - c[2], 2, 2) + _both(c[2] - a[0] - b[1], 3, 3)
    shift = tl.sqrt(tl.sum(tl.sum(horn * horn, 1), 0))
    on_diagonal = tl.arange(0, 4)[:, None] == tl.arange(0, 4)[None, :]
    power = horn + tl.where(on_diagonal, tl.where(shift > 0, shift, 1.0), 0.0)
    for _ in range(SQUARINGS):
        power = power / tl.sum(tl.sum(tl.where(on_diagonal, power, 0.0), 1), 0)
        power = tl.sum(power[:, :, None] * power[None, :, :], 1)
    largest = tl.argmax(tl.sum(tl.where(on_diagonal, power, 0.0), 1), 0)
    q = tl.sum(tl.where(tl.arange(0, 4)[None, :] == largest, power, 0.0), 1)
    q = q / tl.sqrt(tl.sum(q * q, 0))
    at = tl.arange(0, 4)
    w, x = tl.sum(tl.where(at == 0, q, 0.0), 0), tl.sum(tl.where(at == 1, q, 0.0), 0)
    return w, x, tl.sum(tl.where(at == 2, q, 0.0), 0), tl.sum(tl.where(at == 3, q, 0.0), 0)


@triton.jit
def _align(m_ptr, t_ptr, w_ptr, out_ptr, n_atoms, rank_one, least_weight,
           SQUARINGS: tl.constexpr, ATOMS: tl.constexpr):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64) * n_atoms
    m_ptr, t_ptr, w_ptr, out_ptr = (
        m_ptr + 3 * sample,
        t_ptr + 3 * sample,
        w_ptr + sample,
        out_ptr + 3 * sample,
    )
    moments = _moments(m_ptr, t_ptr, w_ptr, n_atoms, ATOMS)
    total = tl.maximum(_entry(moments, 3, 3), least_weight)
    mean = (_entry(moments, 0, 3) / total, _entry(moments, 1, 3) / total, _entry(moments, 2, 3) / total)
    goal = (_entry(moments, 3, 0) / total, _entry(moments, 3, 1) / total, _entry(moments, 3, 2) / total)
    a = (_centred(moments, mean, goal, 0, 0) / total, _centred(moments, mean, goal, 0, 1) / total,
         _centred(moments, mean, goal, 0, 2) / total)  # fmt: skip
    b = (_centred(moments, mean, goal, 1, 0) / total, _centred(moments, mean, goal, 1, 1) / total,
         _centred(moments, mean, goal, 1, 2) / total)  # fmt: skip
    c = (_centred(moments, mean, goal, 2, 0) / total, _centred(moments, mean, goal, 2, 1) / total,
         _centred(moments, mean, goal, 2, 2) / total)  # fmt: skip
    flat = tl.sqrt(_minors(a, b) + _minors(b, c) + _minors(c, a)) <= rank_one * (
        _square(a) + _square(b) + _square(c)
    )
    w, x, y, z = _quaternion(a, b, c, SQUARINGS)
    w, x, y, z = (
        tl.where(flat, 1.0, w),
        tl.where(flat, 0.0, x),
        tl.where(flat, 0.0, y),
        tl.where(flat, 0.0, z),
    )
    for start in range(0, n_atoms, ATOMS):
        atoms = start + tl.arange(0, ATOMS)
        inside, at = atoms < n_atoms, atoms.to(tl.int64) * 3
        u = tl.load(m_ptr + at, mask=inside, other=0.0).to(tl.float64) - mean[0]
        v = tl.load(m_ptr + at + 1, mask=inside, other=0.0).to(tl.float64) - mean[1]
        s = tl.load(m_ptr + at + 2, mask=inside, other=0.0).to(tl.float64) - mean[2]
        first = (1 - 2 * (y * y + z * z)) * u + 2 * (x * y - w * z) * v + 2 * (x * z + w * y) * s + goal[0]
        second = 2 * (x * y + w * z) * u + (1 - 2 * (x * x + z * z)) * v + 2 * (y * z - w * x) * s + goal[1]
        third = 2 * (x * z - w * y) * u + 2 * (y * z + w * x) * v + (1 - 2 * (x * x + y * y)) * s + goal[2]
        tl.store(out_ptr + at, first.to(out_ptr.dtype.element_ty), mask=inside)
        tl.store(out_ptr + at + 1, second.to(out_ptr.dtype.element_ty), mask=inside)
        tl.store(out_ptr + at + 2, third.to(out_ptr.dtype.element_ty), mask=inside)


@torch.library.custom_op("foldwright::weighted_rigid_align", mutates_args=())
def _weighted_rigid_align(moving: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """moving and target [S, A, 3], weight [S, A], contiguous."""
    out = torch.empty_like(moving)
    _align[(moving.shape[0],)](
        moving, target, weight, out, moving.shape[1], RANK_ONE, _LEAST_WEIGHT, SQUARINGS=_SQUARINGS,
        ATOMS=_ATOMS,
    )  # fmt: skip
    return out


@_weighted_rigid_align.register_fake
def _(moving: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(moving)


@register("weighted_rigid_align", "triton", supports=needs_triton, preference=2)
@torch.no_grad()
def weighted_rigid_align(moving: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """See kernels.reference.weighted_rigid_align."""
    moving, target, weight = torch.broadcast_tensors(moving, target, weight[..., None])
    points = (x.reshape(-1, *x.shape[-2:]).contiguous() for x in (moving, target))
    out = _weighted_rigid_align(*points, weight[..., 0].reshape(-1, weight.shape[-2]).contiguous())
    return out.view(moving.shape)
