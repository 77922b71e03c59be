# SPDX-License-Identifier: Apache-2.0
"""Tensor parallelism: ranks of a group share the hidden channels of transitions and the heads of attention.

Shoeybi et al. 2019 (Megatron-LM): the first projection is split by its outputs and the last by its inputs, so
that one sum over the group ends the layer. Work and activations are split; the weights are not, for FSDP
shards them over all ranks (of the group, too) and gathers a block at a time. So neither their names nor their
shapes, nor checkpoints, know of it. Ops see plain, local tensors.

Gradients of weights are later averaged over all ranks. A rank has but its part of those in here, hence each
is multiplied by the size of the group; all else is computed alike by the whole group.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Split:
    """A rank's part in a group; without a group it does everything, and each method returns its argument."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.size = 1 if group is None else dist.get_world_size(group)
        self.rank = 0 if group is None else dist.get_rank(group)

    def enter(self, x: Tensor) -> Tensor:
        """Activations before the first projection, the same on all ranks; gradients add up."""
        return x if self.group is None else _SumGradients.apply(x, self.group)

    def leave(self, x: Tensor) -> Tensor:
        """The sum of all ranks' outputs of the last projection, in float32 at least."""
        return x if self.group is None else _SumOutputs.apply(x, self.group)

    def own(self, x: Tensor, dim: int) -> Tensor:
        """This rank's part of activations that all ranks have."""
        return x if self.group is None else self._chunk(self.enter(x), dim, 1)

    def weight(self, weight: Tensor) -> Tensor:
        """A weight that acts on split activations, or before them in one op, as a whole."""
        return weight if self.group is None else _ScaledGradient.apply(weight, self.size)

    def rows(self, weight: Tensor, pieces: int = 1) -> Tensor:
        """This rank's outputs of a projection (or of its bias) that consists of equal pieces one above the
        other.
        """
        return weight if self.group is None else self._chunk(self.weight(weight), 0, pieces)

    def columns(self, weight: Tensor) -> Tensor:
        """This rank's inputs of a projection."""
        return weight if self.group is None else self._chunk(self.weight(weight), 1, 1)

    def _chunk(self, x: Tensor, dim: int, pieces: int) -> Tensor:
        parts = x.unflatten(dim, (pieces, self.size, -1))
        return parts.select(dim + 1, self.rank).flatten(dim, dim + 1).contiguous()


WHOLE = Split()


def split_network(network: nn.Module, split: Split) -> None:
    """Share the work of every module that can be; ValueError where its heads or channels do not divide."""
    for name, module in network.named_modules():
        if not hasattr(module, "split"):
            continue
        for what, number in module.divided().items():
            if number % split.size:
                raise ValueError(
                    f"trainer.tensor_parallel: got {split.size}, expected a divisor of the {number} {what} "
                    f"of {name}"
                )
        module.split = split


class _SumGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _sum(gradients[0], ctx.group), None


class _SumOutputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        return _sum(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def _sum(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32), copy=True).contiguous()
    dist.all_reduce(wide, group=group)
    return wide.to(x.dtype)
