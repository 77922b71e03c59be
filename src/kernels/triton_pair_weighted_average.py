# SPDX-License-Identifier: Apache-2.0
"""Averages of MSA values over tokens, weighted by pairs, with their gate (AF3 Algorithm 10).

All MSA rows share the weights softmax_j(logits): they are computed once, by a pass over [N, N], and a program
multiplies a tile of them with the values of one head and a few MSA rows, read from [M, N, H, c] in place; the
gate is applied before anything is written.

Backward: the same walk gives the ungated average, hence the gradients of the gate and of the average; the
walk with the weights transposed gives the values'; the weights' is one product over rows and channels in
shares, which a pass over [N, N] adds in a fixed order and takes through the softmax. No atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels.launch import needs_triton, next_power_of_two
from foldwright.kernels.registry import register
from foldwright.kernels.tiles import tile

_SHARES = 8  # of the MSA rows, for the weights' gradient


@triton.jit
def _base(batch, rows, head, m, n, heads, c: tl.constexpr):
    """Place of a head's first channel in a row of [B, M, N, H, c], int64; within a tile offsets are int32."""
    return (batch * m + rows) * n * heads * c + head * c


@triton.jit
def _places(rows, tokens, m, n, heads, c: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """Offsets [tokens, R C] from `_base` for tokens and R rows, and which exist."""
    column = tl.arange(0, R * C)
    row, channel = column // C, column % C
    inside = (tokens < n)[:, None] & ((row < m - rows) & (channel < c))[None, :]
    return (row * n * heads * c + channel)[None, :] + (tokens * heads * c)[:, None], inside


@triton.jit
def _sum(w_ptr, x_ptr, stride_out, stride_in, start, rows, m, n, heads, c: tl.constexpr,
         TOKENS: tl.constexpr, INNER: tl.constexpr, R: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Σ_j w[i, j] x[s, j] for a tile of tokens i and R rows s: float32 [TOKENS, R C]."""
    out = start + tl.arange(0, TOKENS)
    acc = tl.zeros([TOKENS, R * C], tl.float32)
    for first in range(0, n, INNER):
        inner = first + tl.arange(0, INNER)
        known = (out < n)[:, None] & (inner < n)[None, :]
        w = tl.load(w_ptr + out[:, None] * stride_out + inner[None, :] * stride_in, mask=known, other=0.0)
        at, inside = _places(rows, inner, m, n, heads, c, R, C)
        acc = tl.dot(w, tl.load(x_ptr + at, mask=inside, other=0.0), acc, input_precision="ieee")
    return acc


@triton.jit
def _average_forward(w_ptr, v_ptr, gate_ptr, out_ptr, m, n, heads, c: tl.constexpr,
                     TOKENS: tl.constexpr, INNER: tl.constexpr, R: tl.constexpr,
                     C: tl.constexpr):  # fmt: skip
    head, start = tl.program_id(0) % heads, tl.program_id(0) // heads * TOKENS
    rows, batch = tl.program_id(1) * R, tl.program_id(2).to(tl.int64)
    base = _base(batch, rows, head, m, n, heads, c)
    w_ptr += (batch * heads + head) * n * n
    raw = _sum(w_ptr, v_ptr + base, n, 1, start, rows, m, n, heads, c, TOKENS, INNER, R, C)
    at, inside = _places(rows, start + tl.arange(0, TOKENS), m, n, heads, c, R, C)
    gate = tl.sigmoid(tl.load(gate_ptr + base + at, mask=inside, other=0.0).to(tl.float32))
    tl.store(out_ptr + base + at, (raw * gate).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _average_gate_gradient(w_ptr, v_ptr, gate_ptr, dout_ptr, dgate_ptr, draw_ptr, m, n,
                           heads, c: tl.constexpr, TOKENS: tl.constexpr,
                           INNER: tl.constexpr, R: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Also of the ungated average, for the others."""
    head, start = tl.program_id(0) % heads, tl.program_id(0) // heads * TOKENS
    rows, batch = tl.program_id(1) * R, tl.program_id(2).to(tl.int64)
    base = _base(batch, rows, head, m, n, heads, c)
    w_ptr += (batch * heads + head) * n * n
    raw = _sum(w_ptr, v_ptr + base, n, 1, start, rows, m, n, heads, c, TOKENS, INNER, R, C)
    at, inside = _places(rows, start + tl.arange(0, TOKENS), m, n, heads, c, R, C)
    gate = tl.sigmoid(tl.load(gate_ptr + base + at, mask=inside, other=0.0).to(tl.float32))
    draw = tl.load(dout_ptr + base + at, mask=inside, other=0.0).to(tl.float32) * gate
    dgate = draw * raw * (1.0 - gate)
    tl.store(draw_ptr + base + at, draw.to(draw_ptr.dtype.element_ty), mask=inside)
    tl.store(dgate_ptr + base + at, dgate.to(dgate_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _average_value_gradient(w_ptr, draw_ptr, dv_ptr, m, n, heads, c: tl.constexpr,
                            TOKENS: tl.constexpr, INNER: tl.constexpr, R: tl.constexpr,
                            C: tl.constexpr):  # fmt: skip
    head, start = tl.program_id(0) % heads, tl.program_id(0) // heads * TOKENS
    rows, batch = tl.program_id(1) * R, tl.program_id(2).to(tl.int64)
    base = _base(batch, rows, head, m, n, heads, c)
    w_ptr += (batch * heads + head) * n * n
    dv = _sum(w_ptr, draw_ptr + base, 1, n, start, rows, m, n, heads, c, TOKENS, INNER, R, C)
    at, inside = _places(rows, start + tl.arange(0, TOKENS), m, n, heads, c, R, C)
    tl.store(dv_ptr + base + at, dv.to(dv_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _average_weight_gradient(draw_ptr, v_ptr, dw_ptr, m, n, heads, k_tiles, each,
                             c: tl.constexpr, Q: tl.constexpr, K: tl.constexpr,
                             R: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Σ_s d_raw[s, i] · v[s, j] of a tile of pairs over a share of the rows."""
    head, pair = tl.program_id(0) % heads, tl.program_id(0) // heads
    i, j = pair // k_tiles * Q + tl.arange(0, Q), pair % k_tiles * K + tl.arange(0, K)
    share, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    acc = tl.zeros([Q, K], tl.float32)
    for rows in range(share * each, tl.minimum(share * each + each, m), R):
        base = _base(batch, rows, head, m, n, heads, c)
        at, inside = _places(rows, i, m, n, heads, c, R, C)
        draw = tl.load(draw_ptr + base + at, mask=inside, other=0.0)
        at, inside = _places(rows, j, m, n, heads, c, R, C)
        v = tl.load(v_ptr + base + at, mask=inside, other=0.0)
        acc = tl.dot(draw, tl.trans(v), acc, input_precision="ieee")
    dw_ptr += ((batch * tl.num_programs(1) + share) * heads + head) * n * n
    inside = (i < n)[:, None] & (j < n)[None, :]
    tl.store(dw_ptr + i[:, None] * n + j[None, :], acc, mask=inside)


@triton.jit
def _average_softmax_gradient(w_ptr, dw_ptr, dlogits_ptr, shares, maps, n, N: tl.constexpr):
    """w (dw - Σ_j w dw) of one row, dw the sum of its shares."""
    row, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    j = tl.arange(0, N)
    dw = tl.zeros([N], tl.float32)
    for share in range(0, shares):
        dw += tl.load(dw_ptr + ((batch * shares + share) * maps + row) * n + j, mask=j < n, other=0.0)
    at = (batch * maps + row) * n + j
    w = tl.load(w_ptr + at, mask=j < n, other=0.0).to(tl.float32)
    dlogits = w * (dw - tl.sum(w * dw, 0))
    tl.store(dlogits_ptr + at, dlogits.to(dlogits_ptr.dtype.element_ty), mask=j < n)


def _tile(c: int, kernel: str, dtype: torch.dtype) -> dict[str, int]:
    """Constexpr sizes and launch options. The table names the columns (rows x channels) of a tile."""
    width = next_power_of_two(c)
    sizes = tile("pair_weighted_average", kernel, width, dtype)
    return {"C": width, "R": max(1, max(16, sizes.pop("COLUMNS")) // width)} | sizes


def _weights(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """softmax_j in float32, in the dtype of the values, [B, H, N, N] contiguous."""
    return torch.softmax(logits.contiguous(), -1, dtype=torch.float32).to(dtype)


def _grid(v: Tensor, sizes: dict[str, int]) -> tuple[int, int, int]:
    b, m, n, heads, _ = v.shape
    return heads * triton.cdiv(n, sizes["TOKENS"]), triton.cdiv(m, sizes["R"]), b


@torch.library.custom_op("foldwright::pair_weighted_average", mutates_args=())
def _pair_weighted_average(v: Tensor, logits: Tensor, gate: Tensor) -> Tensor:
    _, m, n, heads, c = v.shape
    out = torch.empty_like(gate, memory_format=torch.contiguous_format)
    sizes = _tile(c, "forward", v.dtype)
    _average_forward[_grid(v, sizes)](
        _weights(logits, v.dtype), v.contiguous(), gate.contiguous(), out, m, n, heads, c, **sizes
    )
    return out


@_pair_weighted_average.register_fake
def _(v: Tensor, logits: Tensor, gate: Tensor) -> Tensor:
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


def _logits_gradient(draw: Tensor, v: Tensor, w: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, H, N, N] from the gradient of the ungated average, both [B, M, N, H, c], and the weights."""
    b, m, n, heads, c = v.shape
    sizes = _tile(c, "weights", v.dtype)
    shares = min(_SHARES, triton.cdiv(m, sizes["R"]))
    each = triton.cdiv(triton.cdiv(m, shares), sizes["R"]) * sizes["R"]
    dw = v.new_empty(b, shares, heads, n, n, dtype=torch.float32)
    k_tiles = triton.cdiv(n, sizes["K"])
    _average_weight_gradient[(heads * triton.cdiv(n, sizes["Q"]) * k_tiles, shares, b)](
        draw, v, dw, m, n, heads, k_tiles, each, c, **sizes
    )
    dlogits = torch.empty_like(w, dtype=dtype)
    _average_softmax_gradient[(heads * n, b)](w, dw, dlogits, shares, heads * n, n, N=next_power_of_two(n))
    return dlogits


@torch.library.custom_op("foldwright::pair_weighted_average_backward", mutates_args=())
def _pair_weighted_average_backward(
    dout: Tensor, v: Tensor, logits: Tensor, gate: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    _, m, n, heads, c = v.shape
    v, w = v.contiguous(), _weights(logits, v.dtype)
    draw, dv = torch.empty_like(v), torch.empty_like(v)
    dgate = torch.empty_like(gate, memory_format=torch.contiguous_format)
    sizes = _tile(c, "gate", v.dtype)
    _average_gate_gradient[_grid(v, sizes)](
        w, v, gate.contiguous(), dout.contiguous(), dgate, draw, m, n, heads, c, **sizes
    )
    sizes = _tile(c, "values", v.dtype)
    _average_value_gradient[_grid(v, sizes)](w, draw, dv, m, n, heads, c, **sizes)
    return dv, _logits_gradient(draw, v, w, logits.dtype), dgate


@_pair_weighted_average_backward.register_fake
def _(dout: Tensor, v: Tensor, logits: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dgate = torch.empty_like(gate, memory_format=torch.contiguous_format)
    return v.new_empty(v.shape), logits.new_empty(logits.shape), dgate


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx, dout):
    return _pair_weighted_average_backward(dout, *ctx.saved_tensors)


torch.library.register_autograd("foldwright::pair_weighted_average", _gradient, setup_context=_setup)


@register("pair_weighted_average", "triton", supports=needs_triton, preference=2)
def pair_weighted_average(v: Tensor, logits: Tensor, gate: Tensor) -> Tensor:
    """See kernels.reference.pair_weighted_average."""
    return _pair_weighted_average(v, logits, gate)
