# SPDX-License-Identifier: Apache-2.0
"""The template embedder (AF3 Algorithm 16).

Readings: "=" instead of "+=" in line 9; four heads of 16; the mean runs over real templates only, so a batch
without templates adds exactly zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foldwright.batch import Batch
from foldwright.geometry import frames, pairwise_distances, to_frames
from foldwright.kernels import Ops
from foldwright.layers.attention import mask_bias
from foldwright.layers.linear import Linear
from foldwright.layers.norm import LayerNorm
from foldwright.layers.relative_position import ALL
from foldwright.layers.stack import Stack
from foldwright.layers.widths import Widths
from foldwright.pairformer.triangle import PairStack, added
from foldwright.randomness import random_bits
from foldwright.vocabulary import N_RESTYPES

N_BINS, FIRST_BIN, BIN_WIDTH = 39, 3.25, 1.25  # 38 bins of 1.25 Å from 3.25 to 50.75 and one beyond
N_PAIR_FEATURES = N_BINS + 1 + 3 + 1
_ROWS = 1024  # of pairs whose features are there at once without gradient


@dataclass
class TemplateConfig:
    """Defaults: AF3 with DeepMind's head width (4 x 16) and transition factor 2."""

    blocks: int = 2
    channels: int = 64
    heads: int = 4
    expansion: int = 2
    dropout: float = 0.25


def template_pair_features(batch: Batch, template: int, rows: slice = ALL) -> Tensor:
    """distogram, pseudo-beta mask, unit vectors, frame mask, zero across chains: float32 [B, n, N, 44] of n
    rows, of all by default.
    """
    beta_mask = batch.template_pseudo_beta_mask[:, template]
    frame_mask = batch.template_backbone_mask[:, template]
    beta = batch.template_pseudo_beta[:, template]
    distance = pairwise_distances(beta, rows)
    bins = torch.floor((distance - FIRST_BIN) / BIN_WIDTH).clamp(max=N_BINS - 1)
    one_hot = bins[..., None] == torch.arange(N_BINS, device=bins.device)  # none below the first bin
    beta_pair = (beta_mask[:, rows, None] & beta_mask[:, None, :])[..., None].float()
    atoms = batch.template_backbone[:, template]
    own = atoms[:, rows]
    rotation, origin = frames(own[:, :, 0], own[:, :, 1], own[:, :, 2])
    local = to_frames(rotation, origin, atoms[:, :, 1])
    unit = local / (local.square().sum(-1, keepdim=True) + 1e-10).sqrt()
    frame_pair = (frame_mask[:, rows, None] & frame_mask[:, None, :])[..., None].float()
    same_chain = (batch.asym_id[:, rows, None] == batch.asym_id[:, None, :])[..., None]
    return torch.cat([one_hot * beta_pair, frame_pair, unit * frame_pair, beta_pair], -1) * same_chain


class TemplateEmbedder(nn.Module):
    """AF3 Algorithm 16: the update of z [B, N, N, c_z]."""

    def __init__(self, config: TemplateConfig, widths: Widths, ops: Ops) -> None:
        super().__init__()
        c, heads = config.channels, config.heads
        self.norm_z = LayerNorm(widths.pair, ops)
        self.embed_z = Linear(widths.pair, c)
        self.embed_pair = Linear(N_PAIR_FEATURES, c)
        self.embed_restype_i = Linear(N_RESTYPES, c)
        self.embed_restype_j = Linear(N_RESTYPES, c)
        self.stack = Stack(
            PairStack(c, heads, c // heads, config.expansion, config.dropout, ops)
            for _ in range(config.blocks)
        )
        self.norm_out = LayerNorm(c, ops)
        self.out = Linear(c, widths.pair, init="relu")

    def forward(self, batch: Batch, z: Tensor, seed: Tensor) -> Tensor:
        n_templates = batch.template_mask.shape[1]
        seeds = random_bits(seed, (n_templates, len(self.stack), PairStack.n_seeds))
        embedded_z = self.embed_z(self.norm_z(z))
        total = torch.zeros_like(embedded_z)
        for template in range(n_templates):
            total = added(total, self._one(batch, template, embedded_z, seeds[:, template]))
        count = batch.template_mask.sum(1).clamp(min=1)[:, None, None, None].to(z.dtype)
        return self.out(F.relu(total / count))

    def _one(self, batch: Batch, template: int, embedded_z: Tensor, seeds: Tensor) -> Tensor:
        """LN of the pair stack's output for one template [B, N, N, c], zero where the template is padding."""
        dtype = embedded_z.dtype
        restype = F.one_hot(batch.template_restype[:, template].long(), N_RESTYPES).to(dtype)
        v = embedded_z + self._embed_pairs(batch, template, dtype)
        v = v + self.embed_restype_i(restype)[:, :, None] + self.embed_restype_j(restype)[:, None, :]
        key_bias = mask_bias(batch.token_mask, dtype)
        for index in range(len(self.stack)):
            v = self.stack.run(index, v, batch.token_mask, key_bias, seeds[:, index])
        return self.norm_out(v) * batch.template_mask[:, template, None, None, None]

    def _embed_pairs(self, batch: Batch, template: int, dtype: torch.dtype) -> Tensor:
        """The template's own part of the pairs [B, N, N, c]; without gradient some rows at a time."""
        n = batch.token_mask.shape[1]
        step = n if torch.is_grad_enabled() else _ROWS
        portions = (slice(start, start + step) for start in range(0, n, step))
        features = (template_pair_features(batch, template, rows).to(dtype) for rows in portions)
        return torch.cat([self.embed_pair(portion) for portion in features], dim=1)
