# SPDX-License-Identifier: Apache-2.0
"""Relative position encoding (AF3 Algorithm 3), as table look-ups instead of one-hot products.

Errata: the token offset needs the same chain and the same residue; the chain offset is used where the entity
is the same (DeepMind's reading: copy numbers of different entities are not comparable).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foldwright.batch import Batch
from foldwright.layers.linear import initialise

R_MAX, S_MAX = 32, 2
N_OFFSETS = 2 * R_MAX + 2  # 66
N_CHAIN_OFFSETS = 2 * S_MAX + 2  # 6
WIDTH = 2 * N_OFFSETS + 1 + N_CHAIN_OFFSETS  # 139


ALL = slice(None)


def _offset(index: Tensor, rows: slice, allowed: Tensor, limit: int) -> Tensor:
    """clip(index_i - index_j + limit, 0, 2 limit) where allowed, else 2 limit + 1. index [B, N] -> [B, n,
    N].
    """
    difference = index[:, rows, None] - index[:, None, :]
    return torch.where(allowed, (difference + limit).clamp(0, 2 * limit), 2 * limit + 1)


def relative_positions(batch: Batch, rows: slice = ALL) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Residue, token and chain offsets as bin numbers, and same-entity flags; each [B, n, N] of n rows."""
    same_chain = batch.asym_id[:, rows, None] == batch.asym_id[:, None, :]
    same_entity = batch.entity_id[:, rows, None] == batch.entity_id[:, None, :]
    same_residue = same_chain & (batch.residue_index[:, rows, None] == batch.residue_index[:, None, :])
    return (
        _offset(batch.residue_index, rows, same_chain, R_MAX),
        _offset(batch.token_index, rows, same_residue, R_MAX),
        _offset(batch.sym_id, rows, same_entity, S_MAX),
        same_entity,
    )


class RelativePositionEncoding(nn.Module):
    """AF3 Algorithm 3: [B, n, N, c_z] in the given dtype, of n rows of the pairs, of all by default."""

    def __init__(self, c_z: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_z, WIDTH))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        initialise(self.weight, "default")

    def forward(self, batch: Batch, dtype: torch.dtype, rows: slice = ALL) -> Tensor:
        table = self.weight.t().to(dtype)
        residue, token, entity, chain = table.split([N_OFFSETS, N_OFFSETS, 1, N_CHAIN_OFFSETS])
        d_residue, d_token, d_chain, same_entity = relative_positions(batch, rows)
        encoding = F.embedding(d_residue, residue) + F.embedding(d_token, token)
        return encoding + F.embedding(d_chain, chain) + same_entity[..., None] * entity
