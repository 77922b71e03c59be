# SPDX-License-Identifier: Apache-2.0
"""Attention in windows of atoms (AF3 Algorithm 7), with its gate: windows are read from the atoms in place.

32 queries meet the 128 keys around them, so a window's logits fit one tile: softmax needs no second look and
nothing but the inputs is kept for the backward pass. That goes in three: queries and gate by window; keys and
values by block of 32 keys, each collected from the five windows that see it; the bias, whose gradient stays
in registers while a program walks over the samples that share it. No atomics.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels.launch import needs_triton, next_power_of_two
from foldwright.kernels.registry import register
from foldwright.windows import KEYS, QUERIES, n_windows

_LOG2E = math.log2(math.e)
_SHARES = 4  # of the samples, for the bias gradient
_PART = 64  # keys of a window that a program of the bias gradient takes
_MARGIN = (KEYS - QUERIES) // 2


@triton.jit
def _rows(ptr, stride, atoms, a, cols, c):
    """Rows of a matrix with unit channel stride, zero outside of the atoms and channels."""
    inside = ((atoms >= 0) & (atoms < a))[:, None] & (cols < c)[None, :]
    return tl.load(ptr + atoms[:, None] * stride + cols[None, :], mask=inside, other=0.0)


@triton.jit
def _put(ptr, value, stride, atoms, a, cols, c):
    inside = ((atoms >= 0) & (atoms < a))[:, None] & (cols < c)[None, :]
    at = ptr + atoms[:, None] * stride + cols[None, :]
    tl.store(at, value.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def _logits(q, k, bias, scale):
    """In base 2, rounded alike in every pass: beside -1e9 another order of rounding would be off by 128."""
    base_2 = bias.to(tl.float32) * 1.4426950408889634
    return tl.fma(tl.dot(q, tl.trans(k), input_precision="ieee"), scale, base_2)


@triton.jit
def _softmax(q, k, bias, scale):
    """Probabilities of a window [Q, K]; of its rows of logits in base 2 the maximum, and the sum of the
    exponentials over it.
    """
    logits = _logits(q, k, bias, scale)
    top = tl.max(logits, 1)
    p = tl.exp2(logits - top[:, None])
    total = tl.sum(p, 1)
    return p / total[:, None], top, total


@triton.jit
def _window_forward(q_ptr, k_ptr, v_ptr, bias_ptr, gate_ptr, out_ptr, qb, qd, qa, qh, kb,
                    kd, ka, kh, vb, vd, va, vh, samples, a, heads, c, scale,
                    Q: tl.constexpr, K: tl.constexpr, MARGIN: tl.constexpr, C: tl.constexpr):  # fmt: skip
    window, head = tl.program_id(0), (tl.program_id(1) % heads).to(tl.int64)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    d = tl.program_id(2).to(tl.int64)
    cols = tl.arange(0, C)
    queries = window * Q + tl.arange(0, Q)
    keys = window * Q - MARGIN + tl.arange(0, K)
    q = _rows(q_ptr + batch * qb + d * qd + head * qh, qa, queries, a, cols, c)
    k = _rows(k_ptr + batch * kb + d * kd + head * kh, ka, keys, a, cols, c)
    v = _rows(v_ptr + batch * vb + d * vd + head * vh, va, keys, a, cols, c)
    map_ptr = bias_ptr + ((batch * tl.num_programs(0) + window) * heads + head) * Q * K
    bias = tl.load(map_ptr + tl.arange(0, Q)[:, None] * K + tl.arange(0, K)[None, :])
    p, _, _ = _softmax(q, k, bias, scale)
    raw = tl.dot(p.to(v.dtype), v, input_precision="ieee")
    base = (batch * samples + d) * a * heads * c + head * c
    gate = _rows(gate_ptr + base, heads * c, queries, a, cols, c).to(tl.float32)
    _put(out_ptr + base, raw * tl.sigmoid(gate), heads * c, queries, a, cols, c)


@triton.jit
def _window_query_gradient(q_ptr, k_ptr, v_ptr, bias_ptr, gate_ptr, dout_ptr, dq_ptr,
                           dgate_ptr, draw_ptr, top_ptr, delta_ptr, qb, qd, qa, qh, kb, kd,
                           ka, kh, vb, vd, va, vh, samples, a, heads, c, scale,
                           softmax_scale, Q: tl.constexpr, K: tl.constexpr,
                           MARGIN: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Also of the gate. For the others, which recompute exponentials: the maxima of the rows; the gradient of
    the ungated output and delta, its product with that output, both over the rows' sums of exponentials.
    """
    window, head = tl.program_id(0), (tl.program_id(1) % heads).to(tl.int64)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    d = tl.program_id(2).to(tl.int64)
    cols = tl.arange(0, C)
    queries, keys = window * Q + tl.arange(0, Q), window * Q - MARGIN + tl.arange(0, K)
    q = _rows(q_ptr + batch * qb + d * qd + head * qh, qa, queries, a, cols, c)
    k = _rows(k_ptr + batch * kb + d * kd + head * kh, ka, keys, a, cols, c)
    v = _rows(v_ptr + batch * vb + d * vd + head * vh, va, keys, a, cols, c)
    map_ptr = bias_ptr + ((batch * tl.num_programs(0) + window) * heads + head) * Q * K
    bias = tl.load(map_ptr + tl.arange(0, Q)[:, None] * K + tl.arange(0, K)[None, :])
    p, top, total = _softmax(q, k, bias, scale)
    raw = tl.dot(p.to(v.dtype), v, input_precision="ieee")
    row = heads * c
    base = (batch * samples + d) * a * row + head * c
    sigmoid = tl.sigmoid(_rows(gate_ptr + base, row, queries, a, cols, c).to(tl.float32))
    draw = _rows(dout_ptr + base, row, queries, a, cols, c).to(tl.float32) * sigmoid
    _put(draw_ptr + base, draw / total[:, None], row, queries, a, cols, c)
    _put(dgate_ptr + base, draw * raw * (1.0 - sigmoid), row, queries, a, cols, c)
    delta = tl.sum(draw * raw, 1)
    ds = p * (tl.dot(draw.to(v.dtype), tl.trans(v), input_precision="ieee") - delta[:, None])
    dq = tl.dot(ds.to(k.dtype), k, input_precision="ieee") * softmax_scale
    _put(dq_ptr + base, dq, row, queries, a, cols, c)
    statistics = ((batch * samples + d) * heads + head) * a + queries
    tl.store(top_ptr + statistics, top, mask=queries < a)
    tl.store(delta_ptr + statistics, delta / total, mask=queries < a)


