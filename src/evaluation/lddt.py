# SPDX-License-Identifier: Apache-2.0
"""LDDT (Mariani et al. 2013; spec 9): the share of true local distances that a prediction keeps."""

from __future__ import annotations

import torch
from torch import Tensor

THRESHOLDS = (0.5, 1.0, 2.0, 4.0)  # Å


_ROWS = 256  # atoms whose distances to all others exist at a time: 256 x 3456 float64 are 7 MB a sample


def lddt(x: Tensor, x_true: Tensor, resolved: Tensor, residue: Tensor, radius: float = 15.0) -> Tensor:
    """All-atom LDDT of each structure, in [0, 1].

    x [..., A, 3] predictions and x_true [A, 3] in Å, resolved bool [A]; residue [A] numbers the residues:
    pairs within one residue do not count, as in the original definition. Per-atom scores are averaged over
    the resolved atoms that have a neighbour within `radius` of the truth. NaN if there is none.
    """
    return lddt_of_atoms(x, x_true, resolved, residue, radius).nanmean(-1)


def lddt_of_atoms(
    x: Tensor, x_true: Tensor, resolved: Tensor, residue: Tensor, radius: float = 15.0
) -> Tensor:
    """The score of every atom [..., A], as `lddt` averages them; NaN for atoms that it leaves out."""
    x, x_true = x.double(), x_true.double()
    scores = x.new_full(x.shape[:-1], torch.nan)
    for start in range(0, x_true.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        counted = resolved[rows, None] & resolved & (residue[rows, None] != residue)
        d_true = _distances(x_true[rows], x_true)
        counted &= d_true < radius
        error = (_distances(x[..., rows, :], x) - d_true).abs()
        kept = torch.zeros_like(error)
        for threshold in THRESHOLDS:
            kept += error < threshold
        neighbours = counted.sum(-1)
        scores[..., rows] = (kept * counted).sum(-1) / (len(THRESHOLDS) * neighbours)
    return scores


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
