# SPDX-License-Identifier: Apache-2.0
"""Triangle multiplication in three passes over z: project, multiply, gate out.

`_project` fuses the LayerNorm, the four projections and the gates, and writes a and b channel-major, so that
the product over the third token is one batched GEMM (cuBLAS, float32 accumulation). `_gate_out` fuses the
product's LayerNorm, the output projection and the gate, whose projection is recomputed from z. Only a, b and
the product are kept. The backward pass recomputes all projections and writes the gradients of the five
projections of LN(z) side by side, [pairs, 5 c]: their weights' and LN(z)'s gradients are then one product
each. Everything is deterministic.
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
from foldwright.kernels.triton_layer_norm import _layer_norm_backward
from foldwright.kernels.triton_norm import affine_norm, norm_backward
from foldwright.kernels.triton_wide_triangle import EPS, Norm, Passes

MAX_CHANNELS = 512
_HELD = 256  # channels of a pair that a program holds on chip


@triton.jit
def _weights(w_ptr, out, cols, c):
    """Rows `out` of a [c, c] weight: tile [OUT, C]."""
    inside = (out < c)[:, None] & (cols < c)[None, :]
    return tl.load(w_ptr + out[:, None] * c + cols[None, :], mask=inside, other=0.0)


@triton.jit
def _pair_mask(mask_ptr, rows, n):
    """token_mask[i] and token_mask[j] of pairs row = i n + j, as float32."""
    inside = rows < n * n
    i = tl.load(mask_ptr + rows // n, mask=inside, other=0).to(tl.float32)
    return i * tl.load(mask_ptr + rows % n, mask=inside, other=0).to(tl.float32)


@triton.jit
def _project(z_ptr, mask_ptr, nw_ptr, nb_ptr, w_ptr, a_ptr, b_ptr, n, c, eps,
             ROWS: tl.constexpr, OUT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    size = n * n
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, C)
    z_ptr += batch * size * c
    inside = (rows < size)[:, None] & (cols < c)[None, :]
    z = tl.load(z_ptr + rows[:, None].to(tl.int64) * c + cols[None, :], mask=inside, other=0.0)
    x, _, _, _ = affine_norm(z.to(tl.float32), nw_ptr, nb_ptr, cols, c, eps)
    x = x.to(z.dtype)
    keep = _pair_mask(mask_ptr + batch * n, rows, n)
    square = c * c
    for start in range(0, c, OUT):
        out = start + tl.arange(0, OUT)
        at = (batch * c + out[None, :]) * size + rows[:, None]
        inside_out = (rows < size)[:, None] & (out < c)[None, :]
        gate = tl.dot(x, tl.trans(_weights(w_ptr, out, cols, c)), input_precision="ieee")
        value = tl.dot(x, tl.trans(_weights(w_ptr + 2 * square, out, cols, c)), input_precision="ieee")
        a = tl.sigmoid(gate) * value * keep[:, None]
        tl.store(a_ptr + at, a.to(a_ptr.dtype.element_ty), mask=inside_out)
        gate = tl.dot(x, tl.trans(_weights(w_ptr + square, out, cols, c)), input_precision="ieee")
        value = tl.dot(x, tl.trans(_weights(w_ptr + 3 * square, out, cols, c)), input_precision="ieee")
        b = tl.sigmoid(gate) * value * keep[:, None]
        tl.store(b_ptr + at, b.to(b_ptr.dtype.element_ty), mask=inside_out)


@triton.jit
def _normed_pair(z_ptr, p_ptr, niw_ptr, nib_ptr, now_ptr, nob_ptr, batch, rows, cols, size, c, eps):
    """LN(z) and LN(product) of a tile of pairs (the product is channel-major), with x_hat, 1/σ, w of the
    latter.
    """
    inside = (rows < size)[:, None] & (cols < c)[None, :]
    at = (batch * size + rows[:, None].to(tl.int64)) * c + cols[None, :]
    z = tl.load(z_ptr + at, mask=inside, other=0.0)
    x, _, _, _ = affine_norm(z.to(tl.float32), niw_ptr, nib_ptr, cols, c, eps)
    product = tl.load(p_ptr + (batch * c + cols[None, :]) * size + rows[:, None], mask=inside, other=0.0)
    y, hat, rstd, w = affine_norm(product.to(tl.float32), now_ptr, nob_ptr, cols, c, eps)
    return x.to(z.dtype), y.to(z.dtype), hat, rstd, w


@triton.jit
def _gate_out(z_ptr, p_ptr, niw_ptr, nib_ptr, now_ptr, nob_ptr, wo_ptr, wg_ptr, out_ptr, n, c, eps,
              ROWS: tl.constexpr, OUT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    size = n * n
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, C)
    x, y, _, _, _ = _normed_pair(
        z_ptr, p_ptr, niw_ptr, nib_ptr, now_ptr, nob_ptr, batch, rows, cols, size, c, eps
    )
    for start in range(0, c, OUT):
        out = start + tl.arange(0, OUT)
        value = tl.dot(y, tl.trans(_weights(wo_ptr, out, cols, c)), input_precision="ieee")
        gate = tl.dot(x, tl.trans(_weights(wg_ptr, out, cols, c)), input_precision="ieee")
        at = (batch * size + rows[:, None].to(tl.int64)) * c + out[None, :]
        inside = (rows < size)[:, None] & (out < c)[None, :]
        tl.store(out_ptr + at, (value * tl.sigmoid(gate)).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gate_out_gradients(x, y, dy_ptr, wo_ptr, wg_ptr, batch, rows, out, cols, size, c):
    """Of a slice of output channels: gradients of the projected value and of the gate's logit, and both
    weights.
    """
    w_o, w_g = _weights(wo_ptr, out, cols, c), _weights(wg_ptr, out, cols, c)
    at = (batch * size + rows[:, None].to(tl.int64)) * c + out[None, :]
    dy = tl.load(dy_ptr + at, mask=(rows < size)[:, None] & (out < c)[None, :], other=0.0).to(tl.float32)
    value = tl.dot(y, tl.trans(w_o), input_precision="ieee")
    gate = tl.sigmoid(tl.dot(x, tl.trans(w_g), input_precision="ieee"))
    return (dy * gate).to(x.dtype), (dy * value * gate * (1.0 - gate)).to(x.dtype), w_o, w_g


@triton.jit
def _gate_out_backward(dy_ptr, z_ptr, p_ptr, niw_ptr, nib_ptr, now_ptr, nob_ptr, wo_ptr, wg_ptr,
                       dp_ptr, y_ptr, dv_ptr, d_ptr, dnow_ptr, dnob_ptr, n, c, eps,
                       ROWS: tl.constexpr, OUT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Gradient of the product (channel-major); LN(product) and the gradient of its projection; the gradient
    of the gate's logit, in columns 4 c to 5 c of d.
    """
    size = n * n
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, C)
    x, y, hat, rstd, w = _normed_pair(
        z_ptr, p_ptr, niw_ptr, nib_ptr, now_ptr, nob_ptr, batch, rows, cols, size, c, eps
    )
    pair = (batch * size + rows[:, None].to(tl.int64)) * c
    inside = (rows < size)[:, None] & (cols < c)[None, :]
    tl.store(y_ptr + pair + cols[None, :], y, mask=inside)
    d = tl.zeros([ROWS, C], tl.float32)
    for start in range(0, c, OUT):
        out = start + tl.arange(0, OUT)
        d_value, d_gate, w_o, _ = _gate_out_gradients(
            x, y, dy_ptr, wo_ptr, wg_ptr, batch, rows, out, cols, size, c
        )
        d = tl.dot(d_value, w_o, d, input_precision="ieee")
        inside_out = (rows < size)[:, None] & (out < c)[None, :]
        tl.store(dv_ptr + pair + out[None, :], d_value, mask=inside_out)
        tl.store(d_ptr + 5 * pair + 4 * c + out[None, :], d_gate, mask=inside_out)
    program = batch * tl.num_programs(0) + tl.program_id(0)
    tl.store(dnow_ptr + program * c + cols, tl.sum(d * hat, 0), mask=cols < c)
    tl.store(dnob_ptr + program * c + cols, tl.sum(d, 0), mask=cols < c)
    d = norm_backward(d, hat, rstd, w, c)
    channel_major = (batch * c + cols[None, :]) * size + rows[:, None]
    tl.store(dp_ptr + channel_major, d.to(dp_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gated_gradients(x, keep, g_ptr, w_ptr, d_ptr, which, batch, rows, out, cols, size, c):
    """Of a slice of a's (`which` 0) or b's (1) channels: gradients of gate logit and value, into d."""
    square = c * c
    w_g = _weights(w_ptr + which * square, out, cols, c)
    w_v = _weights(w_ptr + (2 + which) * square, out, cols, c)
    inside = (rows < size)[:, None] & (out < c)[None, :]
    g = tl.load(g_ptr + (batch * c + out[None, :]) * size + rows[:, None], mask=inside, other=0.0)
    g = g.to(tl.float32) * keep[:, None]
    gate = tl.sigmoid(tl.dot(x, tl.trans(w_g), input_precision="ieee"))
    value = tl.dot(x, tl.trans(w_v), input_precision="ieee")
    at = (batch * size + rows[:, None].to(tl.int64)) * 5 * c + which * c + out[None, :]
    d_gate = g * value * gate * (1.0 - gate)
    tl.store(d_ptr + at, d_gate.to(d_ptr.dtype.element_ty), mask=inside)
    tl.store(d_ptr + at + 2 * c, (g * gate).to(d_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _project_backward(da_ptr, db_ptr, z_ptr, mask_ptr, nw_ptr, nb_ptr, w_ptr, x_ptr, mean_ptr, rstd_ptr,
                      d_ptr, n, c, eps, ROWS: tl.constexpr, OUT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """LN(z) with its statistics; gradients of gate logits and values of a and b, in columns 0 to 4 c of d."""
    size = n * n
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, C)
    inside = (rows < size)[:, None] & (cols < c)[None, :]
    at = (batch * size + rows[:, None].to(tl.int64)) * c + cols[None, :]
    z = tl.load(z_ptr + at, mask=inside, other=0.0)
    x, _, rstd, _ = affine_norm(z.to(tl.float32), nw_ptr, nb_ptr, cols, c, eps)
    x = x.to(z.dtype)
    tl.store(x_ptr + at, x, mask=inside)
    tl.store(mean_ptr + batch * size + rows, tl.sum(z.to(tl.float32), 1) / c, mask=rows < size)
    tl.store(rstd_ptr + batch * size + rows, rstd, mask=rows < size)
    keep = _pair_mask(mask_ptr + batch * n, rows, n)
    for start in range(0, c, OUT):
        out = start + tl.arange(0, OUT)
        _gated_gradients(x, keep, da_ptr, w_ptr, d_ptr, 0, batch, rows, out, cols, size, c)
        _gated_gradients(x, keep, db_ptr, w_ptr, d_ptr, 1, batch, rows, out, cols, size, c)


Launch = tuple[dict[str, int], tuple[int, int]]


def _launch(z: Tensor, kernel: str) -> Launch:
    """Constexpr sizes with launch options of one kernel, and its grid over tiles of pairs and examples."""
    b, n, _, c = z.shape
    width = next_power_of_two(c)
    sizes = {"C": max(16, width)} | tile("triangle_multiplication", kernel, width, z.dtype)
    return sizes, (triton.cdiv(n * n, sizes["ROWS"]), b)


def _project_held(z: Tensor, mask: Tensor, norm: Norm, w: Tensor) -> tuple[Tensor, Tensor]:
    b, n, _, c = z.shape
    sizes, grid = _launch(z, "project")
    left, right = (z.new_empty(b, c, n, n) for _ in range(2))
    _project[grid](z, mask, *norm, w, left, right, n, c, EPS, **sizes)
    return left, right


def _gate_out_held(
    z: Tensor, product: Tensor, norm_in: Norm, norm_out: Norm, w_out: Tensor, w_gate: Tensor
) -> Tensor:
    _, n, _, c = z.shape
    out = torch.empty_like(z)
    sizes, grid = _launch(z, "gate_out")
    _gate_out[grid](z, product, *norm_in, *norm_out, w_out, w_gate, out, n, c, EPS, **sizes)
    return out


def _gate_out_backward_held(
    dy: Tensor, z: Tensor, product: Tensor, norm_in: Norm, norm_out: Norm, w_out: Tensor, w_gate: Tensor,
    d: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    b, n, _, c = z.shape
    sizes, grid = _launch(z, "gate_out_backward")
    d_product, y, d_value = torch.empty_like(product), z.new_empty(b * n * n, c), z.new_empty(b * n * n, c)
    d_norm_w, d_norm_b = (z.new_empty(grid[0] * b, c, dtype=torch.float32) for _ in range(2))
    _gate_out_backward[grid](
        dy, z, product, *norm_in, *norm_out, w_out, w_gate, d_product, y, d_value, d, d_norm_w, d_norm_b,
        n, c, EPS, **sizes,
    )  # fmt: skip
    return d_product, d_norm_w.sum(0), d_norm_b.sum(0), d_value.t() @ y


def _project_backward_held(
    d_left: Tensor, d_right: Tensor, z: Tensor, mask: Tensor, norm: Norm, w: Tensor, d: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    b, n, _, c = z.shape
    sizes, grid = _launch(z, "project_backward")
    x = z.new_empty(b * n * n, c)
    mean, rstd = (z.new_empty(b * n * n, dtype=torch.float32) for _ in range(2))
    _project_backward[grid](d_left, d_right, z, mask, *norm, w, x, mean, rstd, d, n, c, EPS, **sizes)
    return x, mean, rstd


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z, mask = z.contiguous(), mask.contiguous()
    low_in, low_out, low_gate = (cast(w, z.dtype).contiguous() for w in (w_in, w_out, w_gate))
    norm_in, norm_out = (norm_in_w, norm_in_b), (norm_out_w, norm_out_b)
    passes = _passes(z)
    left, right = passes.project(z, mask, norm_in, low_in)
    product = _multiply(left, right, outgoing)
    out = passes.gate_out(z, product, norm_in, norm_out, low_out, low_gate)
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
) -> list[Tensor]:
    """Gradients of z and of the seven parameters, in the order of the forward's arguments."""
    z, dy, mask = z.contiguous(), dy.contiguous(), mask.contiguous()
    b, n, _, c = z.shape
    low_in, low_out, low_gate = (cast(w, z.dtype).contiguous() for w in (w_in, w_out, w_gate))
    norm_in, norm_out = (norm_in_w, norm_in_b), (norm_out_w, norm_out_b)
    d = z.new_empty(b * n * n, 5 * c)
    passes = _passes(z)
    d_product, d_out_w, d_out_b, dw_out = passes.gate_out_backward(
        dy, z, product, norm_in, norm_out, low_out, low_gate, d
    )
    d_left, d_right = (g.contiguous() for g in _multiply_backward(d_product, left, right, outgoing))
    x, mean, rstd = passes.project_backward(d_left, d_right, z, mask, norm_in, low_in, d)
    dw = d.t() @ x
    dx = torch.mm(d, torch.cat([low_in, low_gate]), out=x)
    dz, d_in_w, d_in_b = _layer_norm_backward(dx.view(z.shape), z, norm_in_w, mean, rstd)
    grads = [d_in_w, d_in_b, dw[: 4 * c], d_out_w, d_out_b, dw_out, dw[4 * c :]]
    parameters = (norm_in_w, norm_in_b, w_in, norm_out_w, norm_out_b, w_out, w_gate)
    return [dz, *(_own(grad, p.dtype) for grad, p in zip(grads, parameters, strict=True))]


def _own(grad: Tensor, dtype: torch.dtype) -> Tensor:
    """A gradient in a dtype and in memory of its own: outputs of an op must not share any."""
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
) -> list[Tensor]:
    parameters = (norm_in_w, norm_in_b, w_in, norm_out_w, norm_out_b, w_out, w_gate)
    return [z.new_empty(z.shape), *(p.new_empty(p.shape) for p in parameters)]


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:9], *output[1:])
    ctx.outgoing = inputs[9]
    ctx.set_materialize_grads(False)


def _gradient(ctx, dy, _left, _right, _product):
    dz, *parameters = _triangle_multiplication_backward(dy, *ctx.saved_tensors, ctx.outgoing)
    return dz, None, *parameters, None


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
) -> Tensor:
    """See kernels.reference.triangle_multiplication."""
    arguments = (z, mask, norm_in_w, norm_in_b, w_in, norm_out_w, norm_out_b, w_out, w_gate, outgoing)
    if z.shape[-1] > MAX_CHANNELS:
        return reference.triangle_multiplication(*arguments)
    return _triangle_multiplication(*arguments)[0]
