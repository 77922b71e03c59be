# SPDX-License-Identifier: Apache-2.0
"""The gates of conditioned blocks in Triton: x + σ(g) ⊙ u, and the SwiGLU product swish(a) ⊙ b.

Elementwise, one read of each input and one write, sigmoids in float32. A gate that the D samples share is
read once a tile for all of them in the backward pass, which sums its gradient over them in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels.launch import needs_triton, next_power_of_two, sharing
from foldwright.kernels.registry import register

_BLOCK = 1024


@triton.jit
def _gate(x_ptr, u_ptr, g_ptr, y_ptr, m, BLOCK: tl.constexpr):
    """y[b, d, :] = x[b, d, :] + σ(g[b, :]) u[b, d, :]."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    sample = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    inside = at < m
    g = tl.load(g_ptr + tl.program_id(2).to(tl.int64) * m + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(u_ptr + sample * m + at, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + sample * m + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + sample * m + at, (x + tl.sigmoid(g) * u).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gate_backward(dy_ptr, u_ptr, g_ptr, du_ptr, dg_ptr, m, samples, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    example = tl.program_id(1).to(tl.int64)
    inside = at < m
    sigmoid = tl.sigmoid(tl.load(g_ptr + example * m + at, mask=inside, other=0.0).to(tl.float32))
    total = tl.zeros([BLOCK], tl.float32)
    for sample in range(0, samples):
        place = (example * samples + sample) * m + at
        dy = tl.load(dy_ptr + place, mask=inside, other=0.0).to(tl.float32)
        u = tl.load(u_ptr + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(du_ptr + place, (dy * sigmoid).to(du_ptr.dtype.element_ty), mask=inside)
        total += dy * u
    dg = total * sigmoid * (1.0 - sigmoid)
    tl.store(dg_ptr + example * m + at, dg.to(dg_ptr.dtype.element_ty), mask=inside)


def _shape(update: Tensor, gate: Tensor) -> tuple[int, int, int]:
    """Examples, samples that share a gate, elements of a gate."""
    examples, samples = sharing(update, gate)
    return examples, samples, gate.numel() // examples


@torch.library.custom_op("foldwright::gated_residual", mutates_args=())
def _gated_residual(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    examples, samples, m = _shape(update, gate)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    _gate[(triton.cdiv(m, _BLOCK), samples, examples)](
        x.contiguous(), update.contiguous(), gate.contiguous(), y, m, BLOCK=_BLOCK
    )
    return y


@_gated_residual.register_fake
def _(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("foldwright::gated_residual_backward", mutates_args=())
def _gated_residual_backward(dy: Tensor, update: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    examples, samples, m = _shape(update, gate)
    du, dg = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (update, gate))
    _gate_backward[(triton.cdiv(m, _BLOCK), examples)](
        dy.contiguous(), update.contiguous(), gate.contiguous(), du, dg, m, samples, BLOCK=_BLOCK
    )
    return du, dg


@_gated_residual_backward.register_fake
def _(dy: Tensor, update: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    du, dg = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (update, gate))
    return du, dg


def _gate_setup(ctx, inputs, output) -> None:
    x, update, gate = inputs
    ctx.save_for_backward(update, gate)
    ctx.x_dtype = x.dtype


def _gate_gradient(ctx, dy):
    return dy.to(ctx.x_dtype), *_gated_residual_backward(dy, *ctx.saved_tensors)


torch.library.register_autograd("foldwright::gated_residual", _gate_gradient, setup_context=_gate_setup)


@register("gated_residual", "triton", supports=needs_triton, preference=2)
def gated_residual(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """See kernels.reference.gated_residual."""
    return _gated_residual(x, update, gate)


@triton.jit
def _swiglu(h_ptr, y_ptr, n_rows, n, ROWS: tl.constexpr, COLS: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = (rows < n_rows)[:, None] & (cols < n)[None, :]
    at = rows[:, None] * 2 * n + cols[None, :]
    a = tl.load(h_ptr + at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(h_ptr + at + n, mask=inside, other=0.0).to(tl.float32)
    y = a * tl.sigmoid(a) * b
    tl.store(y_ptr + rows[:, None] * n + cols[None, :], y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_backward(dy_ptr, h_ptr, dh_ptr, n_rows, n, ROWS: tl.constexpr, COLS: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = (rows < n_rows)[:, None] & (cols < n)[None, :]
    at = rows[:, None] * 2 * n + cols[None, :]
    a = tl.load(h_ptr + at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(h_ptr + at + n, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + rows[:, None] * n + cols[None, :], mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(a)
    da = dy * b * sigmoid * (1.0 + a * (1.0 - sigmoid))
    tl.store(dh_ptr + at, da.to(dh_ptr.dtype.element_ty), mask=inside)
    tl.store(dh_ptr + at + n, (dy * a * sigmoid).to(dh_ptr.dtype.element_ty), mask=inside)


def _tiles(h: Tensor) -> tuple[int, int, tuple[int, int], dict[str, int]]:
    """Rows and products of h, the grid and the tile."""
    n = h.shape[-1] // 2
    n_rows = h.numel() // (2 * n)
    columns = min(512, next_power_of_two(n))
    sizes = {"ROWS": max(1, 2048 // columns), "COLS": columns}
    return n_rows, n, (triton.cdiv(n_rows, sizes["ROWS"]), triton.cdiv(n, columns)), sizes


@torch.library.custom_op("foldwright::swiglu", mutates_args=())
def _swiglu_op(h: Tensor) -> Tensor:
    n_rows, n, grid, sizes = _tiles(h)
    y = h.new_empty(*h.shape[:-1], n)
    _swiglu[grid](h.contiguous(), y, n_rows, n, **sizes)
    return y


@_swiglu_op.register_fake
def _(h: Tensor) -> Tensor:
    return h.new_empty(*h.shape[:-1], h.shape[-1] // 2)


@torch.library.custom_op("foldwright::swiglu_backward", mutates_args=())
def _swiglu_backward_op(dy: Tensor, h: Tensor) -> Tensor:
    n_rows, n, grid, sizes = _tiles(h)
    dh = torch.empty_like(h, memory_format=torch.contiguous_format)
    _swiglu_backward[grid](dy.contiguous(), h.contiguous(), dh, n_rows, n, **sizes)
    return dh


@_swiglu_backward_op.register_fake
def _(dy: Tensor, h: Tensor) -> Tensor:
    return torch.empty_like(h, memory_format=torch.contiguous_format)


def _swiglu_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _swiglu_gradient(ctx, dy):
    return _swiglu_backward_op(dy, *ctx.saved_tensors)


torch.library.register_autograd("foldwright::swiglu", _swiglu_gradient, setup_context=_swiglu_setup)


@register("swiglu", "triton", supports=needs_triton, preference=2)
def swiglu(h: Tensor) -> Tensor:
    """See kernels.reference.swiglu."""
    return _swiglu_op(h)
