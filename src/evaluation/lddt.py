# SPDX-License-Identifier: Apache-2.0
"""LDDT (Mariani et al. 2013; spec 9): the share of true local distances that a prediction keeps."""

from __future__ import annotations

import torch
from torch import Tensor

THRESHOLDS = (0.5, 1.0, 2.0, 4.0)  # Å


def lddt(x: Tensor, x_true: Tensor, resolved: Tensor, residue: Tensor, radius: float = 15.0) -> Tensor:
    """All-atom LDDT of each structure, in [0, 1].

    x [..., A, 3] predictions and x_true [A, 3] in Å, resolved bool [A]; residue [A] numbers the residues:
    pairs within one residue do not count, as in the original definition. Per-atom scores are averaged over
    the resolved atoms that have a neighbour within `radius` of the truth. NaN if there is none.
    """
    counted = resolved[:, None] & resolved[None, :] & (residue[:, None] != residue[None, :])
    d_true = torch.cdist(x_true.double(), x_true.double(), compute_mode="donot_use_mm_for_euclid_dist")
    counted = (counted & (d_true < radius)).double()
    d = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    error = (d - d_true).abs()
    kept = torch.stack([error < threshold for threshold in THRESHOLDS]).double().mean(0) * counted
    neighbours = counted.sum(-1)
    per_atom = kept.sum(-1) / neighbours.clamp(min=1.0)
    scored = (neighbours > 0).double()
    return (per_atom * scored).sum(-1) / scored.sum()
