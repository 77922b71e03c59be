# SPDX-License-Identifier: Apache-2.0
"""Triangle updates (AF3 Algorithms 12 to 15) and the pair stack that MSA, template and Pairformer blocks
share.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foldwright.kernels import Ops
from foldwright.layers.linear import Linear, linear_of_several
from foldwright.layers.norm import LayerNorm
from foldwright.layers.transition import Transition

_PAIRS = 1 << 21  # whose queries, keys and values are there at once without gradient: 1,448 tokens' pairs
ROW, COLUMN = 1, 2  # axis of z [B, N_i, N_j, C] along which a row-wise or column-wise dropout mask is shared


def added(z: Tensor, update: Tensor) -> Tensor:
    """z + update; without gradient in the memory of z, so that no caller's name keeps the old pairs alive."""
    return z + update if torch.is_grad_enabled() else z.add_(update)


class TriangleMultiplication(nn.Module):
    """AF3 Algorithm 12 (outgoing) or 13 (incoming) with residual and row-wise dropout: z [B, N, N, c] -> the
    same. The identity at initialisation.
    """

    def __init__(self, c_z: int, ops: Ops, *, outgoing: bool) -> None:
        super().__init__()
        self.ops, self.outgoing = ops, outgoing
        self.norm_in = LayerNorm(c_z, ops)
        self.linear_in = Linear(c_z, 4 * c_z)  # gates of a and b, then their values
        self.norm_out = LayerNorm(c_z, ops)
        self.linear_out = Linear(c_z, c_z, init="zero")
        self.gate = Linear(c_z, c_z, init="zero")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gates start at σ(0): the gate half of the fused projection is zero."""
        self.linear_in.weight.data[: self.linear_in.weight.shape[0] // 2] = 0.0

    def forward(self, z: Tensor, token_mask: Tensor, seed: Tensor, rate: float) -> Tensor:
        """seed int64 [B] and rate of the dropout."""
        return self.ops.triangle_multiplication(
            z,
            token_mask,
            self.norm_in.weight,
            self.norm_in.bias,
            self.linear_in.weight,
            self.norm_out.weight,
            self.norm_out.bias,
            self.linear_out.weight,
            self.gate.weight,
            self.outgoing,
            seed,
            rate,
        )


class TriangleAttention(nn.Module):
    """AF3 Algorithm 14 (starting node) with residual and dropout: z [B, N, N, c_z] -> the same. The identity
    at initialisation.

    Algorithm 15 (ending node) is this module on the transposed z, transposed back: `ending` does so, and
    drops columns instead of rows. The bias projection reads LN(z), the same norm as queries, keys and values.
    """

    def __init__(self, c_z: int, heads: int, c_head: int, ops: Ops, *, ending: bool) -> None:
        super().__init__()
        self.ops, self.heads, self.ending = ops, heads, ending
        self.norm = LayerNorm(c_z, ops)
        self.query_key_value = Linear(c_z, 3 * heads * c_head)
        self.bias = Linear(c_z, heads)
        self.gate = Linear(c_z, heads * c_head, init="zero")
        self.out = Linear(heads * c_head, c_z, init="zero")

    def forward(self, z: Tensor, mask_bias: Tensor, seed: Tensor, rate: float) -> Tensor:
        """mask_bias [B, 1, 1, N]: additive key mask of the tokens; seed int64 [B] and rate of the dropout.

        Without gradient some rows at a time: whole targets, not crops, go through it then.
        """
        turned = z.transpose(1, 2) if self.ending else z
        rows = max(1, _PAIRS // (z.shape[0] * z.shape[2]))
        arguments = (turned, self.norm.weight, self.norm.bias, self.bias.weight, mask_bias)
        if torch.is_grad_enabled() or rows >= z.shape[1]:
            out = self._attend(*self.ops.norm_and_pair_bias(*arguments))
        else:
            bias = self.ops.pair_bias(*arguments)
            out = torch.empty_like(turned, memory_format=torch.contiguous_format)
            for own, place in zip(turned.split(rows, dim=1), out.split(rows, dim=1), strict=True):
                place.copy_(self._attend(self.norm(own), bias))
        axis = COLUMN if self.ending else ROW
        out = out.transpose(1, 2) if self.ending else out
        return self.ops.projected_residual(z, out, self.out.weight, seed, rate, axis)

    def _attend(self, z: Tensor, bias: Tensor) -> Tensor:
        """Of normalised rows [B, n, N, c_z], the output not yet projected; bias [B, H, N, N]."""
        packed = linear_of_several(z, (self.query_key_value.weight, self.gate.weight))
        return self.ops.triangle_attention(packed.unflatten(-1, (4, self.heads, -1)), bias)


class PairStack(nn.Module):
    """The five pair updates of a Pairformer block (AF3 Algorithm 17, lines 2 to 6), with residuals and
    dropout.
    """

    n_seeds = 4

    def __init__(self, c_z: int, heads: int, c_head: int, expansion: int, dropout: float, ops: Ops) -> None:
        super().__init__()
        self.ops, self.dropout = ops, dropout
        self.triangle_multiplication_outgoing = TriangleMultiplication(c_z, ops, outgoing=True)
        self.triangle_multiplication_incoming = TriangleMultiplication(c_z, ops, outgoing=False)
        self.triangle_attention_starting = TriangleAttention(c_z, heads, c_head, ops, ending=False)
        self.triangle_attention_ending = TriangleAttention(c_z, heads, c_head, ops, ending=True)
        self.transition = Transition(c_z, expansion, ops)

    def forward(self, z: Tensor, token_mask: Tensor, mask_bias: Tensor, seeds: Tensor) -> Tensor:
        """z [B, N, N, c_z]; seeds int64 [B, 4], one a dropout."""
        rate = self.dropout if self.training else 0.0
        z = self.triangle_multiplication_outgoing(z, token_mask, seeds[:, 0], rate)
        z = self.triangle_multiplication_incoming(z, token_mask, seeds[:, 1], rate)
        z = self.triangle_attention_starting(z, mask_bias, seeds[:, 2], rate)
        z = self.triangle_attention_ending(z, mask_bias, seeds[:, 3], rate)
        return self.transition(z)