@triton.jit
def _window_bias_gradient(q_ptr, k_ptr, v_ptr, bias_ptr, draw_ptr, top_ptr, delta_ptr,
                          dbias_ptr, qb, qd, qa, qh, kb, kd, ka, kh, vb, vd, va, vh,
                          samples, each, a, heads, c, scale, Q: tl.constexpr,
                          K: tl.constexpr, MARGIN: tl.constexpr, C: tl.constexpr,
                          PART: tl.constexpr):  # fmt: skip
    """Of a part of one window's keys and one head, over a share of the samples."""
    window, start = tl.program_id(0) // (K // PART), tl.program_id(0) % (K // PART) * PART
    head = (tl.program_id(1) % heads).to(tl.int64)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    share = tl.program_id(2).to(tl.int64)
    cols, at_q, at_k = tl.arange(0, C), tl.arange(0, Q), start + tl.arange(0, PART)
    queries, keys = window * Q + at_q, window * Q - MARGIN + at_k
    number = (batch * (tl.num_programs(0) // (K // PART)) + window) * heads + head
    in_map = at_q[:, None] * K + at_k[None, :]
    bias = tl.load(bias_ptr + number * Q * K + in_map)
    total = tl.zeros([Q, PART], tl.float32)
    row = heads * c
    for d in range(share * each, tl.minimum(share * each + each, samples)):
        q = _rows(q_ptr + batch * qb + d * qd + head * qh, qa, queries, a, cols, c)
        k = _rows(k_ptr + batch * kb + d * kd + head * kh, ka, keys, a, cols, c)
        v = _rows(v_ptr + batch * vb + d * vd + head * vh, va, keys, a, cols, c)
        do = _rows(draw_ptr + (batch * samples + d) * a * row + head * c, row, queries, a, cols, c)
        statistics = ((batch * samples + d) * heads + head) * a + queries
        top = tl.load(top_ptr + statistics, mask=queries < a, other=float("inf"))
        delta = tl.load(delta_ptr + statistics, mask=queries < a, other=0.0)
        p = tl.exp2(_logits(q, k, bias, scale) - top[:, None])
        total += p * (tl.dot(do, tl.trans(v), input_precision="ieee") - delta[:, None])
    maps = tl.num_programs(0) // (K // PART) * tl.num_programs(1)
    tl.store(dbias_ptr + (share * maps + number) * Q * K + in_map, total)


@triton.jit
def _window_key_value_gradient(q_ptr, k_ptr, v_ptr, bias_ptr, draw_ptr, top_ptr, delta_ptr,
                               dk_ptr, dv_ptr, qb, qd, qa, qh, kb, kd, ka, kh, vb, vd, va,
                               vh, samples, a, heads, c, scale, softmax_scale,
                               Q: tl.constexpr, K: tl.constexpr, MARGIN: tl.constexpr,
                               C: tl.constexpr):  # fmt: skip
    """Of a block of Q keys, one head and sample."""
    block, head = tl.program_id(0), (tl.program_id(1) % heads).to(tl.int64)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    d = tl.program_id(2).to(tl.int64)
    cols, at_q = tl.arange(0, C), tl.arange(0, Q)
    keys = block * Q + at_q
    k = _rows(k_ptr + batch * kb + d * kd + head * kh, ka, keys, a, cols, c)
    v = _rows(v_ptr + batch * vb + d * vd + head * vh, va, keys, a, cols, c)
    row = heads * c
    base = (batch * samples + d) * a * row + head * c
    dk = tl.zeros([Q, C], tl.float32)
    dv = tl.zeros([Q, C], tl.float32)
    windows = tl.num_programs(0)
    for window in range(tl.maximum(block - 2, 0), tl.minimum(block + 3, windows)):
        queries = window * Q + at_q
        q = _rows(q_ptr + batch * qb + d * qd + head * qh, qa, queries, a, cols, c)
        do = _rows(draw_ptr + base, row, queries, a, cols, c)
        seen = keys - (window * Q - MARGIN)
        inside = ((seen >= 0) & (seen < K))[None, :]
        map_ptr = bias_ptr + ((batch * windows + window) * heads + head) * Q * K
        bias = tl.load(map_ptr + at_q[:, None] * K + seen[None, :], mask=inside, other=0.0)
        statistics = ((batch * samples + d) * heads + head) * a + queries
        top = tl.load(top_ptr + statistics, mask=queries < a, other=float("inf"))
        delta = tl.load(delta_ptr + statistics, mask=queries < a, other=0.0)
        p = tl.where(inside, tl.exp2(_logits(q, k, bias, scale) - top[:, None]), 0.0)
        dp = tl.dot(do, tl.trans(v), input_precision="ieee")
        ds = p * (dp - delta[:, None])
        dv = tl.dot(tl.trans(p.to(do.dtype)), do, dv, input_precision="ieee")
        dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision="ieee")
    _put(dk_ptr + base, dk * softmax_scale, row, keys, a, cols, c)
    _put(dv_ptr + base, dv, row, keys, a, cols, c)


def _unit(*tensors: Tensor) -> tuple[list[Tensor], list[int]]:
    """The tensors [B, D, A, H, c] with unit channel stride, and the strides of B, D, A and H of each."""
    laid = [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]
    return laid, [stride for x in laid for stride in x.stride()[:4]]


def _sizes(q: Tensor) -> dict[str, int]:
    return {"Q": QUERIES, "K": KEYS, "MARGIN": _MARGIN, "C": max(16, next_power_of_two(q.shape[-1]))}


@torch.library.custom_op("foldwright::window_attention", mutates_args=())
def _window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor) -> Tensor:
    b, d, a, heads, c = q.shape
    (q, k, v), strides = _unit(q, k, v)
    out = q.new_empty(b, d, a, heads * c)
    _window_forward[(n_windows(a), b * heads, d)](
        q, k, v, bias.contiguous(), gate.contiguous(), out, *strides,
        d, a, heads, c, c**-0.5 * _LOG2E, **_sizes(q),
    )  # fmt: skip
    return out


