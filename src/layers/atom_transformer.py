# SPDX-License-Identifier: Apache-2.0
"""The atom transformer (AF3 Algorithm 7 with 23 to 25): conditioned attention in windows of atoms.

As in DeepMind's code queries and keys have AdaLNs of their own, both on the raw activations. Keys and values
are projected once an atom, then gathered into windows. Both branches are residual (Algorithm 23 as printed is
not).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from foldwright.kernels import Ops
from foldwright.layers.attention import PairBiases
from foldwright.layers.linear import Linear
from foldwright.layers.norm import AdaLN
from foldwright.layers.stack import Stack
from foldwright.layers.transition import ConditionedTransition
from foldwright.layers.widths import Widths


@dataclass
class AtomTransformerConfig:
    """Defaults: AF3's."""

    blocks: int = 3
    heads: int = 4
    expansion: int = 2


class WindowAttention(nn.Module):
    """AF3 Algorithm 24 in windows, with its residual: q [B, D, A, c] given c_l [B, 1 or D, A, c] -> q."""

    def __init__(self, channels: int, heads: int, ops: Ops) -> None:
        super().__init__()
        self.ops, self.heads = ops, heads
        self.adaln_query = AdaLN(channels, channels, ops)
        self.adaln_key = AdaLN(channels, channels, ops)
        self.query = Linear(channels, channels, bias=True)
        self.key_value = Linear(channels, 2 * channels)
        self.gate = Linear(channels, channels, init="zero")
        self.out = Linear(channels, channels)
        self.out_gate = Linear(channels, channels, bias=True, init="adaln_zero_gate")

    def forward(self, q_atoms: Tensor, c_atoms: Tensor, bias: Tensor) -> Tensor:
        """bias [B, W, H, 32, 128], the key mask folded in."""
        queries = self.adaln_query(q_atoms, c_atoms)
        q = self.query(queries).unflatten(-1, (self.heads, -1))
        keys_values = self.key_value(self.adaln_key(q_atoms, c_atoms))
        k, v = keys_values.unflatten(-1, (2, self.heads, -1)).unbind(-3)
        out = self.ops.window_attention(q, k, v, bias, self.gate(queries))
        return self.ops.gated_residual(q_atoms, self.out(out), self.out_gate(c_atoms))


class AtomTransformerBlock(nn.Module):
    """One block: windowed attention, then the conditioned transition."""

    def __init__(self, config: AtomTransformerConfig, channels: int, ops: Ops) -> None:
        super().__init__()
        self.attention = WindowAttention(channels, config.heads, ops)
        self.transition = ConditionedTransition(channels, channels, config.expansion, ops)

    def forward(self, q: Tensor, c: Tensor, bias: Tensor) -> Tensor:
        return self.transition(self.attention(q, c, bias), c)


class AtomTransformer(Stack):
    """AF3 Algorithm 7. The bias maps depend on the atom pairs alone: `pair_bias` makes them once for all
    samples.
    """

    def __init__(self, config: AtomTransformerConfig, widths: Widths, ops: Ops) -> None:
        super().__init__(AtomTransformerBlock(config, widths.atom, ops) for _ in range(config.blocks))
        self.pair_bias = PairBiases(widths.atom_pair, config.heads, ops, blocks=config.blocks)

    def forward(self, q: Tensor, c: Tensor, biases: list[Tensor]) -> Tensor:
        """q [B, D, A, c_atom], c [B, 1 or D, A, c_atom], biases: one [B, W, H, 32, 128] a block."""
        for index in range(len(self)):
            q = self.run(index, q, c, biases[index])
        return q
