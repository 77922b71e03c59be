# SPDX-License-Identifier: Apache-2.0
"""Rigid motions, frames, distances and gathers. Coordinates are float32 or wider, in Å."""

from __future__ import annotations

import torch
from torch import Tensor


def rotation_from_quaternion(q: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] (w, x, y, z) of any non-zero norm.

    Four independent normals give rotations uniform on SO(3).
    """
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x [..., A, 3] over atoms with mask [..., A]; [..., 1, 3], zero where nothing counts."""
    weight = mask.to(x.dtype)[..., None]
    return (x * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp(min=1.0)


def pairwise_distances(x: Tensor, eps: float = 1e-10) -> Tensor:
    """|x_i - x_j| by direct difference [..., N, N]; eps under the root keeps the gradient finite at zero."""
    return ((x[..., :, None, :] - x[..., None, :, :]).square().sum(-1) + eps).sqrt()


def frames(a: Tensor, b: Tensor, c: Tensor, eps: float = 1e-10) -> tuple[Tensor, Tensor]:
    """Frames by Gram-Schmidt on c - b, then a - b (AF2 Algorithm 21): rotation [..., 3, 3] (columns) and
    origin b.

    Degenerate triples give finite, meaningless axes: mask them.
    """
    first = _normalise(c - b, eps)
    offset = a - b
    second = _normalise(offset - (offset * first).sum(-1, keepdim=True) * first, eps)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1), b


def _normalise(v: Tensor, eps: float) -> Tensor:
    return v / (v.square().sum(-1, keepdim=True) + eps).sqrt()


def to_frames(rotation: Tensor, origin: Tensor, x: Tensor) -> Tensor:
    """Coordinates of points x [..., M, 3] in frames i: R_i^T (x_j - o_i), [..., N, M, 3]."""
    return torch.einsum("...iab,...ija->...ijb", rotation, x[..., None, :, :] - origin[..., :, None, :])
