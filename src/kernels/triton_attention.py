# SPDX-License-Identifier: Apache-2.0
"""Attention whose pair bias is shared along an axis S, with its gate: triangle attention (S the rows of z)
and attention with pair bias (S the diffusion samples). No N x N tensor a row or sample is ever written.

Forward: online softmax in base 2. Backward: the gate's part first; then three passes that recompute the
probabilities from the saved log-sum-exp: keys and values, queries, and the bias, whose gradient stays in
registers while a program walks along S. No atomics: every sum has a fixed order.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels.launch import needs_triton, next_power_of_two
from foldwright.kernels.registry import register
from foldwright.kernels.tiles import tile

_LOG2E = math.log2(math.e)
_SHARES = 8  # of the axis S, for the bias gradient


def _tile(c: int, kernel: str, dtype: torch.dtype) -> dict[str, int]:
    """Constexpr sizes and launch options of one kernel: query and key tiles."""
    width = max(16, next_power_of_two(c))
    return {"C": width} | tile("attention", kernel, width, dtype)


@triton.jit
def _load(ptr, stride_n, n, c, start, TILE: tl.constexpr, C: tl.constexpr):
    """Tile [TILE, C] of a [N, c] matrix with unit channel stride, zero outside."""
    at_n, at_c = start + tl.arange(0, TILE), tl.arange(0, C)
    inside = (at_n < n)[:, None] & (at_c < c)[None, :]
    return tl.load(ptr + at_n[:, None].to(tl.int64) * stride_n + at_c[None, :], mask=inside, other=0.0)


@triton.jit
def _store(ptr, value, stride_n, n, c, start, TILE: tl.constexpr, C: tl.constexpr):
    at_n, at_c = start + tl.arange(0, TILE), tl.arange(0, C)
    inside = (at_n < n)[:, None] & (at_c < c)[None, :]
    tl.store(
        ptr + at_n[:, None].to(tl.int64) * stride_n + at_c[None, :],
        value.to(ptr.dtype.element_ty),
        mask=inside,
    )


@triton.jit
def _logits(q, k, bias_ptr, n, q_start, k_start, scale, Q: tl.constexpr, K: tl.constexpr):
    """Base-2 logits of a tile [Q, K]; -inf for keys beyond n."""
    at_q, at_k = q_start + tl.arange(0, Q), k_start + tl.arange(0, K)
    inside = (at_q < n)[:, None] & (at_k < n)[None, :]
    bias = tl.load(bias_ptr + at_q[:, None] * n + at_k[None, :], mask=inside, other=0.0).to(tl.float32)
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale + bias * 1.4426950408889634
    return tl.where((at_k < n)[None, :], logits, float("-inf"))


@triton.jit
def _forward(q_ptr, k_ptr, v_ptr, bias_ptr, gate_ptr, out_ptr, raw_ptr, lse_ptr,
             qb, qs, qn, qh, kb, ks, kn, kh, vb, vs, vn, vh, s_size, n, heads, c, scale,
             Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr):  # fmt: skip
    q_start = tl.program_id(0) * Q
    head = (tl.program_id(1) % heads).to(tl.int64)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    s = tl.program_id(2).to(tl.int64)
    q = _load(q_ptr + batch * qb + s * qs + head * qh, qn, n, c, q_start, Q, C)
    k_ptr += batch * kb + s * ks + head * kh
    v_ptr += batch * vb + s * vs + head * vh
    bias_ptr += (batch * heads + head) * n * n
    top = tl.full([Q], float("-inf"), tl.float32)
    total = tl.zeros([Q], tl.float32)
    acc = tl.zeros([Q, C], tl.float32)
    for k_start in range(0, n, K):
        logits = _logits(q, _load(k_ptr, kn, n, c, k_start, K, C), bias_ptr, n, q_start, k_start, scale, Q, K)
        new_top = tl.maximum(top, tl.max(logits, 1))
        p = tl.exp2(logits - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(p, 1)
        v = _load(v_ptr, vn, n, c, k_start, K, C)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        top = new_top
    raw = acc / total[:, None]
    row = heads * c
    base = (batch * s_size + s) * n * row + head * c
    gate = _load(gate_ptr + base, row, n, c, q_start, Q, C).to(tl.float32)
    _store(raw_ptr + base, raw, row, n, c, q_start, Q, C)
    _store(out_ptr + base, raw * tl.sigmoid(gate), row, n, c, q_start, Q, C)
    at_q = q_start + tl.arange(0, Q)
    at = ((batch * s_size + s) * heads + head) * n + at_q
    tl.store(lse_ptr + at, top + tl.log2(total), mask=at_q < n)


@triton.jit
def _gate_backward(dout_ptr, gate_ptr, raw_ptr, draw_ptr, dgate_ptr, delta_ptr, n, heads, c,
                   Q: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Gradients of the ungated output and of the gate, and delta = their row sums, for one (batch, s,
    head).
    """
    q_start = tl.program_id(0) * Q
    head = (tl.program_id(1) % heads).to(tl.int64)
    example = (tl.program_id(1) // heads).to(tl.int64)
    row = heads * c
    base = example * n * row + head * c
    dout = _load(dout_ptr + base, row, n, c, q_start, Q, C).to(tl.float32)
    raw = _load(raw_ptr + base, row, n, c, q_start, Q, C).to(tl.float32)
    sigmoid = tl.sigmoid(_load(gate_ptr + base, row, n, c, q_start, Q, C).to(tl.float32))
    draw = dout * sigmoid
    _store(draw_ptr + base, draw, row, n, c, q_start, Q, C)
    _store(dgate_ptr + base, draw * raw * (1.0 - sigmoid), row, n, c, q_start, Q, C)
    at_q = q_start + tl.arange(0, Q)
    tl.store(delta_ptr + (example * heads + head) * n + at_q, tl.sum(draw * raw, 1), mask=at_q < n)


@triton.jit
def _probabilities(q, k, v, do, bias_ptr, lse_ptr, delta_ptr, n, q_start, k_start, scale,
                   Q: tl.constexpr, K: tl.constexpr):  # fmt: skip
    """p and d(logits) of a tile [Q, K], recomputed; zero in rows beyond n."""
    at_q = q_start + tl.arange(0, Q)
    lse = tl.load(lse_ptr + at_q, mask=at_q < n, other=float("inf"))
    delta = tl.load(delta_ptr + at_q, mask=at_q < n, other=0.0)
    p = tl.exp2(_logits(q, k, bias_ptr, n, q_start, k_start, scale, Q, K) - lse[:, None])
    dp = tl.dot(do, tl.trans(v), input_precision="ieee")
    return p, p * (dp - delta[:, None])


@triton.jit
def _key_value_gradient(q_ptr, k_ptr, v_ptr, bias_ptr, do_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
                        qb, qs, qn, qh, kb, ks, kn, kh, vb, vs, vn, vh, s_size, n, heads, c,
                        scale, softmax_scale,
                        Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr):  # fmt: skip
    k_start = tl.program_id(0) * K
    head = (tl.program_id(1) % heads).to(tl.int64)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    s = tl.program_id(2).to(tl.int64)
    q_ptr += batch * qb + s * qs + head * qh
    k = _load(k_ptr + batch * kb + s * ks + head * kh, kn, n, c, k_start, K, C)
    v = _load(v_ptr + batch * vb + s * vs + head * vh, vn, n, c, k_start, K, C)
    bias_ptr += (batch * heads + head) * n * n
    row = heads * c
    base = (batch * s_size + s) * n * row + head * c
    statistics = ((batch * s_size + s) * heads + head) * n
    dk = tl.zeros([K, C], tl.float32)
    dv = tl.zeros([K, C], tl.float32)
    for q_start in range(0, n, Q):
        q = _load(q_ptr, qn, n, c, q_start, Q, C)
        do = _load(do_ptr + base, row, n, c, q_start, Q, C)
        p, ds = _probabilities(q, k, v, do, bias_ptr, lse_ptr + statistics, delta_ptr + statistics,
                               n, q_start, k_start, scale, Q, K)  # fmt: skip
        dv = tl.dot(tl.trans(p.to(do.dtype)), do, dv, input_precision="ieee")
        dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision="ieee")
    _store(dk_ptr + base, dk * softmax_scale, row, n, c, k_start, K, C)
    _store(dv_ptr + base, dv, row, n, c, k_start, K, C)


