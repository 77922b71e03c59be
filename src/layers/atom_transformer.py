# SPDX-License-Identifier: Apache-2.0
"""The atom transformer (AF3 Algorithm 7): the conditioned transformer over atoms, attention in windows.

Both branches are residual (Algorithm 23 as printed is not).
"""

from __future__ import annotations

from dataclasses import dataclass

from foldwright.kernels import Ops
from foldwright.layers.attention import PairBiases
from foldwright.layers.conditioned import ConditionedBlock, ConditionedTransformer
from foldwright.layers.transition import ConditionedTransition
from foldwright.layers.widths import Widths
from foldwright.layers.window_attention import WindowAttention


@dataclass
class AtomTransformerConfig:
    """Defaults: AF3's."""

    blocks: int = 3
    heads: int = 4
    expansion: int = 2


def atom_transformer(config: AtomTransformerConfig, widths: Widths, ops: Ops) -> ConditionedTransformer:
    """q [B, D, A, c_atom] given c_l [B, 1 or D, A, c_atom], bias maps [B, W, H, 32, 128]."""
    c = widths.atom
    blocks = [
        ConditionedBlock(
            WindowAttention(c, config.heads, ops), ConditionedTransition(c, c, config.expansion, ops)
        )
        for _ in range(config.blocks)
    ]
    return ConditionedTransformer(
        blocks, PairBiases(widths.atom_pair, config.heads, ops, blocks=config.blocks)
    )
