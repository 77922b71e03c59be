# SPDX-License-Identifier: Apache-2.0
"""The MSA module (AF3 Algorithms 8, 9 and 10)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foldwright.batch import Batch
from foldwright.kernels import Ops
from foldwright.layers.attention import mask_bias
from foldwright.layers.linear import Linear
from foldwright.layers.norm import LayerNorm
from foldwright.layers.stack import Stack
from foldwright.layers.transition import Transition
from foldwright.layers.widths import Widths
from foldwright.pairformer.triangle import ROW, PairStack, added
from foldwright.randomness import random_bits
from foldwright.vocabulary import N_RESTYPES


@dataclass
class MSAConfig:
    """Defaults: AF3's. Algorithm 8 passes a head width of 8 to Algorithm 10 (whose own default is 32)."""

    blocks: int = 4
    c_outer: int = 32
    heads: int = 8
    c_head: int = 8
    pair_heads: int = 4
    expansion: int = 4
    dropout: float = 0.15
    pair_dropout: float = 0.25


class OuterProductMean(nn.Module):
    """AF3 Algorithm 9; update of z [B, N, N, c_z] from m [B, M, N, c_m]. Zero at initialisation."""

    def __init__(self, c_m: int, c_z: int, c_outer: int, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.norm = LayerNorm(c_m, ops)
        self.linear_in = Linear(c_m, 2 * c_outer)
        self.linear_out = Linear(c_outer * c_outer, c_z, bias=True, init="zero")

    def forward(self, m: Tensor, row_mask: Tensor) -> Tensor:
        a, b = self.linear_in(self.norm(m)).chunk(2, dim=-1)
        return self.ops.outer_product_mean(a, b, row_mask, self.linear_out.weight, self.linear_out.bias)


class MSAPairWeightedAveraging(nn.Module):
    """AF3 Algorithm 10; update of m [B, M, N, c_m]. Zero at initialisation."""

    def __init__(self, c_m: int, c_z: int, heads: int, c_head: int, ops: Ops) -> None:
        super().__init__()
        self.ops, self.heads = ops, heads
        self.norm_m = LayerNorm(c_m, ops)
        self.norm_z = LayerNorm(c_z, ops)
        self.value = Linear(c_m, heads * c_head)
        self.gate = Linear(c_m, heads * c_head, init="zero")
        self.weight = Linear(c_z, heads)
        self.out = Linear(heads * c_head, c_m, init="zero")

    def forward(self, m: Tensor, z: Tensor, key_bias: Tensor) -> Tensor:
        m = self.norm_m(m)
        v = self.value(m).unflatten(-1, (self.heads, -1))
        norm = self.norm_z
        logits = self.ops.pair_bias(z, norm.weight, norm.bias, self.weight.weight, key_bias)
        return self.out(self.ops.pair_weighted_average(v, logits, self.gate(m)))


class MSABlock(nn.Module):
    """One block of AF3 Algorithm 8. The last block has no update of m: it would be discarded."""

    n_seeds = 1 + PairStack.n_seeds

    def __init__(self, config: MSAConfig, widths: Widths, ops: Ops, *, last: bool) -> None:
        super().__init__()
        self.ops, self.dropout = ops, config.dropout
        c_m, c_z = widths.msa, widths.pair
        self.outer_product_mean = OuterProductMean(c_m, c_z, config.c_outer, ops)
        self.averaging = (
            None if last else MSAPairWeightedAveraging(c_m, c_z, config.heads, config.c_head, ops)
        )
        self.transition = None if last else Transition(c_m, config.expansion, ops)
        self.pair_stack = PairStack(
            c_z, config.pair_heads, c_z // config.pair_heads, config.expansion, config.pair_dropout, ops
        )

    def forward(
        self, m: Tensor, z: Tensor, row_mask: Tensor, token_mask: Tensor, key_bias: Tensor, seeds: Tensor
    ) -> tuple[Tensor, Tensor]:
        z = added(z, self.outer_product_mean(m, row_mask))
        if self.averaging is not None and self.transition is not None:
            rate = self.dropout if self.training else 0.0
            m = self.ops.dropout_residual(m, self.averaging(m, z, key_bias), seeds[:, 0], rate, ROW)
            m = self.transition(m)
        return m, self.pair_stack(z, token_mask, key_bias, seeds[:, 1:])


def msa_features(batch: Batch, cycle: int, dtype: torch.dtype) -> Tensor:
    """restype one-hot, has_deletion, deletion_value of one cycle's rows: [B, M, N, 34] (AF3 SI Table 5)."""
    deletions = batch.deletion_count[:, cycle].to(torch.float32)
    has_deletion, value = deletions.clamp(max=1.0), (2.0 / math.pi) * torch.atan(deletions / 3.0)
    one_hot = F.one_hot(batch.msa[:, cycle].long(), N_RESTYPES)
    return torch.cat([one_hot.to(dtype), torch.stack([has_deletion, value], -1).to(dtype)], -1)


class MSAModule(Stack):
    """AF3 Algorithm 8: z [B, N, N, c_z] -> z, from the MSA rows drawn for one recycling cycle."""

    def __init__(self, config: MSAConfig, widths: Widths, ops: Ops) -> None:
        last = config.blocks - 1
        super().__init__(MSABlock(config, widths, ops, last=i == last) for i in range(config.blocks))
        self.embed_msa = Linear(N_RESTYPES + 2, widths.msa)
        self.embed_single = Linear(widths.single_inputs, widths.msa)

    def forward(self, batch: Batch, cycle: int, z: Tensor, s_inputs: Tensor, seed: Tensor) -> Tensor:
        m = self.embed_msa(msa_features(batch, cycle, z.dtype)) + self.embed_single(s_inputs)[:, None]
        seeds = random_bits(seed, (len(self), MSABlock.n_seeds))
        key_bias = mask_bias(batch.token_mask, z.dtype)
        for index in range(len(self)):
            m, z = self.run(
                index, m, z, batch.msa_mask[:, cycle], batch.token_mask, key_bias, seeds[:, index]
            )
        return z
