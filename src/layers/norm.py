# SPDX-License-Identifier: Apache-2.0
"""LayerNorm and adaptive LayerNorm (AF3 Algorithm 26)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foldwright.kernels import Ops
from foldwright.layers.linear import Linear, linear_of_several


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, eps 1e-5, float32 statistics. Offset optional, as the paper says."""

    def __init__(self, channels: int, ops: Ops, *, offset: bool = True) -> None:
        super().__init__()
        self.ops = ops
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if offset else None

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.layer_norm(x, self.weight, self.bias)


class AdaLN(nn.Module):
    """AF3 Algorithm 26 in two halves: `condition` reads s alone, and may run ahead of all that reads a too.

    Starts as LN(a) / 2.
    """

    def __init__(self, c_a: int, c_s: int, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.norm_s = LayerNorm(c_s, ops, offset=False)
        self.scale = Linear(c_s, c_a, bias=True, init="zero")
        self.shift = Linear(c_s, c_a, init="zero")

    def condition(self, s: Tensor) -> Tensor:
        """s [..., c_s] -> [..., 2 c_a]: logits of the gate, then the shift."""
        return linear_of_several(self.norm_s(s), [self.scale.weight, self.shift.weight], self.scale.bias)

    def forward(self, a: Tensor, g: Tensor) -> Tensor:
        """a [B, D, N, c_a], g [B, 1 or D, N, 2 c_a] of `condition` -> [B, D, N, c_a] in the dtype of g."""
        return self.ops.adaptive_layer_norm(a, g)
