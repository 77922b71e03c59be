# SPDX-License-Identifier: Apache-2.0
"""Attention whose pair bias is shared along an axis S, with its gate: triangle attention (S the rows of z)
and attention with pair bias (S the diffusion samples). No N x N tensor a row or sample is ever written.
Queries, keys, values and gates lie side by side, as their one projection writes them; so do their gradients.

A program takes several members of S at once, so that each tile of the bias is read once for them. Forward:
exponentials over a reference of each row, the largest of its first logits: no running maximum, no rescaling.
Any reference gives the same softmax while the row's sum keeps to the range of numbers; a program in which
one does not starts again with the true maxima. Backward: three passes that recompute the exponentials from
the saved reference: queries (with the gate's part), keys and values, and the bias, whose gradient stays in
registers while a program walks along S. The row's sum of exponentials divides its gradient, once for all
passes; as a logarithm added to the reference it would be lost beside large logits. No atomics: every sum has
a fixed order.
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

_LOG2E = tl.constexpr(math.log2(math.e))
_SAMPLE = tl.constexpr(16)  # keys whose largest logit is a row's reference
_RANGE = 1e18  # of a row's sum: gradients are divided by it, and stay far from the smallest numbers
_SHARES = 8  # of the axis S, for the bias gradient


def _tile(n: int, c: int, kernel: str, dtype: torch.dtype) -> dict[str, int | bool]:
    """Constexpr sizes and launch options of one kernel: query and key tiles, and whether they divide N."""
    width = max(16, next_power_of_two(c))
    sizes = tile("attention", kernel, width, dtype)
    return {"C": width, "EVEN": n % sizes["Q"] == 0 and n % sizes["K"] == 0} | sizes


def _range(dtype: torch.dtype) -> float:
    """What the sum of a row's exponentials stays below: each of them is a number of that type, too."""
    return min(_RANGE, torch.finfo(dtype).max / 4)


@triton.jit
def _load(ptr, stride_n, n, start, c: tl.constexpr, TILE: tl.constexpr, C: tl.constexpr, EVEN: tl.constexpr):
    """Tile [TILE, C] of a [N, c] matrix with unit channel stride, zero outside."""
    at_n, at_c = tl.arange(0, TILE), tl.arange(0, C)
    at = ptr + ((start + at_n).to(tl.int64) * stride_n)[:, None] + at_c[None, :]
    if EVEN and c == C:
        return tl.load(at)
    return tl.load(at, mask=(start + at_n < n)[:, None] & (at_c < c)[None, :], other=0.0)


