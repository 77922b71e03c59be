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


def distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j| by direct difference: [..., n, 3], [..., m, 3] -> [..., n, m]. Without a use for gradients,
    which are infinite at zero.
    """
    return (a[..., :, None, :] - b[..., None, :, :]).square().sum(-1).sqrt()


def pairwise_distances(x: Tensor, rows: slice = slice(None), eps: float = 1e-10) -> Tensor:
    """|x_i - x_j| by direct difference [..., n, N] of n rows i, of all by default; eps under the root keeps
    the gradient finite at zero.
    """
    return ((x[..., rows, None, :] - x[..., None, :, :]).square().sum(-1) + eps).sqrt()


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


_SQUARINGS = 32  # resolves eigenvalues that differ by 1e-8 of their size


@torch.no_grad()
def best_rotation(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The proper rotation R [..., 3, 3] that maximises tr(R M), and that maximum [...]; float64.

    covariance [..., 3, 3] is M = Σ m tᵀ of centred point pairs: R turns the points m onto t. Horn's
    quaternion method: the leading eigenvector of a symmetric 4 x 4 matrix, here by repeated squaring, a fixed
    number of products on the device: neither a decomposition that may fail nor a wait for one. Where several
    rotations are best (collinear points), one of them.
    """
    s = covariance.double()
    trace = s.diagonal(dim1=-2, dim2=-1).sum(-1)
    turn = torch.stack([s[..., a, b] - s[..., b, a] for a, b in ((1, 2), (2, 0), (0, 1))], -1)
    lower = s + s.transpose(-1, -2) - trace[..., None, None] * torch.eye(3, dtype=s.dtype, device=s.device)
    top = torch.cat([trace[..., None, None], turn[..., None, :]], -1)
    matrix = torch.cat([top, torch.cat([turn[..., None], lower], -1)], -2)
    shift = matrix.square().sum((-2, -1)).sqrt()[..., None, None]
    identity = torch.eye(4, dtype=s.dtype, device=s.device)
    power = matrix + torch.where(shift > 0, shift, 1.0) * identity  # no eigenvalue is negative any more
    for _ in range(_SQUARINGS):
        power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        power = power @ power
    largest = power.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*power.shape[:-1], 1)
    q = torch.gather(power, -1, largest)[..., 0]
    q = q / q.norm(dim=-1, keepdim=True)
    gain = (q[..., None, :] @ matrix @ q[..., :, None])[..., 0, 0]
    return rotation_from_quaternion(q), gain
