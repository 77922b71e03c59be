# SPDX-License-Identifier: Apache-2.0
"""SwiGLU transitions (AF3 Algorithms 11 and 25)."""

from __future__ import annotations

from torch import Tensor, nn

from foldwright.kernels import Ops
from foldwright.kernels.reference import linear
from foldwright.layers.linear import Linear
from foldwright.layers.norm import AdaLN, LayerNorm
from foldwright.layers.tensor_parallel import WHOLE


class Transition(nn.Module):
    """AF3 Algorithm 11 with its residual: x [..., c] -> x + update. The identity at initialisation."""

    def __init__(self, channels: int, expansion: int, ops: Ops) -> None:
        super().__init__()
        self.ops, self.split = ops, WHOLE
        self.norm = LayerNorm(channels, ops)
        self.linear_in = Linear(channels, 2 * expansion * channels, init="relu")
        self.linear_out = Linear(expansion * channels, channels, init="zero")

    def forward(self, x: Tensor) -> Tensor:
        split = self.split
        assert self.norm.bias is not None
        out = self.ops.transition(
            split.enter(x),
            split.weight(self.norm.weight),
            split.weight(self.norm.bias),
            split.rows(self.linear_in.weight, pieces=2),
            split.columns(self.linear_out.weight),
            1.0 / split.size,
        )
        return split.leave(out)

    def divided(self) -> dict[str, int]:
        return {"hidden channels": self.linear_out.weight.shape[1]}


class ConditionedTransition(nn.Module):
    """AF3 Algorithm 25 with its residual: a [B, D, N, c_a] given what `condition` makes of s -> a."""

    def __init__(self, c_a: int, c_s: int, expansion: int, ops: Ops) -> None:
        super().__init__()
        self.ops, self.split = ops, WHOLE
        self.adaln = AdaLN(c_a, c_s, ops)
        self.linear_in = Linear(c_a, 2 * expansion * c_a, init="relu")
        self.linear_out = Linear(expansion * c_a, c_a)
        self.gate = Linear(c_s, c_a, bias=True, init="adaln_zero_gate")

    def condition(self, s: Tensor) -> tuple[Tensor, ...]:
        """Of s [B, 1 or D, N, c_s]: of the AdaLN, and the logits of the output's gate."""
        return self.adaln.condition(s), self.gate(s)

    def forward(self, a: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        of_adaln, gate = given
        x = self.split.enter(self.adaln(a, of_adaln))
        hidden = self.ops.swiglu(linear(x, self.split.rows(self.linear_in.weight, pieces=2)))
        update = self.split.leave(linear(hidden, self.split.columns(self.linear_out.weight)))
        return self.ops.gated_residual(a, update, gate)

    def divided(self) -> dict[str, int]:
        return {"hidden channels": self.linear_out.weight.shape[1]}
