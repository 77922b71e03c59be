# SPDX-License-Identifier: Apache-2.0
"""Gradients of a network: zeroed, averaged over ranks, clipped, withheld from the optimiser.

Replicated weights have theirs in one flat buffer, so that each of these is one operation. Parameters keep
their `.grad`, a view of the buffer: a captured backward pass always adds to the same memory, by a few kernels
at its end, and replicas meet once a step, in one all-reduce, whatever their batches were. Sharded weights
have FSDP2's; what it leaves whole on every rank has a buffer like replicated weights.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from foldwright.training.ema import local_tensor
from foldwright.training.parallel import is_distributed


class Gradients(Protocol):
    """Of the parameters that are trained."""

    def zero(self) -> None:
        """Before the first backward pass of a step."""

    def gathered(self) -> AbstractContextManager[None]:
        """Around a backward pass."""
        ...

    def average_over_ranks(self) -> None:
        """After the last: every rank has the mean of all."""

    def clip(self, max_norm: float) -> Tensor:
        """Scale to a global norm of at most `max_norm`; the norm before, a scalar, the same on all ranks."""

    def withhold(self) -> None:
        """No `.grad` until the next `zero`: the optimiser passes over every parameter."""


class FlatGradients:
    """One buffer, on the parameters' device and in their (one) dtype."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        first = self.parameters[0]
        self.flat = torch.zeros(
            sum(p.numel() for p in self.parameters), dtype=first.dtype, device=first.device
        )
        shapes = [p.shape for p in self.parameters]
        pieces = self.flat.split([p.numel() for p in self.parameters])
        self._views = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        self.zero()

    def zero(self) -> None:
        self.flat.zero_()
        for parameter, view in zip(self.parameters, self._views, strict=True):
            parameter.grad = view

    @contextmanager
    def gathered(self) -> Generator[None, None, None]:
        """Adds a backward pass's gradients to the buffer at its end by a few kernels, not by one a parameter.

        Until then they lie beside it: as much memory again, when the activations have gone.
        """
        for parameter in self.parameters:
            parameter.grad = None
        try:
            yield
            found = [
                (v, p.grad) for v, p in zip(self._views, self.parameters, strict=True) if p.grad is not None
            ]
            if found:
                torch._foreach_add_([view for view, _ in found], [gradient for _, gradient in found])
        finally:
            for parameter, view in zip(self.parameters, self._views, strict=True):
                parameter.grad = view

    def average_over_ranks(self) -> None:
        if is_distributed():
            dist.all_reduce(self.flat)
            self.flat /= dist.get_world_size()

    def clip(self, max_norm: float) -> Tensor:
        norm = torch.linalg.vector_norm(self.flat)
        self.scale(max_norm, norm)
        return norm

    def scale(self, max_norm: float, norm: Tensor) -> None:
        """Clip to a norm that was measured already."""
        self.flat *= _factor(max_norm, norm)

    def withhold(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


class ShardedGradients:
    """FSDP2's, averaged as it shards them, and in one buffer those of the few weights that stay whole."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        self.sharded = [parameter for parameter in trained if isinstance(parameter, DTensor)]
        whole = [parameter for parameter in trained if not isinstance(parameter, DTensor)]
        self.whole = FlatGradients(whole) if whole else None

    def zero(self) -> None:
        for parameter in self.sharded:
            parameter.grad = None
        if self.whole is not None:
            self.whole.zero()

    def gathered(self) -> AbstractContextManager[None]:
        """FSDP2 gathers its own as they come."""
        return nullcontext() if self.whole is None else self.whole.gathered()

    def average_over_ranks(self) -> None:
        if self.whole is not None:
            self.whole.average_over_ranks()

    def clip(self, max_norm: float) -> Tensor:
        gradients = [parameter.grad for parameter in self.sharded if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.whole is not None:
            norm = torch.hypot(norm.to(self.whole.flat), torch.linalg.vector_norm(self.whole.flat))
            self.whole.scale(max_norm, norm)
        if gradients:
            torch._foreach_mul_([local_tensor(gradient) for gradient in gradients], _factor(max_norm, norm))
        return norm

    def withhold(self) -> None:
        for parameter in self.sharded:
            parameter.grad = None
        if self.whole is not None:
            self.whole.withhold()


def _factor(max_norm: float, norm: Tensor) -> Tensor:
    return (max_norm / (norm + 1e-6)).clamp(max=1.0)
