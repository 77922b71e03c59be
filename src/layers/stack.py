# SPDX-License-Identifier: Apache-2.0
"""A stack of residual blocks, each optionally recomputed in the backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Stack(nn.Module):
    """Runs blocks in order. With `checkpoint`, a block keeps only its inputs and is recomputed for its
    gradient.

    Randomness inside blocks is counter-based on seed tensors, so no generator state needs keeping.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.checkpoint = False

    def __len__(self) -> int:
        return len(self.blocks)

    def run(self, index: int, *inputs: Any) -> Any:
        """Block `index` on its inputs."""
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(self.blocks[index], *inputs, use_reentrant=False, preserve_rng_state=False)
        return self.blocks[index](*inputs)


def set_checkpointing(model: nn.Module, enabled: bool) -> None:
    """Turn block checkpointing of every Stack of a model on or off."""
    for module in model.modules():
        if isinstance(module, Stack):
            module.checkpoint = enabled
