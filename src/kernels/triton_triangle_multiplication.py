# SPDX-License-Identifier: Apache-2.0
"""Triangle multiplication with residual and dropout in three passes over z: project, multiply, gate out.

`_triangle_project` fuses the LayerNorm, the four projections and the gates, and writes a and b channel-major,
so that the product over the third token is one batched GEMM (cuBLAS, float32 accumulation).
`_triangle_gate_out` fuses the product's LayerNorm, the output projection, the gate, whose projection is
recomputed from z, and the residual. Only a, b and the product are kept. The backward pass recomputes all
projections and writes the gradients of the five projections of LN(z) side by side, [pairs, 5 c]: their
weights' gradients are then one product. z's is summed on the way. Everything is deterministic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels import reference, triton_wide_triangle
from foldwright.kernels.casts import cast
from foldwright.kernels.launch import needs_triton, next_power_of_two
from foldwright.kernels.registry import register
from foldwright.kernels.tiles import tile
from foldwright.kernels.triton_dropout import Drop, drop_of, kept_factors
from foldwright.kernels.triton_norm import (
    affine_norm,
    inside_width,
    norm_backward,
    scale_and_shift,
    statistics,
)
from foldwright.kernels.triton_pairs import apart, order, together
from foldwright.kernels.triton_sigmoid import sigmoid
from foldwright.kernels.triton_wide_triangle import EPS, Norm, Passes, pair_mask

MAX_CHANNELS = 512
_HELD = 256  # channels of a pair that a program holds on chip


@triton.jit
def _tile(n, ROWS: tl.constexpr):
    """Of a program: its example, the pairs of its tile within it, and the first of them in all examples.

    What is counted from the first pair fits into 32 bits, but for channel-major tensors.
    """
    batch = tl.program_id(1).to(tl.int64)
    begin = tl.program_id(0) * ROWS
    return batch, begin + tl.arange(0, ROWS), batch * n * n + begin


@triton.jit
def _inside(rows, out, n, c: tl.constexpr, OUT: tl.constexpr, EVEN: tl.constexpr):
    """Which elements of a tile exist. Constantly true, and left out by the compiler, where all do."""
    return ((rows < n * n) | EVEN)[:, None] & ((out < c) | (c % OUT == 0))[None, :]


@triton.jit
def _across(rows, out, n):
    """Where pairs of an example lie in its channel-major tensors [c, N, N]."""
    return out[None, :].to(tl.int64) * (n * n) + rows[:, None]


@triton.jit
def _weights(w_ptr, out, cols, c: tl.constexpr, OUT: tl.constexpr, C: tl.constexpr):
    """Rows `out` of a [c, c] weight: tile [OUT, C]."""
    inside = ((out < c) | (c % OUT == 0))[:, None] & inside_width(cols, c)
    return tl.load(w_ptr + out[:, None] * c + cols[None, :], mask=inside, other=0.0)


@triton.jit
def _times(x, w):
    """x [ROWS, C] times the rows of w [OUT, C]: float32 [ROWS, OUT]."""
    return tl.dot(x, tl.trans(w), input_precision="ieee")


@triton.jit
def _paired_weights(w_ptr, start, cols, c: tl.constexpr, OUT: tl.constexpr, C: tl.constexpr):
    """Rows of a's or b's gate and value weights, in the order of `triton_pairs.order`: tile [2 OUT, C]."""
    which, row = order(start, OUT)
    inside = ((row < c) | (c % OUT == 0))[:, None] & inside_width(cols, c)
    at = (which * (2 * c * c) + row * c)[:, None] + cols[None, :]
    return tl.load(w_ptr + at, mask=inside, other=0.0)


@triton.jit
def _gate_and_value(x, w, OUT: tl.constexpr):
    """Gate's logit and value [ROWS, OUT], by paired weights."""
    return apart(_times(x, w), x.shape[0], OUT)


