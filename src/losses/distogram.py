# SPDX-License-Identifier: Apache-2.0
"""The distogram loss (AF2 SI 1.9.8; AF3 with weight 0.03)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from foldwright.batch import Batch
from foldwright.geometry import pairwise_distances

FIRST_BREAK, LAST_BREAK = 2.3125, 21.6875  # 63 breaks, 64 bins


def distogram_bins(distance: Tensor, n_bins: int) -> Tensor:
    """Bin numbers of distances in Å: how many breaks are exceeded."""
    breaks = torch.linspace(FIRST_BREAK, LAST_BREAK, n_bins - 1, device=distance.device, dtype=distance.dtype)
    return torch.bucketize(distance, breaks)


def representative_coordinates(batch: Batch) -> tuple[Tensor, Tensor]:
    """Ground-truth representative atoms [B, N, 3] and which are resolved [B, N]."""
    index = batch.representative_atom.long()
    coords = torch.gather(batch.atom_coords, 1, index[..., None].expand(-1, -1, 3))
    return coords, torch.gather(batch.atom_resolved, 1, index) & batch.token_mask


def distogram_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy over pairs of resolved representative atoms: [B]. logits [B, N, N, bins],
    float32. Zero for examples that do not supervise it.
    """
    coords, resolved = representative_coordinates(batch)
    resolved = resolved & batch.supervises_distogram[:, None]
    bins = distogram_bins(pairwise_distances(coords), logits.shape[-1])
    error = F.cross_entropy(logits.movedim(-1, 1), bins, reduction="none")
    counted = (resolved[:, :, None] & resolved[:, None, :]).to(error.dtype)
    return (error * counted).sum((1, 2)) / counted.sum((1, 2)).clamp(min=1.0)
