# SPDX-License-Identifier: Apache-2.0
"""Adaptive LayerNorm (AF3 Algorithm 26) in Triton: LN(a), its gate and its shift in one pass over a.

Scale and shift lie side by side, as the conditioning's one product writes them (σ is taken in the kernel).
Conditioning that the D samples share is read once a tile for all of them in the backward pass, which sums its
gradient over them in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels.launch import needs_triton, next_power_of_two, sharing
from foldwright.kernels.registry import register

_ELEMENTS = 4096  # of a forward tile: rows x channels
_BACKWARD_ELEMENTS = 1024
_EPS = 1e-5


@triton.jit
def _normalise(a_ptr, at, inside, cols, c, eps):
    a = tl.load(a_ptr + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(a, 1) / c
    centred = tl.where((cols < c)[None, :], a - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / c + eps)
    return centred * rstd[:, None], rstd


@triton.jit
def _modulate(a_ptr, g_ptr, y_ptr, n_rows, c, eps, ROWS: tl.constexpr, C: tl.constexpr):
    """g [..., 2 c]: logits of the gate, then the shift. Grid: tiles of rows, samples sharing g, examples."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    example = tl.program_id(2).to(tl.int64)
    sample = example * tl.num_programs(1) + tl.program_id(1)
    cols = tl.arange(0, C)
    inside = (rows < n_rows)[:, None] & (cols < c)[None, :]
    at = (sample * n_rows + rows)[:, None] * c + cols[None, :]
    hat, _ = _normalise(a_ptr, at, inside, cols, c, eps)
    from_g = (example * n_rows + rows)[:, None] * 2 * c + cols[None, :]
    gate = tl.sigmoid(tl.load(g_ptr + from_g, mask=inside, other=0.0).to(tl.float32))
    shift = tl.load(g_ptr + from_g + c, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, (gate * hat + shift).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _modulate_backward(dy_ptr, a_ptr, g_ptr, da_ptr, dg_ptr, n_rows, c, samples, eps,
                       ROWS: tl.constexpr, C: tl.constexpr):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    example = tl.program_id(1).to(tl.int64)
    cols = tl.arange(0, C)
    inside = (rows < n_rows)[:, None] & (cols < c)[None, :]
    from_g = (example * n_rows + rows)[:, None] * 2 * c + cols[None, :]
    gate = tl.sigmoid(tl.load(g_ptr + from_g, mask=inside, other=0.0).to(tl.float32))
    d_gate = tl.zeros([ROWS, C], tl.float32)
    d_shift = tl.zeros([ROWS, C], tl.float32)
    for sample in range(0, samples):
        at = ((example * samples + sample) * n_rows + rows)[:, None] * c + cols[None, :]
        hat, rstd = _normalise(a_ptr, at, inside, cols, c, eps)
        dy = tl.load(dy_ptr + at, mask=inside, other=0.0).to(tl.float32)
        d_gate += dy * hat
        d_shift += dy
        g = dy * gate
        da = (g - tl.sum(g, 1)[:, None] / c - hat * (tl.sum(g * hat, 1)[:, None] / c)) * rstd[:, None]
        tl.store(da_ptr + at, da.to(da_ptr.dtype.element_ty), mask=inside)
    d_gate *= gate * (1.0 - gate)
    tl.store(dg_ptr + from_g, d_gate.to(dg_ptr.dtype.element_ty), mask=inside)
    tl.store(dg_ptr + from_g + c, d_shift.to(dg_ptr.dtype.element_ty), mask=inside)


def _shape(a: Tensor, g: Tensor) -> tuple[int, int, int, int]:
    """Examples, samples that share a row of g, rows of an example, padded channels."""
    examples, samples = sharing(a, g)
    return examples, samples, g.numel() // g.shape[-1] // examples, next_power_of_two(a.shape[-1])


@torch.library.custom_op("foldwright::modulated_norm", mutates_args=())
def _modulated_norm(a: Tensor, g: Tensor, eps: float) -> Tensor:
    """σ(g₁) ⊙ LN(a) + g₂: a [B, D, N, c], g [B, 1 or D, N, 2 c] -> [B, D, N, c] in the dtype of g."""
    examples, samples, n_rows, width = _shape(a, g)
    rows = max(1, _ELEMENTS // width)
    y = torch.empty_like(a, dtype=g.dtype, memory_format=torch.contiguous_format)
    _modulate[(triton.cdiv(n_rows, rows), samples, examples)](
        a.contiguous(), g.contiguous(), y, n_rows, a.shape[-1], eps, ROWS=rows, C=width
    )
    return y


@_modulated_norm.register_fake
def _(a: Tensor, g: Tensor, eps: float) -> Tensor:
    return torch.empty_like(a, dtype=g.dtype, memory_format=torch.contiguous_format)


@torch.library.custom_op("foldwright::modulated_norm_backward", mutates_args=())
def _modulated_norm_backward(dy: Tensor, a: Tensor, g: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    examples, samples, n_rows, width = _shape(a, g)
    rows = max(1, _BACKWARD_ELEMENTS // width)
    da, dg = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (a, g))
    _modulate_backward[(triton.cdiv(n_rows, rows), examples)](
        dy.contiguous(), a.contiguous(), g.contiguous(), da, dg, n_rows, a.shape[-1], samples, eps,
        ROWS=rows, C=width,
    )  # fmt: skip
    return da, dg


@_modulated_norm_backward.register_fake
def _(dy: Tensor, a: Tensor, g: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    da, dg = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (a, g))
    return da, dg


def _setup(ctx, inputs, output) -> None:
    a, g, ctx.eps = inputs
    ctx.save_for_backward(a, g)


def _gradient(ctx, dy):
    return *_modulated_norm_backward(dy, *ctx.saved_tensors, ctx.eps), None


torch.library.register_autograd("foldwright::modulated_norm", _gradient, setup_context=_setup)


@register("adaptive_layer_norm", "triton", supports=needs_triton, preference=2)
def adaptive_layer_norm(a: Tensor, g: Tensor) -> Tensor:
    """See kernels.reference.adaptive_layer_norm."""
    return _modulated_norm(a, g, _EPS)