@triton.jit
def _query_gradient(q_ptr, k_ptr, v_ptr, bias_ptr, do_ptr, lse_ptr, delta_ptr, dq_ptr,
                    qb, qs, qn, qh, kb, ks, kn, kh, vb, vs, vn, vh, s_size, n, heads, c, scale, softmax_scale,
                    Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr):  # fmt: skip
    q_start = tl.program_id(0) * Q
    head = (tl.program_id(1) % heads).to(tl.int64)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    s = tl.program_id(2).to(tl.int64)
    q = _load(q_ptr + batch * qb + s * qs + head * qh, qn, n, c, q_start, Q, C)
    k_ptr += batch * kb + s * ks + head * kh
    v_ptr += batch * vb + s * vs + head * vh
    bias_ptr += (batch * heads + head) * n * n
    row = heads * c
    base = (batch * s_size + s) * n * row + head * c
    statistics = ((batch * s_size + s) * heads + head) * n
    do = _load(do_ptr + base, row, n, c, q_start, Q, C)
    dq = tl.zeros([Q, C], tl.float32)
    for k_start in range(0, n, K):
        k = _load(k_ptr, kn, n, c, k_start, K, C)
        v = _load(v_ptr, vn, n, c, k_start, K, C)
        _, ds = _probabilities(q, k, v, do, bias_ptr, lse_ptr + statistics, delta_ptr + statistics,
                               n, q_start, k_start, scale, Q, K)  # fmt: skip
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    _store(dq_ptr + base, dq * softmax_scale, row, n, c, q_start, Q, C)