@_window_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor) -> Tensor:
    return q.new_empty(*q.shape[:3], q.shape[3] * q.shape[4])


@torch.library.custom_op("foldwright::window_attention_backward", mutates_args=())
def _window_attention_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    b, d, a, heads, c = q.shape
    windows, shares = n_windows(a), min(_SHARES, d)
    (q, k, v), strides = _unit(q, k, v)
    bias, gate = bias.contiguous(), gate.contiguous()
    dq, dk, dv = (q.new_empty(b, d, a, heads, c) for _ in range(3))
    dgate, draw = torch.empty_like(gate), torch.empty_like(gate)
    top, delta = (q.new_empty(b, d, heads, a, dtype=torch.float32) for _ in range(2))
    dbias = q.new_empty(shares, *bias.shape, dtype=torch.float32)
    scales = (c**-0.5 * _LOG2E, c**-0.5)
    grid = (windows, b * heads, d)
    _window_query_gradient[grid](
        q, k, v, bias, gate, dout.contiguous(), dq, dgate, draw, top, delta, *strides,
        d, a, heads, c, *scales, **_sizes(q),
    )  # fmt: skip
    inputs = (q, k, v, bias, draw, top, delta)
    _window_key_value_gradient[grid](*inputs, dk, dv, *strides, d, a, heads, c, *scales, **_sizes(q))
    _window_bias_gradient[(windows * (KEYS // _PART), b * heads, shares)](
        *inputs, dbias, *strides, d, triton.cdiv(d, shares), a, heads, c, scales[0], **_sizes(q), PART=_PART
    )
    return dq, dk, dv, dbias.sum(0).to(bias.dtype), dgate


@_window_attention_backward.register_fake
def _(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv = (q.new_empty(q.shape) for _ in range(3))
    return dq, dk, dv, bias.new_empty(bias.shape), gate.new_empty(gate.shape)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx, dout):
    return _window_attention_backward(dout, *ctx.saved_tensors)


torch.library.register_autograd("foldwright::window_attention", _gradient, setup_context=_setup)


@register("window_attention", "triton", supports=needs_triton, preference=2)
def window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor) -> Tensor:
    """See kernels.reference.window_attention."""
    return _window_attention(q, k, v, bias, gate)