@triton.jit
def _triangle_project(z_ptr, mask_ptr, nw_ptr, nb_ptr, w_ptr, a_ptr, b_ptr, n, c: tl.constexpr, eps,
                      EVEN: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr,
                      C: tl.constexpr):  # fmt: skip
    batch, rows, first = _tile(n, ROWS)
    cols = tl.arange(0, C)
    at = tl.arange(0, ROWS)[:, None] * c + cols[None, :]
    z = tl.load(z_ptr + first * c + at, mask=_inside(rows, cols, n, c, C, EVEN), other=0.0)
    x, _, _, _ = affine_norm(z.to(tl.float32), nw_ptr, nb_ptr, cols, c, eps)
    x = x.to(z.dtype)
    keep = pair_mask(mask_ptr + batch * n, rows, n)[:, None]
    a_ptr += batch * n * n * c
    b_ptr += batch * n * n * c
    for start in range(0, c, OUT):
        out = start + tl.arange(0, OUT)
        at_out, inside = _across(rows, out, n), _inside(rows, out, n, c, OUT, EVEN)
        w_a = _paired_weights(w_ptr, start, cols, c, OUT, C)
        w_b = _paired_weights(w_ptr + c * c, start, cols, c, OUT, C)
        gate, value = _gate_and_value(x, w_a, OUT)
        a = sigmoid(gate) * value * keep
        tl.store(a_ptr + at_out, a.to(a_ptr.dtype.element_ty), mask=inside)
        gate, value = _gate_and_value(x, w_b, OUT)
        b = sigmoid(gate) * value * keep
        tl.store(b_ptr + at_out, b.to(b_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _triangle_gate_out(z_ptr, p_ptr, keep_ptr, niw_ptr, nib_ptr, now_ptr, nob_ptr, wo_ptr, wg_ptr, out_ptr,
                       n, c: tl.constexpr, eps, scale, DROPS: tl.constexpr, EVEN: tl.constexpr,
                       ROWS: tl.constexpr, OUT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    batch, rows, first = _tile(n, ROWS)
    cols, local = tl.arange(0, C), tl.arange(0, ROWS)[:, None] * c
    z_ptr += first * c
    p_ptr += batch * n * n * c
    inside = _inside(rows, cols, n, c, C, EVEN)
    z = tl.load(z_ptr + local + cols[None, :], mask=inside, other=0.0)
    product = tl.load(p_ptr + _across(rows, cols, n), mask=inside, other=0.0)
    x, _, _, _ = affine_norm(z.to(tl.float32), niw_ptr, nib_ptr, cols, c, eps)
    y, _, _, _ = affine_norm(product.to(tl.float32), now_ptr, nob_ptr, cols, c, eps)
    x, y = x.to(z.dtype), y.to(z.dtype)
    for start in range(0, c, OUT):
        out = start + tl.arange(0, OUT)
        inside_out = _inside(rows, out, n, c, OUT, EVEN)
        at = local + out[None, :]
        residual = tl.load(
            z_ptr + at, mask=inside_out, other=0.0
        )  # before the products, which hide its delay
        if DROPS:
            factors = kept_factors(keep_ptr + batch * n * c, rows % n, out, c, scale, inside_out)
        w_o, w_g = _weights(wo_ptr, out, cols, c, OUT, C), _weights(wg_ptr, out, cols, c, OUT, C)
        update = _times(y, w_o) * sigmoid(_times(x, w_g))
        if DROPS:
            update *= factors
        update += residual.to(tl.float32)
        tl.store(out_ptr + first * c + at, update.to(out_ptr.dtype.element_ty), mask=inside_out)


@triton.jit
def _triangle_gate_out_backward(dy_ptr, z_ptr, p_ptr, keep_ptr, niw_ptr, nib_ptr, now_ptr, nob_ptr, wo_ptr,
                                wg_ptr, dp_ptr, y_ptr, dv_ptr, d_ptr, dnow_ptr, dnob_ptr,
                                n, c: tl.constexpr, eps, scale, DROPS: tl.constexpr, EVEN: tl.constexpr,
                                ROWS: tl.constexpr, OUT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Gradient of the product (channel-major); LN(product) and the gradient of its projection; the gradient
    of the gate's logit, in columns 4 c to 5 c of d.
    """
    batch, rows, first = _tile(n, ROWS)
    cols, local = tl.arange(0, C), tl.arange(0, ROWS)[:, None] * c
    inside = _inside(rows, cols, n, c, C, EVEN)
    at = local + cols[None, :]
    p_ptr += batch * n * n * c
    z = tl.load(z_ptr + first * c + at, mask=inside, other=0.0)
    product = tl.load(p_ptr + _across(rows, cols, n), mask=inside, other=0.0).to(tl.float32)
    x, _, _, _ = affine_norm(z.to(tl.float32), niw_ptr, nib_ptr, cols, c, eps)
    mean, rstd = statistics(product, cols, c, eps)
    w, b = scale_and_shift(now_ptr, nob_ptr, cols, c)
    x = x.to(z.dtype)
    y = ((product - mean[:, None]) * rstd[:, None] * w[None, :] + b[None, :]).to(z.dtype)
    tl.store(y_ptr + first * c + at, y, mask=inside)
    d = tl.zeros([ROWS, C], tl.float32)
    for start in range(0, c, OUT):
        out = start + tl.arange(0, OUT)
        inside_out = _inside(rows, out, n, c, OUT, EVEN)
        at_out = local + out[None, :]
        dy = tl.load(dy_ptr + first * c + at_out, mask=inside_out, other=0.0).to(tl.float32)
        if DROPS:
            dy *= kept_factors(keep_ptr + batch * n * c, rows % n, out, c, scale, inside_out)
        w_o = _weights(wo_ptr, out, cols, c, OUT, C)
        gate = sigmoid(_times(x, _weights(wg_ptr, out, cols, c, OUT, C)))
        value = _times(y, w_o)
        d_value = dy * gate
        d_gate = (d_value * value * (1.0 - gate)).to(z.dtype)
        d_value = d_value.to(z.dtype)
        d = tl.dot(d_value, w_o, d, input_precision="ieee")
        tl.store(dv_ptr + first * c + at_out, d_value, mask=inside_out)
        tl.store(d_ptr + (first * 5 + 4) * c + local * 5 + out[None, :], d_gate, mask=inside_out)
    product = tl.load(p_ptr + _across(rows, cols, n), mask=inside, other=0.0)  # not held through the loop
    hat = (product.to(tl.float32) - mean[:, None]) * rstd[:, None]
    program = batch * tl.num_programs(0) + tl.program_id(0)
    tl.store(dnow_ptr + program * c + cols, tl.sum(d * hat, 0), mask=cols < c)
    tl.store(dnob_ptr + program * c + cols, tl.sum(d, 0), mask=cols < c)
    d = norm_backward(d, hat, rstd, w, c)
    tl.store(dp_ptr + batch * n * n * c + _across(rows, cols, n), d.to(dp_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gated_gradients(x, g, keep, d_ptr, w, d, at_d, inside, c: tl.constexpr, OUT: tl.constexpr):
    """From the gradient of a slice of a's or b's channels those of gate logit and value, stored, and added to
    LN(z)'s.
    """
    g = g.to(tl.float32) * keep
    gate, value = _gate_and_value(x, w, OUT)
    gate = sigmoid(gate)
    d_value = g * gate
    d_gate = (d_value * value * (1.0 - gate)).to(x.dtype)
    d_value = d_value.to(x.dtype)
    tl.store(d_ptr + at_d, d_gate, mask=inside)
    tl.store(d_ptr + at_d + 2 * c, d_value, mask=inside)
    return tl.dot(together(d_gate, d_value, x.shape[0], OUT), w, d, input_precision="ieee")


@triton.jit
def _triangle_project_backward(da_ptr, db_ptr, dy_ptr, z_ptr, mask_ptr, nw_ptr, nb_ptr, w_ptr, wg_ptr, x_ptr,
                               dz_ptr, d_ptr, dnw_ptr, dnb_ptr, n, c: tl.constexpr, eps, EVEN: tl.constexpr,
                               ROWS: tl.constexpr, OUT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """LN(z); gradients of gate logits and values of a and b, in columns 0 to 4 c of d; the gradient of z, by
    way of all five projections and of the residual.
    """
    batch, rows, first = _tile(n, ROWS)
    cols, local = tl.arange(0, C), tl.arange(0, ROWS)[:, None] * c
    inside = _inside(rows, cols, n, c, C, EVEN)
    at = local + cols[None, :]
    z = tl.load(z_ptr + first * c + at, mask=inside, other=0.0).to(tl.float32)
    mean, rstd = statistics(z, cols, c, eps)
    w, b = scale_and_shift(nw_ptr, nb_ptr, cols, c)
    x = ((z - mean[:, None]) * rstd[:, None] * w[None, :] + b[None, :]).to(z_ptr.dtype.element_ty)
    tl.store(x_ptr + first * c + at, x, mask=inside)
    keep = pair_mask(mask_ptr + batch * n, rows, n)[:, None]
    da_ptr += batch * n * n * c
    db_ptr += batch * n * n * c
    d_ptr += first * 5 * c
    d = tl.zeros([ROWS, C], tl.float32)
    for start in range(0, c, OUT):
        out = start + tl.arange(0, OUT)
        inside_out = _inside(rows, out, n, c, OUT, EVEN)
        at_g, at_d = _across(rows, out, n), local * 5 + out[None, :]
        da = tl.load(
            da_ptr + at_g, mask=inside_out, other=0.0
        )  # all before the products, which hide the delay
        db = tl.load(db_ptr + at_g, mask=inside_out, other=0.0)
        d_gate = tl.load(d_ptr + 4 * c + at_d, mask=inside_out, other=0.0)
        w_a = _paired_weights(w_ptr, start, cols, c, OUT, C)
        w_b = _paired_weights(w_ptr + c * c, start, cols, c, OUT, C)
        d = _gated_gradients(x, da, keep, d_ptr, w_a, d, at_d, inside_out, c, OUT)
        d = _gated_gradients(x, db, keep, d_ptr + c, w_b, d, at_d, inside_out, c, OUT)
        d = tl.dot(d_gate, _weights(wg_ptr, out, cols, c, OUT, C), d, input_precision="ieee")
    z = tl.load(z_ptr + first * c + at, mask=inside, other=0.0)  # not held through the loop
    dy = tl.load(dy_ptr + first * c + at, mask=inside, other=0.0).to(tl.float32)
    hat = (z.to(tl.float32) - mean[:, None]) * rstd[:, None]
    program = batch * tl.num_programs(0) + tl.program_id(0)
    tl.store(dnw_ptr + program * c + cols, tl.sum(d * hat, 0), mask=cols < c)
    tl.store(dnb_ptr + program * c + cols, tl.sum(d, 0), mask=cols < c)
    dz = norm_backward(d, hat, rstd, w, c) + dy
    tl.store(dz_ptr + first * c + at, dz.to(dz_ptr.dtype.element_ty), mask=inside)


Launch = tuple[dict[str, int], tuple[int, int]]


def _launch(z: Tensor, kernel: str) -> Launch:
    """Constexpr sizes with launch options of one kernel, and its grid over tiles of pairs and examples."""
    b, n, _, c = z.shape
    width = next_power_of_two(c)
    sizes = {"C": max(16, width)} | tile("triangle_multiplication", kernel, width, z.dtype)
    sizes["EVEN"] = n * n % sizes["ROWS"] == 0
    return sizes, (triton.cdiv(n * n, sizes["ROWS"]), b)


def _project_held(z: Tensor, mask: Tensor, norm: Norm, w: Tensor) -> tuple[Tensor, Tensor]:
    b, n, _, c = z.shape
    sizes, grid = _launch(z, "project")
    left, right = (z.new_empty(b, c, n, n) for _ in range(2))
    _triangle_project[grid](z, mask, *norm, w, left, right, n, c, EPS, **sizes)
    return left, right


def _gate_out_held(
    z: Tensor, product: Tensor, norm_in: Norm, norm_out: Norm, w_out: Tensor, w_gate: Tensor, drop: Drop
) -> Tensor:
    _, n, _, c = z.shape
    out = torch.empty_like(z)
    sizes, grid = _launch(z, "gate_out")
    _triangle_gate_out[grid](
        z, product, drop.keep, *norm_in, *norm_out, w_out, w_gate, out, n, c, EPS, drop.scale,
        DROPS=drop.scale != 1.0, **sizes,
    )  # fmt: skip
    return out


def _gate_out_backward_held(
    dy: Tensor, z: Tensor, product: Tensor, norm_in: Norm, norm_out: Norm, w_out: Tensor, w_gate: Tensor,
    drop: Drop, d: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    b, n, _, c = z.shape
    sizes, grid = _launch(z, "gate_out_backward")
    d_product, y, d_value = torch.empty_like(product), z.new_empty(b * n * n, c), z.new_empty(b * n * n, c)
    d_norm = z.new_empty(2, grid[0] * b, c, dtype=torch.float32)
    _triangle_gate_out_backward[grid](
        dy, z, product, drop.keep, *norm_in, *norm_out, w_out, w_gate, d_product, y, d_value, d, *d_norm,
        n, c, EPS, drop.scale, DROPS=drop.scale != 1.0, **sizes,
    )  # fmt: skip
    return d_product, d_norm.sum(1), d_value.t() @ y


def _project_backward_held(
    d_left: Tensor, d_right: Tensor, dy: Tensor, z: Tensor, mask: Tensor, norm: Norm, w: Tensor,
    w_gate: Tensor, d: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    b, n, _, c = z.shape
    sizes, grid = _launch(z, "project_backward")
    x, dz = z.new_empty(b * n * n, c), torch.empty_like(z)
    d_norm = z.new_empty(2, grid[0] * b, c, dtype=torch.float32)
    _triangle_project_backward[grid](
        d_left, d_right, dy, z, mask, *norm, w, w_gate, x, dz, d, *d_norm, n, c, EPS, **sizes
    )
    return x, dz, d_norm.sum(1)


_HELD_PASSES = Passes(_project_held, _gate_out_held, _gate_out_backward_held, _project_backward_held)


def _passes(z: Tensor) -> Passes:
    return _HELD_PASSES if z.shape[-1] <= _HELD else triton_wide_triangle.PASSES


def _multiply(a: Tensor, b: Tensor, outgoing: bool) -> Tensor:
    """x_ij = Σ_k a_ik b_jk (outgoing) or Σ_k a_ki b_kj; a, b [B, c, N, N]."""
    return a @ b.transpose(-1, -2) if outgoing else a.transpose(-1, -2) @ b


def _multiply_backward(d: Tensor, a: Tensor, b: Tensor, outgoing: bool) -> tuple[Tensor, Tensor]:
    if outgoing:
        return d @ b, d.transpose(-1, -2) @ a
    return b @ d.transpose(-1, -2), a @ d


@torch.library.custom_op("foldwright::triangle_multiplication", mutates_args=())
def _triangle_multiplication(
    z: Tensor,
    mask: Tensor,
    norm_in_w: Tensor,
    norm_in_b: Tensor,
    w_in: Tensor,
    norm_out_w: Tensor,
    norm_out_b: Tensor,
    w_out: Tensor,
    w_gate: Tensor,
    outgoing: bool,
    seed: Tensor,
    rate: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z, mask = z.contiguous(), mask.contiguous()
    low_in, low_out, low_gate = (cast(w, z.dtype).contiguous() for w in (w_in, w_out, w_gate))
    norm_in, norm_out = (norm_in_w, norm_in_b), (norm_out_w, norm_out_b)
    passes = _passes(z)
    left, right = passes.project(z, mask, norm_in, low_in)
    product = _multiply(left, right, outgoing)
    drop = drop_of(seed, rate, z.shape[2] * z.shape[3])
    out = passes.gate_out(z, product, norm_in, norm_out, low_out, low_gate, drop)
    return out, left, right, product


@_triangle_multiplication.register_fake
def _(
    z: Tensor,
    mask: Tensor,
    norm_in_w: Tensor,
    norm_in_b: Tensor,
    w_in: Tensor,
    norm_out_w: Tensor,
    norm_out_b: Tensor,
    w_out: Tensor,
    w_gate: Tensor,
    outgoing: bool,
    seed: Tensor,
    rate: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    b, n, _, c = z.shape
    left, right, product = (z.new_empty(b, c, n, n) for _ in range(3))
    return z.new_empty(z.shape), left, right, product


@torch.library.custom_op("foldwright::triangle_multiplication_backward", mutates_args=())
def _triangle_multiplication_backward(
    dy: Tensor,
    z: Tensor,
    mask: Tensor,
    norm_in_w: Tensor,
    norm_in_b: Tensor,
    w_in: Tensor,
    norm_out_w: Tensor,
    norm_out_b: Tensor,
    w_out: Tensor,
    w_gate: Tensor,
    left: Tensor,
    right: Tensor,
    product: Tensor,
    outgoing: bool,
    seed: Tensor,
    rate: float,
) -> list[Tensor]:
    """Gradients of z, norm_in and norm_out (float32 [2, c]), w_in, w_out and w_gate."""
    z, dy, mask = z.contiguous(), dy.contiguous(), mask.contiguous()
    b, n, _, c = z.shape
    low_in, low_out, low_gate = (cast(w, z.dtype).contiguous() for w in (w_in, w_out, w_gate))
    norm_in, norm_out = (norm_in_w, norm_in_b), (norm_out_w, norm_out_b)
    d = z.new_empty(b * n * n, 5 * c)
    passes = _passes(z)
    d_product, d_norm_out, dw_out = passes.gate_out_backward(
        dy, z, product, norm_in, norm_out, low_out, low_gate, drop_of(seed, rate, z.shape[2] * z.shape[3]), d
    )
    d_left, d_right = (g.contiguous() for g in _multiply_backward(d_product, left, right, outgoing))
    x, dz, d_norm_in = passes.project_backward(d_left, d_right, dy, z, mask, norm_in, low_in, low_gate, d)
    dw = d.t() @ x
    dw_in, dw_gate = _own(dw[: 4 * c], w_in.dtype), _own(dw[4 * c :], w_gate.dtype)
    return [dz, d_norm_in, d_norm_out, dw_in, dw_out.to(w_out.dtype), dw_gate]


def _own(grad: Tensor, dtype: torch.dtype) -> Tensor:
    """A part of a gradient in a dtype and in memory of its own: outputs of an op must not share any."""
    return grad.to(dtype, copy=True) if grad.dtype == dtype else grad.to(dtype)


@_triangle_multiplication_backward.register_fake
def _(
    dy: Tensor,
    z: Tensor,
    mask: Tensor,
    norm_in_w: Tensor,
    norm_in_b: Tensor,
    w_in: Tensor,
    norm_out_w: Tensor,
    norm_out_b: Tensor,
    w_out: Tensor,
    w_gate: Tensor,
    left: Tensor,
    right: Tensor,
    product: Tensor,
    outgoing: bool,
    seed: Tensor,
    rate: float,
) -> list[Tensor]:
    norms = (norm_in_w.new_empty(2, z.shape[-1], dtype=torch.float32) for _ in range(2))
    return [z.new_empty(z.shape), *norms, *(w.new_empty(w.shape) for w in (w_in, w_out, w_gate))]


def _setup(ctx, inputs, output) -> None:
    ctx.outgoing, seed, ctx.rate = inputs[9:]
    ctx.save_for_backward(*inputs[:9], *output[1:], seed)
    ctx.set_materialize_grads(False)


def _gradient(ctx, dy, _left, _right, _product):
    *saved, seed = ctx.saved_tensors
    dz, d_norm_in, d_norm_out, dw_in, dw_out, dw_gate = _triangle_multiplication_backward(
        dy, *saved, ctx.outgoing, seed, ctx.rate
    )
    of_norms = (d.to(saved[2].dtype) for d in (d_norm_in, d_norm_out))
    (d_in_w, d_in_b), (d_out_w, d_out_b) = of_norms
    return dz, None, d_in_w, d_in_b, dw_in, d_out_w, d_out_b, dw_out, dw_gate, None, None, None


torch.library.register_autograd("foldwright::triangle_multiplication", _gradient, setup_context=_setup)


@register("triangle_multiplication", "triton", supports=needs_triton, preference=2)
def triangle_multiplication(
    z: Tensor,
    mask: Tensor,
    norm_in_w: Tensor,
    norm_in_b: Tensor,
    w_in: Tensor,
    norm_out_w: Tensor,
    norm_out_b: Tensor,
    w_out: Tensor,
    w_gate: Tensor,
    outgoing: bool,
    seed: Tensor,
    rate: float,
) -> Tensor:
    """See kernels.reference.triangle_multiplication."""
    arguments = (
        z, mask, norm_in_w, norm_in_b, w_in, norm_out_w, norm_out_b, w_out, w_gate, outgoing, seed, rate,
    )  # fmt: skip
    if z.shape[-1] > MAX_CHANNELS:
        return reference.triangle_multiplication(*arguments)
    return _triangle_multiplication(*arguments)[0]