@triton.jit
def _bias_gradient(q_ptr, k_ptr, v_ptr, bias_ptr, do_ptr, lse_ptr, delta_ptr, dbias_ptr,
                   qb, qs, qn, qh, kb, ks, kn, kh, vb, vs, vn, vh, s_size, n, heads, c,
                   scale, k_tiles, n_maps, each,
                   Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr):  # fmt: skip
    q_start = (tl.program_id(0) // k_tiles) * Q
    k_start = (tl.program_id(0) % k_tiles) * K
    head = (tl.program_id(1) % heads).to(tl.int64)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    share = tl.program_id(2).to(tl.int64)
    q_ptr += batch * qb + head * qh
    k_ptr += batch * kb + head * kh
    v_ptr += batch * vb + head * vh
    bias_ptr += (batch * heads + head) * n * n
    row = heads * c
    total = tl.zeros([Q, K], tl.float32)
    for s in range(share * each, tl.minimum(share * each + each, s_size)):
        q = _load(q_ptr + s * qs, qn, n, c, q_start, Q, C)
        k = _load(k_ptr + s * ks, kn, n, c, k_start, K, C)
        v = _load(v_ptr + s * vs, vn, n, c, k_start, K, C)
        do = _load(do_ptr + (batch * s_size + s) * n * row + head * c, row, n, c, q_start, Q, C)
        statistics = ((batch * s_size + s) * heads + head) * n
        _, ds = _probabilities(q, k, v, do, bias_ptr, lse_ptr + statistics, delta_ptr + statistics,
                               n, q_start, k_start, scale, Q, K)  # fmt: skip
        total += ds
    at_q, at_k = q_start + tl.arange(0, Q), k_start + tl.arange(0, K)
    inside = (at_q < n)[:, None] & (at_k < n)[None, :]
    base = (share * n_maps + batch * heads + head) * n * n
    tl.store(dbias_ptr + base + at_q[:, None] * n + at_k[None, :], total, mask=inside)


def _with_unit_channels(*tensors: Tensor) -> list[Tensor]:
    return [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for x in tensors for stride in x.stride()[:4]]


@torch.library.custom_op("foldwright::shared_bias_attention", mutates_args=())
def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    b, s, n, heads, c = q.shape
    sizes = _tile(c, "forward", q.dtype)
    q, k, v = _with_unit_channels(q, k, v)
    out, raw = (torch.empty(b, s, n, heads * c, dtype=q.dtype, device=q.device) for _ in range(2))
    lse = torch.empty(b, s, heads, n, dtype=torch.float32, device=q.device)
    _forward[(triton.cdiv(n, sizes["Q"]), b * heads, s)](
        q, k, v, bias.contiguous(), gate.contiguous(), out, raw, lse, *_strides(q, k, v),
        s, n, heads, c, c**-0.5 * _LOG2E, **sizes,
    )  # fmt: skip
    return out, raw, lse


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    b, s, n, heads, c = q.shape
    out, raw = (q.new_empty(b, s, n, heads * c) for _ in range(2))
    return out, raw, q.new_empty(b, s, heads, n, dtype=torch.float32)


@torch.library.custom_op("foldwright::shared_bias_attention_backward", mutates_args=())
def _attention_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor, raw: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    b, s, n, heads, c = q.shape
    q, k, v = _with_unit_channels(q, k, v)
    bias, gate = bias.contiguous(), gate.contiguous()
    draw, dgate = torch.empty_like(raw), torch.empty_like(raw)
    delta = torch.empty_like(lse)
    sizes = _tile(c, "gate", q.dtype)
    _gate_backward[(triton.cdiv(n, sizes["Q"]), b * s * heads)](
        dout.contiguous(), gate, raw, draw, dgate, delta, n, heads, c, **sizes
    )
    dq, dk, dv = (torch.empty(b, s, n, heads, c, dtype=q.dtype, device=q.device) for _ in range(3))
    inputs = (q, k, v, bias, draw, lse, delta)
    common = (*_strides(q, k, v), s, n, heads, c, c**-0.5 * _LOG2E)
    sizes = _tile(c, "key_value", q.dtype)
    _key_value_gradient[(triton.cdiv(n, sizes["K"]), b * heads, s)](
        *inputs, dk, dv, *common, c**-0.5, **sizes
    )
    sizes = _tile(c, "query", q.dtype)
    _query_gradient[(triton.cdiv(n, sizes["Q"]), b * heads, s)](*inputs, dq, *common, c**-0.5, **sizes)
    sizes = _tile(c, "bias", q.dtype)
    shares = min(_SHARES, s)
    dbias = torch.empty(shares, b, heads, n, n, dtype=torch.float32, device=q.device)
    k_tiles = triton.cdiv(n, sizes["K"])
    _bias_gradient[(triton.cdiv(n, sizes["Q"]) * k_tiles, b * heads, shares)](
        *inputs, dbias, *common, k_tiles, b * heads, triton.cdiv(s, shares), **sizes
    )
    return dq, dk, dv, dbias.sum(0).to(bias.dtype), dgate


@_attention_backward.register_fake
def _(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor, raw: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv = (q.new_empty(q.shape) for _ in range(3))
    return dq, dk, dv, bias.new_empty(bias.shape), gate.new_empty(gate.shape)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, output[1], output[2])
    ctx.set_materialize_grads(False)


def _gradient(ctx, dout, _draw, _dlse):
    return _attention_backward(dout, *ctx.saved_tensors)


torch.library.register_autograd("foldwright::shared_bias_attention", _gradient, setup_context=_setup)


@register("triangle_attention", "triton", supports=needs_triton, preference=2)
@register("attention_pair_bias", "triton", supports=needs_triton, preference=2)
def shared_bias_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor) -> Tensor:
    """See kernels.reference.shared_bias_attention."""
    return _attention(q, k, v, bias, gate)[0]
