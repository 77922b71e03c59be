# SPDX-License-Identifier: Apache-2.0
"""The Pairformer stack (AF3 Algorithm 17)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from foldwright.kernels import Ops
from foldwright.layers.attention import AttentionPairBias, PairBias, mask_bias
from foldwright.layers.stack import Stack
from foldwright.layers.transition import Transition
from foldwright.layers.widths import Widths
from foldwright.pairformer.triangle import PairStack
from foldwright.randomness import random_bits


@dataclass
class PairformerConfig:
    """Defaults: AF3's trunk."""

    blocks: int = 48
    pair_heads: int = 4  # of width c_z / pair_heads
    single_heads: int = 16
    expansion: int = 4
    dropout: float = 0.25  # row- and column-wise, on the pairs; none on the single track


class PairformerBlock(nn.Module):
    """One block of AF3 Algorithm 17. The single representation never updates the pairs."""

    def __init__(self, config: PairformerConfig, widths: Widths, ops: Ops) -> None:
        super().__init__()
        c_z, c_s = widths.pair, widths.single
        self.pair_stack = PairStack(
            c_z, config.pair_heads, c_z // config.pair_heads, config.expansion, config.dropout, ops
        )
        self.pair_bias = PairBias(c_z, config.single_heads, ops)
        self.attention = AttentionPairBias(c_s, config.single_heads, ops)
        self.transition = Transition(c_s, config.expansion, ops)

    def forward(
        self, s: Tensor, z: Tensor, token_mask: Tensor, key_bias: Tensor, seeds: Tensor
    ) -> tuple[Tensor, Tensor]:
        """s [B, N, c_s], z [B, N, N, c_z], token_mask [B, N], key_bias [B, 1, 1, N], seeds int64 [B, 4]."""
        z = self.pair_stack(z, token_mask, key_bias, seeds)
        s = s + self.attention(s[:, None], self.pair_bias(z, key_bias))[:, 0]
        return self.transition(s), z


class PairformerStack(Stack):
    """AF3 Algorithm 17: s [B, N, c_s], z [B, N, N, c_z] -> the same. Identity at initialisation."""

    def __init__(self, config: PairformerConfig, widths: Widths, ops: Ops) -> None:
        super().__init__(PairformerBlock(config, widths, ops) for _ in range(config.blocks))

    def forward(self, s: Tensor, z: Tensor, token_mask: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """token_mask [B, N]; seed int64 [B]: key of this pass's dropout."""
        seeds = random_bits(seed, (len(self), PairStack.n_seeds))
        key_bias = mask_bias(token_mask, z.dtype)
        for index in range(len(self)):
            s, z = self.run(index, s, z, token_mask, key_bias, seeds[:, index])
        return s, z
