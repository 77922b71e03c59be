# SPDX-License-Identifier: Apache-2.0
"""The input feature embedder (AF3 Algorithm 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foldwright.batch import Batch
from foldwright.kernels import Ops
from foldwright.layers.atom_encoder import AtomAttentionEncoder
from foldwright.layers.atom_transformer import AtomTransformerConfig
from foldwright.layers.widths import Widths
from foldwright.vocabulary import N_RESTYPES


class InputFeatureEmbedder(nn.Module):
    """AF3 Algorithm 2: s_inputs [B, N, c_s_inputs] from atoms, restype, profile and deletion mean."""

    def __init__(self, config: AtomTransformerConfig, widths: Widths, ops: Ops) -> None:
        super().__init__()
        self.encoder = AtomAttentionEncoder(config, widths, widths.single, ops, from_trunk=False)

    def forward(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        atoms = self.encoder.condition(batch, dtype, None, None)
        a, _ = self.encoder(atoms, None)
        restype = F.one_hot(batch.restype.long(), N_RESTYPES).to(dtype)
        return torch.cat(
            [a[:, 0], restype, batch.profile.to(dtype), batch.deletion_mean[..., None].to(dtype)], -1
        )