@triton.jit
def _store(ptr, value, stride_n, n, start, c: tl.constexpr, TILE: tl.constexpr, C: tl.constexpr,
           EVEN: tl.constexpr):  # fmt: skip
    at_n, at_c = tl.arange(0, TILE), tl.arange(0, C)
    at = ptr + ((start + at_n).to(tl.int64) * stride_n)[:, None] + at_c[None, :]
    if EVEN and c == C:
        tl.store(at, value.to(ptr.dtype.element_ty))
    else:
        inside = (start + at_n < n)[:, None] & (at_c < c)[None, :]
        tl.store(at, value.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def _load_row(ptr, n, start, other, TILE: tl.constexpr, EVEN: tl.constexpr):
    """[TILE] numbers of a row of n."""
    at = start + tl.arange(0, TILE)
    if EVEN:
        return tl.load(ptr + at)
    return tl.load(ptr + at, mask=at < n, other=other)


@triton.jit
def _load_bias(ptr, n, row_start, col_start, ROWS: tl.constexpr, COLS: tl.constexpr, EVEN: tl.constexpr):
    """Tile [ROWS, COLS] of a bias map [N, N], in float32."""
    rows, cols = row_start + tl.arange(0, ROWS), col_start + tl.arange(0, COLS)
    at = ptr + rows[:, None] * n + cols[None, :]
    inside = (rows < n)[:, None] & (cols < n)[None, :]
    bias = tl.load(at) if EVEN else tl.load(at, mask=inside, other=0.0)
    return bias.to(tl.float32)


@triton.jit
def _member(number: tl.constexpr, s_size, MEMBERS: tl.constexpr):
    """A member of S that a program takes; the last program of an S that MEMBERS does not divide takes the
    last one again.
    """
    return tl.minimum(tl.program_id(2) * MEMBERS + number, s_size - 1).to(tl.int64)


@triton.jit
def _logits(left, right, bias, beyond, scale, EVEN: tl.constexpr):
    """Of a tile, queries by keys or keys by queries. Beside a mask of -1e9 float32 knows no other part."""
    logits = tl.fma(tl.dot(left, tl.trans(right), input_precision="ieee"), scale, bias)
    return logits if EVEN else tl.where(beyond, float("-inf"), logits)


@triton.jit
def _exponentials(logits, reference):
    """Over the rows' reference, which is in base 2."""
    return tl.exp2(tl.fma(logits, _LOG2E, -reference))


@triton.jit
def _place(x_ptr, batch, s_size, number: tl.constexpr, n, row, MEMBERS: tl.constexpr):
    """Where the queries of a member lie; keys, values and gates follow, each `row` further."""
    return x_ptr + (batch * s_size + _member(number, s_size, MEMBERS)) * n * 4 * row


@triton.jit
def _largest(q, x_ptr, bias_ptr, batch, s_size, n, row, q_start, end, scale, c: tl.constexpr,
             Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, EVEN: tl.constexpr,
             MEMBERS: tl.constexpr):  # fmt: skip
    """The largest logit of each row before key `end`, in base 2."""
    top = (tl.full([Q], float("-inf"), tl.float32),) * MEMBERS
    for k_start in range(0, end, K):
        bias = _load_bias(bias_ptr, n, q_start, k_start, Q, K, EVEN)
        beyond = (k_start + tl.arange(0, K) >= n)[None, :]
        tops = ()
        for m in tl.static_range(MEMBERS):
            place = _place(x_ptr, batch, s_size, m, n, row, MEMBERS)
            k = _load(place + row, 4 * row, n, k_start, c, K, C, EVEN)
            own = tl.max(_logits(q[m], k, bias, beyond, scale, EVEN), 1) * _LOG2E
            tops += (tl.maximum(top[m], own),)
        top = tops
    return top


@triton.jit
def _summed(q, reference, x_ptr, bias_ptr, batch, s_size, n, row, q_start, scale, c: tl.constexpr,
            Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, EVEN: tl.constexpr,
            MEMBERS: tl.constexpr):  # fmt: skip
    """Over all keys the exponentials' sum and the values' sum by them. Eight sums a row, which become one
    at the end, keep threads from exchanging theirs for every tile.
    """
    parts = (tl.zeros([Q, 8], tl.float32),) * MEMBERS
    acc = (tl.zeros([Q, C], tl.float32),) * MEMBERS
    for k_start in range(0, n, K):
        bias = _load_bias(bias_ptr, n, q_start, k_start, Q, K, EVEN)
        beyond = (k_start + tl.arange(0, K) >= n)[None, :]
        sums, accs = (), ()
        for m in tl.static_range(MEMBERS):
            place = _place(x_ptr, batch, s_size, m, n, row, MEMBERS)
            k = _load(place + row, 4 * row, n, k_start, c, K, C, EVEN)
            v = _load(place + 2 * row, 4 * row, n, k_start, c, K, C, EVEN)
            p = _exponentials(_logits(q[m], k, bias, beyond, scale, EVEN), reference[m][:, None])
            sums += (parts[m] + tl.sum(p.reshape(Q, K // 8, 8), 1),)
            accs += (tl.dot(p.to(v.dtype), v, acc[m], input_precision="ieee"),)
        parts, acc = sums, accs
    total = ()
    for m in tl.static_range(MEMBERS):
        total += (tl.sum(parts[m], 1),)
    return total, acc


@triton.jit
def _attention_forward(
    x_ptr, bias_ptr, out_ptr, reference_ptr, total_ptr, s_size, n, heads, scale, RANGE: tl.constexpr,
    c: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, EVEN: tl.constexpr,
    MEMBERS: tl.constexpr,
):  # fmt: skip
    q_start = tl.program_id(0) * Q
    head = tl.program_id(1) % heads
    batch = (tl.program_id(1) // heads).to(tl.int64)
    row = heads * c
    x_ptr += head * c
    bias_ptr += (batch * heads + head) * n * n
    q = ()
    for m in tl.static_range(MEMBERS):
        place = _place(x_ptr, batch, s_size, m, n, row, MEMBERS)
        q += (_load(place, 4 * row, n, q_start, c, Q, C, EVEN),)
    reference = _largest(q, x_ptr, bias_ptr, batch, s_size, n, row, q_start, _SAMPLE, scale, c, Q, _SAMPLE,
                         C, EVEN, MEMBERS)  # fmt: skip
    total, acc = _summed(q, reference, x_ptr, bias_ptr, batch, s_size, n, row, q_start, scale, c, Q, K, C,
                         EVEN, MEMBERS)  # fmt: skip
    fits = total[0] < RANGE
    for m in tl.static_range(1, MEMBERS):
        fits &= total[m] < RANGE
    if tl.min(fits.to(tl.int32), 0) == 0:
        reference = _largest(q, x_ptr, bias_ptr, batch, s_size, n, row, q_start, n, scale, c, Q, K, C, EVEN,
                             MEMBERS)  # fmt: skip
        total, acc = _summed(q, reference, x_ptr, bias_ptr, batch, s_size, n, row, q_start, scale, c, Q, K,
                             C, EVEN, MEMBERS)  # fmt: skip
    at_q = q_start + tl.arange(0, Q)
    for m in tl.static_range(MEMBERS):
        example = batch * s_size + _member(m, s_size, MEMBERS)
        gate = _load(x_ptr + example * n * 4 * row + 3 * row, 4 * row, n, q_start, c, Q, C, EVEN)
        out = acc[m] / total[m][:, None] * tl.sigmoid(gate.to(tl.float32))
        _store(out_ptr + example * n * row + head * c, out, row, n, q_start, c, Q, C, EVEN)
        at = (example * heads + head) * n + at_q
        tl.store(reference_ptr + at, reference[m], mask=at_q < n)
        tl.store(total_ptr + at, total[m], mask=at_q < n)


@triton.jit
def _gate_gradients(dout_ptr, out_ptr, gate_ptr, total_ptr, do_ptr, dgate_ptr, delta_ptr, row, n, q_start,
                    c: tl.constexpr, Q: tl.constexpr, C: tl.constexpr, EVEN: tl.constexpr):  # fmt: skip
    """Of a tile of queries: the gradient of the ungated output, and delta, its product with that output, over
    the rows' sums of exponentials; both are written too, and the gate's gradient.
    """
    dout = _load(dout_ptr, row, n, q_start, c, Q, C, EVEN)
    sigmoid = tl.sigmoid(_load(gate_ptr, 4 * row, n, q_start, c, Q, C, EVEN).to(tl.float32))
    product = dout.to(tl.float32) * _load(out_ptr, row, n, q_start, c, Q, C, EVEN).to(tl.float32)
    total = _load_row(total_ptr, n, q_start, 1.0, Q, EVEN)
    do = (dout.to(tl.float32) * sigmoid / total[:, None]).to(dout.dtype)
    delta = tl.sum(product, 1) / total
    _store(do_ptr, do, row, n, q_start, c, Q, C, EVEN)
    _store(dgate_ptr, product * (1.0 - sigmoid), 4 * row, n, q_start, c, Q, C, EVEN)
    at_q = q_start + tl.arange(0, Q)
    tl.store(delta_ptr + at_q, delta, mask=at_q < n)
    return do, delta


@triton.jit
def _logit_gradient(left, right, d_left, d_right, bias, reference, delta, beyond, scale, EVEN: tl.constexpr):
    """Exponentials and d(logits) of a tile, queries by keys or keys by queries, recomputed as in the forward
    pass; zero for keys beyond n and where the reference is infinite.
    """
    p = _exponentials(_logits(left, right, bias, beyond, scale, EVEN), reference)
    return p, p * (tl.dot(d_left, tl.trans(d_right), input_precision="ieee") - delta)


@triton.jit
def _attention_query_gradient(
    dout_ptr, x_ptr, bias_ptr, out_ptr, reference_ptr, total_ptr, dx_ptr, do_ptr, delta_ptr,
    s_size, n, heads, scale, c: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, EVEN: tl.constexpr, MEMBERS: tl.constexpr,
):  # fmt: skip
    q_start = tl.program_id(0) * Q
    head = tl.program_id(1) % heads
    batch = (tl.program_id(1) // heads).to(tl.int64)
    row = heads * c
    x_ptr += head * c
    dx_ptr += head * c
    bias_ptr += (batch * heads + head) * n * n
    q, do, reference, delta = (), (), (), ()
    for m in tl.static_range(MEMBERS):
        example = batch * s_size + _member(m, s_size, MEMBERS)
        at, narrow = example * n * 4 * row, example * n * row + head * c
        statistics = (example * heads + head) * n
        gated = _gate_gradients(dout_ptr + narrow, out_ptr + narrow, x_ptr + at + 3 * row,
                                total_ptr + statistics, do_ptr + narrow, dx_ptr + at + 3 * row,
                                delta_ptr + statistics, row, n, q_start, c, Q, C, EVEN)  # fmt: skip
        do += (gated[0],)
        delta += (gated[1][:, None],)
        q += (_load(x_ptr + at, 4 * row, n, q_start, c, Q, C, EVEN),)
        reference += (_load_row(reference_ptr + statistics, n, q_start, float("inf"), Q, EVEN)[:, None],)
    dq = (tl.zeros([Q, C], tl.float32),) * MEMBERS
    for k_start in range(0, n, K):
        bias = _load_bias(bias_ptr, n, q_start, k_start, Q, K, EVEN)
        beyond = (k_start + tl.arange(0, K) >= n)[None, :]
        sums = ()
        for m in tl.static_range(MEMBERS):
            place = _place(x_ptr, batch, s_size, m, n, row, MEMBERS)
            k = _load(place + row, 4 * row, n, k_start, c, K, C, EVEN)
            v = _load(place + 2 * row, 4 * row, n, k_start, c, K, C, EVEN)
            own = _logit_gradient(q[m], k, do[m], v, bias, reference[m], delta[m], beyond, scale, EVEN)
            sums += (tl.dot(own[1].to(k.dtype), k, dq[m], input_precision="ieee"),)
        dq = sums
    for m in tl.static_range(MEMBERS):
        place = _place(dx_ptr, batch, s_size, m, n, row, MEMBERS)
        _store(place, dq[m] * scale, 4 * row, n, q_start, c, Q, C, EVEN)


@triton.jit
def _attention_key_value_gradient(
    x_ptr, bias_ptr, do_ptr, reference_ptr, delta_ptr, dx_ptr,
    s_size, n, heads, scale, c: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, EVEN: tl.constexpr, MEMBERS: tl.constexpr,
):  # fmt: skip
    """All tiles stand transposed, keys by queries, as the products with them need; so does the bias."""
    k_start = tl.program_id(0) * K
    head = tl.program_id(1) % heads
    batch = (tl.program_id(1) // heads).to(tl.int64)
    row = heads * c
    x_ptr += head * c
    bias_ptr += (batch * heads + head) * n * n
    k, v = (), ()
    for m in tl.static_range(MEMBERS):
        place = _place(x_ptr, batch, s_size, m, n, row, MEMBERS)
        k += (_load(place + row, 4 * row, n, k_start, c, K, C, EVEN),)
        v += (_load(place + 2 * row, 4 * row, n, k_start, c, K, C, EVEN),)
    beyond = (k_start + tl.arange(0, K) >= n)[:, None]
    dk = (tl.zeros([K, C], tl.float32),) * MEMBERS
    dv = (tl.zeros([K, C], tl.float32),) * MEMBERS
    for q_start in range(0, n, Q):
        bias = _load_bias(bias_ptr, n, k_start, q_start, K, Q, EVEN)
        k_sums, v_sums = (), ()
        for m in tl.static_range(MEMBERS):
            example = batch * s_size + _member(m, s_size, MEMBERS)
            statistics = (example * heads + head) * n
            q = _load(x_ptr + example * n * 4 * row, 4 * row, n, q_start, c, Q, C, EVEN)
            do = _load(do_ptr + example * n * row + head * c, row, n, q_start, c, Q, C, EVEN)
            reference = _load_row(reference_ptr + statistics, n, q_start, float("inf"), Q, EVEN)[None, :]
            delta = _load_row(delta_ptr + statistics, n, q_start, 0.0, Q, EVEN)[None, :]
            own = _logit_gradient(k[m], q, v[m], do, bias, reference, delta, beyond, scale, EVEN)
            v_sums += (tl.dot(own[0].to(do.dtype), do, dv[m], input_precision="ieee"),)
            k_sums += (tl.dot(own[1].to(q.dtype), q, dk[m], input_precision="ieee"),)
        dk, dv = k_sums, v_sums
    for m in tl.static_range(MEMBERS):
        place = _place(dx_ptr, batch, s_size, m, n, row, MEMBERS) + head * c
        _store(place + row, dk[m] * scale, 4 * row, n, k_start, c, K, C, EVEN)
        _store(place + 2 * row, dv[m], 4 * row, n, k_start, c, K, C, EVEN)


@triton.jit
def _attention_bias_gradient(
    x_ptr, bias_ptr, do_ptr, reference_ptr, delta_ptr, dbias_ptr, s_size, n, heads, scale, k_tiles, n_maps,
    each, c: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    q_start = (tl.program_id(0) // k_tiles) * Q
    k_start = (tl.program_id(0) % k_tiles) * K
    head = tl.program_id(1) % heads
    batch = (tl.program_id(1) // heads).to(tl.int64)
    share = tl.program_id(2).to(tl.int64)
    row = heads * c
    x_ptr += head * c
    bias = _load_bias(bias_ptr + (batch * heads + head) * n * n, n, q_start, k_start, Q, K, EVEN)
    beyond = (k_start + tl.arange(0, K) >= n)[None, :]
    total = tl.zeros([Q, K], tl.float32)
    for s in range(share * each, tl.minimum(share * each + each, s_size)):
        example = batch * s_size + s
        place = x_ptr + example * n * 4 * row
        q = _load(place, 4 * row, n, q_start, c, Q, C, EVEN)
        k = _load(place + row, 4 * row, n, k_start, c, K, C, EVEN)
        v = _load(place + 2 * row, 4 * row, n, k_start, c, K, C, EVEN)
        do = _load(do_ptr + example * n * row + head * c, row, n, q_start, c, Q, C, EVEN)
        statistics = (example * heads + head) * n
        reference = _load_row(reference_ptr + statistics, n, q_start, float("inf"), Q, EVEN)[:, None]
        delta = _load_row(delta_ptr + statistics, n, q_start, 0.0, Q, EVEN)[:, None]
        own = _logit_gradient(q, k, do, v, bias, reference, delta, beyond, scale, EVEN)
        total += own[1]
    at_q, at_k = q_start + tl.arange(0, Q), k_start + tl.arange(0, K)
    inside = (at_q < n)[:, None] & (at_k < n)[None, :]
    base = (share * n_maps + batch * heads + head) * n * n
    tl.store(dbias_ptr + base + at_q[:, None] * n + at_k[None, :], total, mask=inside)


@torch.library.custom_op("foldwright::shared_bias_attention", mutates_args=())
def _attention(packed: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gated output; of each row of logits its reference, in base 2, and the exponentials' sum over it."""
    b, s, n, _, heads, c = packed.shape
    sizes = _tile(n, c, "forward", packed.dtype)
    out = packed.new_empty(b, s, n, heads * c)
    reference, total = (packed.new_empty(b, s, heads, n, dtype=torch.float32) for _ in range(2))
    _attention_forward[(triton.cdiv(n, sizes["Q"]), b * heads, triton.cdiv(s, sizes["MEMBERS"]))](
        packed.contiguous(), bias.contiguous(), out, reference, total, s, n, heads, c**-0.5,
        _range(packed.dtype), c, **sizes,
    )  # fmt: skip
    return out, reference, total


@_attention.register_fake
def _(packed: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    b, s, n, _, heads, c = packed.shape
    reference, total = (packed.new_empty(b, s, heads, n, dtype=torch.float32) for _ in range(2))
    return packed.new_empty(b, s, n, heads * c), reference, total


@torch.library.custom_op("foldwright::shared_bias_attention_backward", mutates_args=())
def _attention_backward(
    dout: Tensor, packed: Tensor, bias: Tensor, out: Tensor, reference: Tensor, total: Tensor
) -> tuple[Tensor, Tensor]:
    b, s, n, _, heads, c = packed.shape
    packed, bias = packed.contiguous(), bias.contiguous()
    d_packed, do, delta = torch.empty_like(packed), torch.empty_like(out), torch.empty_like(reference)
    common = (s, n, heads, c**-0.5)
    sizes = _tile(n, c, "query", packed.dtype)
    _attention_query_gradient[(triton.cdiv(n, sizes["Q"]), b * heads, triton.cdiv(s, sizes["MEMBERS"]))](
        dout.contiguous(), packed, bias, out, reference, total, d_packed, do, delta, *common, c, **sizes
    )
    sizes = _tile(n, c, "key_value", packed.dtype)
    _attention_key_value_gradient[(triton.cdiv(n, sizes["K"]), b * heads, triton.cdiv(s, sizes["MEMBERS"]))](
        packed, bias.mT.contiguous(), do, reference, delta, d_packed, *common, c, **sizes
    )
    sizes = _tile(n, c, "bias", packed.dtype)
    shares = min(_SHARES, s)
    dbias = torch.empty(shares, b, heads, n, n, dtype=torch.float32, device=packed.device)
    k_tiles = triton.cdiv(n, sizes["K"])
    _attention_bias_gradient[(triton.cdiv(n, sizes["Q"]) * k_tiles, b * heads, shares)](
        packed, bias, do, reference, delta, dbias, *common, k_tiles, b * heads, triton.cdiv(s, shares), c,
        **sizes,
    )  # fmt: skip
    return d_packed, dbias.sum(0).to(bias.dtype)


@_attention_backward.register_fake
def _(
    dout: Tensor, packed: Tensor, bias: Tensor, out: Tensor, reference: Tensor, total: Tensor
) -> tuple[Tensor, Tensor]:
    return packed.new_empty(packed.shape), bias.new_empty(bias.shape)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.set_materialize_grads(False)


def _gradient(ctx, dout, _dreference, _dtotal):
    return _attention_backward(dout, *ctx.saved_tensors)


torch.library.register_autograd("foldwright::shared_bias_attention", _gradient, setup_context=_setup)


@register("triangle_attention", "triton", supports=needs_triton, preference=2)
@register("attention_pair_bias", "triton", supports=needs_triton, preference=2)
def shared_bias_attention(packed: Tensor, bias: Tensor) -> Tensor:
    """See kernels.reference.shared_bias_attention."""
    return _attention(packed, bias)[0]
