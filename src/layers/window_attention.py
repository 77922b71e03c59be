# SPDX-License-Identifier: Apache-2.0
"""Conditioned attention in windows of atoms (AF3 Algorithms 7 and 24).

As in DeepMind's code queries and keys have AdaLNs of their own, both on the raw activations. Keys and values
are projected once an atom, then gathered into windows.
"""

from __future__ import annotations

from torch import Tensor

from foldwright.kernels import Ops
from foldwright.layers.attention import Attention
from foldwright.layers.linear import Linear
from foldwright.layers.norm import AdaLN


class WindowAttention(Attention):
    """With its residual: q [B, D, A, c] given what `condition` makes of c_l -> q."""

    def __init__(self, channels: int, heads: int, ops: Ops) -> None:
        super().__init__(channels, heads, ops)
        self.adaln_query = AdaLN(channels, channels, ops)
        self.adaln_key = AdaLN(channels, channels, ops)
        self.out_gate = Linear(channels, channels, bias=True, init="adaln_zero_gate")

    def condition(self, c_atoms: Tensor) -> tuple[Tensor, ...]:
        """Of c_l [B, 1 or D, A, c]: of the two AdaLNs, and the logits of the output's gate."""
        of_key = self.adaln_key.condition(c_atoms)
        return self.adaln_query.condition(c_atoms), of_key, self.out_gate(c_atoms)

    def forward(self, q_atoms: Tensor, given: tuple[Tensor, ...], bias: Tensor) -> Tensor:
        """bias [B, W, H, 32, 128], the key mask folded in."""
        of_query, of_key, out_gate = given
        queries = self.adaln_query(q_atoms, of_query)
        q = self.query(queries).unflatten(-1, (self.heads, -1))
        keys_values = self.key_value(self.adaln_key(q_atoms, of_key))
        k, v = keys_values.unflatten(-1, (2, self.heads, -1)).unbind(-3)
        out = self.ops.window_attention(q, k, v, bias, self.gate(queries))
        return self.ops.gated_residual(q_atoms, self.out(out), out_gate)
