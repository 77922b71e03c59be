# SPDX-License-Identifier: Apache-2.0
"""Weights in the dtype of a product: cast by each product, or once for many passes without gradient.

A step passes through the trunk several times before the one cycle that has a gradient, and through the
diffusion module at every step of its rollout. The float32 weights stay the same all the while.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_Casts = dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]]
_kept: ContextVar[_Casts | None] = ContextVar("kept", default=None)  # each with its weight: ids stay taken


@contextmanager
def frozen_weights() -> Iterator[None]:
    """Without gradient, and with every parameter cast once: nothing inside may change one.

    The casts are dropped at the end, so none outlives the weights that it was made of.
    """
    token = _kept.set({})
    try:
        with torch.no_grad():
            yield
    finally:
        _kept.reset(token)


def cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in a dtype. Only parameters are kept: what is made of them is new in every pass."""
    kept = _kept.get()
    if kept is None or weight.dtype == dtype or not isinstance(weight, nn.Parameter):
        return weight.to(dtype)
    key = (id(weight), dtype)
    if key not in kept:
        kept[key] = weight, weight.to(dtype)
    return kept[key][1]
