# SPDX-License-Identifier: Apache-2.0
"""A stack of residual blocks, and what of a block's activations is kept for its gradient.

Randomness inside blocks is counter-based on seed tensors, so recomputation needs no generator state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

# whose results are worth keeping: products and fused ops; elementwise work and norms are always recomputed
COSTLY = (
    "aten::mm", "aten::addmm", "aten::bmm", "foldwright::transition", "foldwright::triangle_multiplication",
    "foldwright::shared_bias_attention", "foldwright::window_attention", "foldwright::outer_product_mean",
    "foldwright::pair_weighted_average",
)  # fmt: skip


class Recompute(Enum):
    """What the backward pass computes anew.

    `nothing`: every activation is kept. `block`: only the inputs of a block are. `selective`: the results of
    `COSTLY` ops are too, but for those listed. `offload`: as `block`, the inputs wait in the host's memory.
    """

    nothing = "nothing"
    block = "block"
    selective = "selective"
    offload = "offload"


class Stack(nn.Module):
    """Runs blocks in order, each under the stack's policy of recomputation (`set_recomputation`)."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.apply_block: Callable[..., Any] = _plainly

    def __len__(self) -> int:
        return len(self.blocks)

    def run(self, index: int, *inputs: Any) -> Any:
        """Block `index` on its inputs."""
        if torch.is_grad_enabled():
            return self.apply_block(self.blocks[index], *inputs)
        return self.blocks[index](*inputs)


def set_recomputation(model: nn.Module, policy: Recompute, recompute_ops: Iterable[str] = ()) -> None:
    """Set the policy of every Stack of a model; `recompute_ops` are those that `selective` does not keep.

    Raises ValueError for an op that is not among `COSTLY`.
    """
    names = list(recompute_ops)
    if unknown := [name for name in names if name not in COSTLY]:
        raise ValueError(f"recompute: got the op {unknown[0]!r}, expected some of {', '.join(COSTLY)}")
    choices: dict[Recompute, Callable[..., Any]] = {
        Recompute.nothing: _plainly,
        Recompute.block: _recomputed,
        Recompute.selective: partial(_selectively, frozenset(COSTLY) - set(names)),
        Recompute.offload: _offloaded,
    }
    for module in model.modules():
        if isinstance(module, Stack):
            module.apply_block = choices[policy]


def _plainly(block: nn.Module, *inputs: Any) -> Any:
    return block(*inputs)


def _recomputed(block: nn.Module, *inputs: Any) -> Any:
    return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)


def _offloaded(block: nn.Module, *inputs: Any) -> Any:
    with save_on_cpu(pin_memory=torch.cuda.is_available()):
        return _recomputed(block, *inputs)


def _selectively(kept: frozenset[str], block: nn.Module, *inputs: Any) -> Any:
    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return create_selective_checkpoint_contexts(partial(_policy, kept))

    return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def _policy(kept: frozenset[str], context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    name = op.name().split(".")[0]
    return CheckpointPolicy.MUST_SAVE if name in kept else CheckpointPolicy.PREFER_RECOMPUTE
