# SPDX-License-Identifier: Apache-2.0
"""Linear layers with the initialisations of AF3 (spec 3.13)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foldwright.kernels.casts import stacked
from foldwright.kernels.reference import linear

Init = Literal["default", "relu", "zero", "adaln_zero_gate"]
_TRUNCATION = 0.87962566103423978  # standard deviation of a unit normal cut at ±2

# ŝ gates start at σ(-2) = 0.12, so that every conditioned branch starts small (adaLN-zero)
_GATE_BIAS = -2.0


def initialise(weight: Tensor, init: Init) -> None:
    """In place: truncated normal of variance 1/fan_in ("default") or 2/fan_in ("relu"), or zeros."""
    if init in ("zero", "adaln_zero_gate"):
        nn.init.zeros_(weight)
        return
    std = math.sqrt((2.0 if init == "relu" else 1.0) / weight.shape[1]) / _TRUNCATION
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def linear_of_several(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None = None) -> Tensor:
    """The outputs of several projections of x [..., c] side by side, of one product.

    `bias` is the first projection's.
    """
    rows = sum(map(len, weights))
    below = None if bias is None else stacked((bias,), x.dtype, rows)
    return F.linear(x, stacked(weights, x.dtype, rows), below)


class Linear(nn.Module):
    """y = x W^T (+ b), computed in the dtype of x. `LinearNoBias` of the paper unless `bias`.

    "adaln_zero_gate" is the paper's Linear(s, biasinit = -2): zero weight, bias -2.
    """

    def __init__(self, c_in: int, c_out: int, *, bias: bool = False, init: Init = "default") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_out, c_in))
        self.bias = nn.Parameter(torch.empty(c_out)) if bias else None
        self.init: Init = init
        self.reset_parameters()

    def reset_parameters(self) -> None:
        initialise(self.weight, self.init)
        if self.bias is not None:
            nn.init.constant_(self.bias, _GATE_BIAS if self.init == "adaln_zero_gate" else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
