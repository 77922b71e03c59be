# SPDX-License-Identifier: Apache-2.0
"""Sequence-local atom windows (AF3 Algorithm 7): 32 queries against the 128 keys centred on them.

Window w holds queries [32 w, 32 w + 32) and keys [32 w - 48, 32 w + 80); keys beyond either end are masked.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

QUERIES, KEYS = 32, 128
_MARGIN = (KEYS - QUERIES) // 2


def n_windows(n_atoms: int) -> int:
    """Number of windows; the atom axis must be padded to a multiple of 32."""
    if n_atoms % QUERIES:
        raise ValueError(f"got {n_atoms} atoms, expected a multiple of {QUERIES}: pad with batch.collate and "
                         "atom buckets that are multiples of it")  # fmt: skip
    return n_atoms // QUERIES


def query_windows(x: Tensor) -> Tensor:
    """[..., A, C] -> [..., W, 32, C]."""
    return x.unflatten(-2, (n_windows(x.shape[-2]), QUERIES))


def key_windows(x: Tensor) -> Tensor:
    """[..., A, C] -> [..., W, 128, C], zero outside the atom list."""
    n_windows(x.shape[-2])
    padded = F.pad(x, (0, 0, _MARGIN, _MARGIN))
    return padded.unfold(-2, KEYS, QUERIES).transpose(-1, -2)


def key_mask(atom_mask: Tensor) -> Tensor:
    """[B, A] bool -> [B, W, 128]: which keys exist."""
    return key_windows(atom_mask[..., None].to(torch.uint8))[..., 0].bool()
