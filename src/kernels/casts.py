# SPDX-License-Identifier: Apache-2.0
"""Weights in the dtype of a product: cast by each product, or once for all passes of a step.

A step passes through the trunk several times and through the diffusion module at every step of its rollout,
and computes the blocks of the pass with gradient anew in its backward pass. The float32 weights stay the same
all the while. While `WeightCopies` are open `cast` and `stacked` hand their copies out. Only whole, plain
parameters have one: what is made of weights is new in every pass, shards and gathered weights are FSDP2's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_Key = tuple[object, ...]


@dataclass
class _Copy:
    """Weights one above the other in another dtype, zeros below; as they were at their `versions`."""

    weights: tuple[Tensor, ...]  # held, so that their memory goes to no other as long as it names the copy
    buffer: Tensor
    versions: tuple[int, ...]

    def is_fresh(self) -> bool:
        return self.versions == _versions(self.weights)

    def places(self) -> list[Tensor]:
        rows = [len(weight) for weight in self.weights]
        return list(self.buffer[: sum(rows)].split(rows))


class WeightCopies:
    """Copies of the weights that the products of a step ask for, open from its start to the end of its
    backward pass.

    A copy is made when it is first asked for; from then on each opening makes all copies anew, by a few
    kernels, in memory of its own that goes back when they are closed. One that is older than the last change
    of its weight is never handed out. At most one set is open, for all threads: autograd has its own.
    """

    def __init__(self) -> None:
        self._asked: dict[_Key, tuple[tuple[Tensor, ...], torch.dtype, int]] = {}
        self._copies: dict[_Key, _Copy] = {}

    def open(self) -> None:
        """Copy all weights that were ever asked for, on the current stream, and hand copies out."""
        global _opened
        self._copies = {key: _made(*asked) for key, asked in self._asked.items()}
        _fill(list(self._copies.values()))
        _opened = self

    @contextmanager
    def opened(self) -> Iterator[None]:
        """For a forward pass: open until `close` after its backward pass, or until the forward pass fails."""
        self.open()
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hand nothing out any more, and give the copies' memory back."""
        global _opened
        self._copies = {}
        if _opened is self:
            _opened = None

    def buffers(self) -> list[Tensor]:
        """The memory of all copies that there are."""
        return [copy.buffer for copy in self._copies.values()]

    def get(self, weights: tuple[Tensor, ...], dtype: torch.dtype, rows: int) -> Tensor | None:
        """The copy; None for what has none, as it is no whole parameter or was changed meanwhile."""
        if any(isinstance(weight, DTensor) for weight in weights):
            return None
        key = (*map(_place, weights), dtype, rows)
        copy = self._copies.get(key)
        if copy is None and all(isinstance(weight, nn.Parameter) for weight in weights):
            self._asked[key] = tuple(weight.detach() for weight in weights), dtype, rows
            copy = self._copies[key] = _made(*self._asked[key])
            _fill([copy])
        return copy.buffer if copy is not None and copy.is_fresh() else None


_opened: WeightCopies | None = None


@contextmanager
def frozen_weights() -> Iterator[None]:
    """Without gradient, and with every weight cast once: by the open copies, or by some that end with this
    block.
    """
    copies = WeightCopies() if _opened is None else None
    if copies is not None:
        copies.open()
    try:
        with torch.no_grad():
            yield
    finally:
        if copies is not None:
            copies.close()


def cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in a dtype, its gradient in the weight's own."""
    copies = _opened
    if copies is None or weight.dtype == dtype:
        return weight.to(dtype)
    copy = copies.get((weight,), dtype, len(weight))
    return weight.to(dtype) if copy is None else _connected(copy, (weight,))


def stacked(weights: Sequence[Tensor], dtype: torch.dtype, rows: int) -> Tensor:
    """Weights one above the other, in a dtype, and zeros below them up to `rows` rows."""
    copies = _opened
    if copies is not None and weights[0].dtype != dtype:
        copy = copies.get(tuple(weights), dtype, rows)
        if copy is not None:
            return _connected(copy, tuple(weights))
    low = [weight.to(dtype) for weight in weights]
    missing = rows - sum(map(len, weights))
    return torch.cat([*low, low[0].new_zeros(missing, *low[0].shape[1:])] if missing else low)


class _Connected(torch.autograd.Function):
    """A copy in place of its weights: gradients go to them, in their dtype."""

    @staticmethod
    def forward(ctx: Any, copy: Tensor, *weights: Tensor) -> Tensor:
        ctx.rows, ctx.dtype = [len(weight) for weight in weights], weights[0].dtype
        return copy.view_as(copy)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *gradient[: sum(ctx.rows)].to(ctx.dtype).split(ctx.rows)


def _connected(copy: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
        return _Connected.apply(copy, *weights)
    return copy


def _place(weight: Tensor) -> tuple[object, ...]:
    """Where a weight lies: autograd may show a parameter detached, and then it is another object."""
    storage = weight.untyped_storage()._cdata
    return storage, weight.storage_offset(), tuple(weight.shape), weight.stride()


def _versions(weights: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(weight._version for weight in weights)


@torch.no_grad()
def _made(weights: tuple[Tensor, ...], dtype: torch.dtype, rows: int) -> _Copy:
    first = weights[0]
    is_full = rows == sum(map(len, weights))
    make = first.new_empty if is_full else first.new_zeros
    return _Copy(weights, make(rows, *first.shape[1:], dtype=dtype), _versions(weights))


@torch.no_grad()
def _fill(copies: list[_Copy]) -> None:
    """One multi-tensor copy a dtype."""
    for dtype in {copy.buffer.dtype for copy in copies}:
        own = [copy for copy in copies if copy.buffer.dtype == dtype]
        places = list(chain.from_iterable(copy.places() for copy in own))
        torch._foreach_copy_(places, list(chain.from_iterable(copy.weights for copy in own)))
