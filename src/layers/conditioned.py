# SPDX-License-Identifier: Apache-2.0
"""The conditioned transformer (AF3 Algorithm 23), over tokens or over atoms in windows.

What a block reads of its conditioning alone is apart from the rest, in `condition`. Training makes it with
each block, where it is recomputed like the rest; sampling makes it ahead, of several noise levels at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, nn

from foldwright.layers.attention import ConditionedAttentionPairBias, PairBiases
from foldwright.layers.stack import Stack
from foldwright.layers.transition import ConditionedTransition
from foldwright.layers.window_attention import WindowAttention

Given = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""What a block makes of its conditioning: for its attention and for its transition."""


def at_level(given: Given, level: int) -> Given:
    """Of what was made of several noise levels [B, T, N, ...] that of one, [B, 1, N, ...]."""
    attention, transition = given
    return tuple(x[:, level, None] for x in attention), tuple(x[:, level, None] for x in transition)


class ConditionedBlock(nn.Module):
    """One block of AF3 Algorithm 23, with the residuals that its print lacks."""

    def __init__(
        self, attention: ConditionedAttentionPairBias | WindowAttention, transition: ConditionedTransition
    ) -> None:
        super().__init__()
        self.attention = attention
        self.transition = transition

    def condition(self, s: Tensor) -> Given:
        """s [B, 1 or D, N, c_s]; every tensor of the result has its leading axes."""
        return _given(self, s)

    def forward(self, a: Tensor, s: Tensor | Given, bias: Tensor) -> Tensor:
        """a [B, D, N, c] residual stream; s [B, 1 or D, N, c_s], or what `condition` made of it; the bias map
        of its attention.
        """
        attention, transition = _given(self, s) if isinstance(s, Tensor) else s
        return self.transition(self.attention(a, attention, bias), transition)


def _given(block: ConditionedBlock, s: Tensor) -> Given:
    return block.attention.condition(s), block.transition.condition(s)


class ConditionedTransformer(Stack):
    """AF3 Algorithm 23 (Algorithm 7 with blocks of atoms). The bias maps depend on the pairs alone:
    `pair_bias` makes those of all blocks, once for all samples.
    """

    def __init__(self, blocks: Iterable[ConditionedBlock], pair_bias: PairBiases) -> None:
        super().__init__(blocks)
        self.pair_bias = pair_bias

    def condition(self, s: Tensor) -> list[Given]:
        """Of every block, what it makes of s [B, 1 or D, N, c_s]."""
        blocks = cast(Iterable[ConditionedBlock], self.blocks)
        return [block.condition(s) for block in blocks]

    def forward(self, a: Tensor, s: Tensor | Sequence[Given], biases: Sequence[Tensor]) -> Tensor:
        """a [B, D, N, c] residual stream; s [B, 1 or D, N, c_s], or what `condition` made of it; biases: one
        a block.
        """
        for index in range(len(self)):
            a = self.run(index, a, s if isinstance(s, Tensor) else s[index], biases[index])
        return a
