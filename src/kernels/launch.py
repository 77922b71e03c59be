# SPDX-License-Identifier: Apache-2.0
"""What every Triton kernel's launch needs: where they run, and sizes."""

from __future__ import annotations

import os

import torch
from torch import Tensor


def interpreting() -> bool:
    """Whether Triton interprets kernels on the CPU: so in tests, where conftest says it."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def needs_triton(device: torch.device) -> str | None:
    """None where Triton kernels run, else the reason why not."""
    if device.type == "cuda":
        return None
    return "needs a GPU"


def next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def sharing(x: Tensor, shared: Tensor) -> tuple[int, int]:
    """Of x [B, D, ...] the examples, and the samples of each that share what stands in `shared` [B, 1 or D,
    ...]; where none share, all are one example. ValueError for other axes: some of x would be left out.
    """
    if shared.shape[0] != x.shape[0] or shared.shape[1] not in (1, x.shape[1]):
        raise ValueError(
            f"got {tuple(shared.shape)} to be shared by the samples of {tuple(x.shape)}, expected its first "
            "axis and its second, or 1 in place of the second: expand the first"
        )
    samples = x.shape[1] // shared.shape[1]
    return (shared.shape[0] if samples > 1 else 1), samples


def dense(x: Tensor) -> Tensor:
    """x [B, I, J, c], its axes in any order, copied unless channels lie together, without gaps or overlap."""
    same = x.stride(3) == 1 and torch.empty_like(x, device="meta").stride() == x.stride()
    return x if same else x.contiguous()
