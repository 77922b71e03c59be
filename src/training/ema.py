# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average of the weights (AF3 SI 5.4: decay 0.999, from step 0).

The average is a frozen second copy of the network, sharded exactly like it, so that the update touches local
shards alone and the copy is checkpointed and sampled from like any network.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Network = TypeVar("Network", bound=nn.Module)


@dataclass
class EmaConfig:
    """After each update: average = decay * average + (1 - decay) * weights."""

    decay: float = 0.999


def averaged_copy(network: Network) -> Network:
    """A frozen copy of a network that is not sharded yet."""
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move every float tensor of `average` towards `network` in place; other buffers are copied."""
    means = [local_tensor(tensor) for tensor in _tensors(average)]
    values = [local_tensor(tensor) for tensor in _tensors(network)]
    torch._foreach_lerp_(
        [mean for mean in means if mean.is_floating_point()],
        [value for value in values if value.is_floating_point()],
        1.0 - decay,
    )
    for mean, value in zip(means, values, strict=True):
        if not mean.is_floating_point():
            mean.copy_(value)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def local_tensor(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()
