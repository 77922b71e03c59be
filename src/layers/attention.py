# SPDX-License-Identifier: Apache-2.0
"""Attention with pair bias (AF3 Algorithm 24), its bias maps, and its adaptively conditioned form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foldwright.kernels import Ops
from foldwright.kernels.reference import MASKED, linear
from foldwright.layers.linear import Init, Linear, initialise, linear_of_several
from foldwright.layers.norm import AdaLN, LayerNorm
from foldwright.layers.tensor_parallel import WHOLE


def mask_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Key mask [..., K] as an additive bias [..., 1, 1, K]: 0 for keys that count, -1e9 for the others."""
    return ((~mask).to(dtype) * MASKED)[..., None, None, :]


class PairBias(nn.Module):
    """The bias map of one attention block, LinearNoBias(LN(z))."""

    def __init__(self, c_z: int, heads: int, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.scale = nn.Parameter(torch.empty(1, c_z))  # of LN; a row a block, as in PairBiases
        self.offset = nn.Parameter(torch.empty(1, c_z))
        self.weight = nn.Parameter(torch.empty(heads, c_z))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.offset)
        initialise(self.weight, "default")

    def forward(self, z: Tensor, key_bias: Tensor) -> Tensor:
        """z [B, N, N, c_z], key_bias [B, 1, 1, N] -> [B, H, N, N] in the dtype of z."""
        return self.ops.pair_bias(z, self.scale[0], self.offset[0], self.weight, key_bias)


class PairBiases(nn.Module):
    """Bias maps of several attention blocks from one pair tensor: LinearNoBias(LN(z)) a block.

    z is normalised once; each block's LN scale is folded into its projection, so all maps come from one
    product. The same numbers as one LN without offset and one projection a block.
    """

    def __init__(self, c_z: int, heads: int, ops: Ops, *, blocks: int) -> None:
        super().__init__()
        self.ops, self.heads, self.blocks = ops, heads, blocks
        self.scale = nn.Parameter(torch.empty(blocks, c_z))
        self.weight = nn.Parameter(torch.empty(blocks * heads, c_z))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)
        initialise(self.weight, "default")

    def forward(self, z: Tensor, key_mask: Tensor) -> list[Tensor]:
        """z [B, ..., Q, K, c_z], key_mask [B, ..., K] -> `blocks` maps [B, ..., H, Q, K] in the dtype of
        z.
        """
        weight = self.weight.unflatten(0, (self.blocks, self.heads))
        folded = (weight * self.scale[:, None]).to(z.dtype)
        normed = self.ops.layer_norm(z, None, None).flatten(-3, -2).flatten(0, -3)
        mask = mask_bias(key_mask, z.dtype)[..., None, :, :, :]
        # without gradient a block at a time: of whole targets all maps, twice over, are too much
        step = self.blocks if torch.is_grad_enabled() else 1
        maps: list[Tensor] = []
        for start in range(0, self.blocks, step):
            own = slice(start, start + step)
            weights = folded[own].flatten(0, 1).expand(len(normed), -1, -1)
            product = torch.bmm(weights, normed.mT)  # heads first, as the maps lie: nothing is turned
            several = product.view(*z.shape[:-3], step, self.heads, *z.shape[-3:-1]) + mask
            maps += [bias_map.contiguous() for bias_map in several.unbind(-4)]
        return maps


class Attention(nn.Module):
    """What every attention of AF3 Algorithm 24 projects: queries, keys with values, gate and output."""

    def __init__(self, channels: int, heads: int, ops: Ops, *, out: Init = "default") -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(
                f"heads: got {heads} for {channels} channels, expected a divisor; change one of both"
            )
        self.ops, self.heads = ops, heads
        self.query = Linear(channels, channels, bias=True)
        self.key_value = Linear(channels, 2 * channels)
        self.gate = Linear(channels, channels, init="zero")
        self.out = Linear(channels, channels, init=out)


class _TokenAttention(Attention):
    """Its core over all tokens, whose heads ranks may share."""

    split = WHOLE

    def divided(self) -> dict[str, int]:
        return {"heads": self.heads}

    def attend(self, x: Tensor, bias: Tensor) -> Tensor:
        """Of normalised x [B, D, N, c]; bias [B, H, N, N]."""
        split, heads = self.split, self.heads // self.split.size
        x = split.enter(x)
        assert self.query.bias is not None
        weights = [
            split.rows(self.query.weight),
            split.rows(self.key_value.weight, pieces=2),
            split.rows(self.gate.weight),
        ]
        packed = linear_of_several(x, weights, split.rows(self.query.bias)).unflatten(-1, (4, heads, -1))
        out = self.ops.attention_pair_bias(packed, split.own(bias, dim=1))
        return split.leave(linear(out, split.columns(self.out.weight)))


class AttentionPairBias(_TokenAttention):
    """AF3 Algorithm 24 without conditioning; returns the update of a [B, D, N, c]. Zero at initialisation."""

    def __init__(self, channels: int, heads: int, ops: Ops) -> None:
        super().__init__(channels, heads, ops, out="zero")
        self.norm = LayerNorm(channels, ops)

    def forward(self, a: Tensor, bias: Tensor) -> Tensor:
        """bias [B, H, N, N] from PairBias, the key mask folded in."""
        return self.attend(self.norm(a), bias)


class ConditionedAttentionPairBias(_TokenAttention):
    """AF3 Algorithm 24 with AdaLN and residual: a [B, D, N, c_a] given what `condition` makes of s -> a.

    The output projection has the normal initialisation, the gate starts at σ(-2) (as DeepMind's code).
    """

    def __init__(self, c_a: int, c_s: int, heads: int, ops: Ops) -> None:
        super().__init__(c_a, heads, ops)
        self.adaln = AdaLN(c_a, c_s, ops)
        self.out_gate = Linear(c_s, c_a, bias=True, init="adaln_zero_gate")

    def condition(self, s: Tensor) -> tuple[Tensor, ...]:
        """Of s [B, 1 or D, N, c_s]: of the AdaLN, and the logits of the output's gate."""
        return self.adaln.condition(s), self.out_gate(s)

    def forward(self, a: Tensor, given: tuple[Tensor, ...], bias: Tensor) -> Tensor:
        of_adaln, out_gate = given
        return self.ops.gated_residual(a, self.attend(self.adaln(a, of_adaln), bias), out_gate)
