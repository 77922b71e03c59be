# SPDX-License-Identifier: Apache-2.0
"""Triangle multiplication in three passes over z: project, multiply, gate out.

`_project` fuses the LayerNorm, the four projections and the gates, and writes a and b channel-major, so that
the product over the third token is one batched GEMM (cuBLAS, float32 accumulation). `_gate_out` fuses the
product's LayerNorm, the output projection and the gate, whose projection is recomputed from z. The backward
pass recomputes all projections; only a, b and the product are kept. Weight gradients are partial sums over
shares of the rows, added in a fixed order: everything is deterministic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels import reference
from foldwright.kernels.launch import needs_triton, next_power_of_two
from foldwright.kernels.registry import register
from foldwright.kernels.tiles import tile
from foldwright.kernels.triton_norm import affine_norm, norm_backward

MAX_CHANNELS = 256
_EPS = 1e-5
_SHARES = 128  # of the pairs, for the weight gradients


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
                       dp_ptr, dx_ptr, dnow_ptr, dnob_ptr, n, c, eps,
                       ROWS: tl.constexpr, OUT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Gradient of the product (channel-major) and the gate's part of the gradient of LN(z)."""
    size = n * n
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, C)
    x, y, hat, rstd, w = _normed_pair(
        z_ptr, p_ptr, niw_ptr, nib_ptr, now_ptr, nob_ptr, batch, rows, cols, size, c, eps
    )
    dx = tl.zeros([ROWS, C], tl.float32)
    d = tl.zeros([ROWS, C], tl.float32)
    for start in range(0, c, OUT):
        out = start + tl.arange(0, OUT)
        d_value, d_gate, w_o, w_g = _gate_out_gradients(
            x, y, dy_ptr, wo_ptr, wg_ptr, batch, rows, out, cols, size, c
        )
        d = tl.dot(d_value, w_o, d, input_precision="ieee")
        dx = tl.dot(d_gate, w_g, dx, input_precision="ieee")
    program = batch * tl.num_programs(0) + tl.program_id(0)
    tl.store(dnow_ptr + program * c + cols, tl.sum(d * hat, 0), mask=cols < c)
    tl.store(dnob_ptr + program * c + cols, tl.sum(d, 0), mask=cols < c)
    d = norm_backward(d, hat, rstd, w, c)
    inside = (rows < size)[:, None] & (cols < c)[None, :]
    tl.store(
        dp_ptr + (batch * c + cols[None, :]) * size + rows[:, None],
        d.to(dp_ptr.dtype.element_ty),
        mask=inside,
    )
    at = (batch * size + rows[:, None].to(tl.int64)) * c + cols[None, :]
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gate_out_weights(dy_ptr, z_ptr, p_ptr, niw_ptr, nib_ptr, now_ptr, nob_ptr, wo_ptr, wg_ptr, dw_ptr,
                      n, c, tiles, per_example, total, eps,
                      ROWS: tl.constexpr, OUT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    size = n * n
    out = tl.program_id(0) * OUT + tl.arange(0, OUT)
    share = tl.program_id(1).to(tl.int64)
    cols = tl.arange(0, C)
    dw_o = tl.zeros([OUT, C], tl.float32)
    dw_g = tl.zeros([OUT, C], tl.float32)
    for number in range(share * tiles, tl.minimum(share * tiles + tiles, total)):
        batch = number // per_example
        rows = (number % per_example) * ROWS + tl.arange(0, ROWS)
        x, y, _, _, _ = _normed_pair(
            z_ptr, p_ptr, niw_ptr, nib_ptr, now_ptr, nob_ptr, batch, rows, cols, size, c, eps
        )
        d_value, d_gate, _, _ = _gate_out_gradients(
            x, y, dy_ptr, wo_ptr, wg_ptr, batch, rows, out, cols, size, c
        )
        dw_o = tl.dot(tl.trans(d_value), y, dw_o, input_precision="ieee")
        dw_g = tl.dot(tl.trans(d_gate), x, dw_g, input_precision="ieee")
    inside = (out < c)[:, None] & (cols < c)[None, :]
    at = share * 2 * c * c + out[:, None] * c + cols[None, :]
    tl.store(dw_ptr + at, dw_o, mask=inside)
    tl.store(dw_ptr + at + c * c, dw_g, mask=inside)


@triton.jit
def _gated_gradients(x, keep, d_ptr, wg_ptr, wv_ptr, batch, rows, out, cols, size, c):
    """Of a slice of a's (or b's) channels: gradients of gate logit and value, and both weights."""
    w_g, w_v = _weights(wg_ptr, out, cols, c), _weights(wv_ptr, out, cols, c)
    at = (batch * c + out[None, :]) * size + rows[:, None]
    d = tl.load(d_ptr + at, mask=(rows < size)[:, None] & (out < c)[None, :], other=0.0).to(tl.float32)
    d = d * keep[:, None]
    gate = tl.sigmoid(tl.dot(x, tl.trans(w_g), input_precision="ieee"))
    value = tl.dot(x, tl.trans(w_v), input_precision="ieee")
    return (d * value * gate * (1.0 - gate)).to(x.dtype), (d * gate).to(x.dtype), w_g, w_v


@triton.jit
def _project_backward(da_ptr, db_ptr, dx_ptr, z_ptr, mask_ptr, nw_ptr, nb_ptr, w_ptr,
                      dz_ptr, dnw_ptr, dnb_ptr, n, c, eps,
                      ROWS: tl.constexpr, OUT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    size = n * n
    square = c * c
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, C)
    inside = (rows < size)[:, None] & (cols < c)[None, :]
    at = (batch * size + rows[:, None].to(tl.int64)) * c + cols[None, :]
    z = tl.load(z_ptr + at, mask=inside, other=0.0)
    x, hat, rstd, w = affine_norm(z.to(tl.float32), nw_ptr, nb_ptr, cols, c, eps)
    x = x.to(z.dtype)
    keep = _pair_mask(mask_ptr + batch * n, rows, n)
    d = tl.load(dx_ptr + at, mask=inside, other=0.0).to(tl.float32)
    for start in range(0, c, OUT):
        out = start + tl.arange(0, OUT)
        d_gate, d_value, w_g, w_v = _gated_gradients(
            x, keep, da_ptr, w_ptr, w_ptr + 2 * square, batch, rows, out, cols, size, c
        )
        d = tl.dot(d_gate, w_g, d, input_precision="ieee")
        d = tl.dot(d_value, w_v, d, input_precision="ieee")
        d_gate, d_value, w_g, w_v = _gated_gradients(
            x, keep, db_ptr, w_ptr + square, w_ptr + 3 * square, batch, rows, out, cols, size, c
        )
        d = tl.dot(d_gate, w_g, d, input_precision="ieee")
        d = tl.dot(d_value, w_v, d, input_precision="ieee")
    program = batch * tl.num_programs(0) + tl.program_id(0)
    tl.store(dnw_ptr + program * c + cols, tl.sum(d * hat, 0), mask=cols < c)
    tl.store(dnb_ptr + program * c + cols, tl.sum(d, 0), mask=cols < c)
    tl.store(dz_ptr + at, norm_backward(d, hat, rstd, w, c).to(dz_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _project_weights(d_ptr, z_ptr, mask_ptr, nw_ptr, nb_ptr, w_ptr, dw_ptr, n, c, tiles, per_example, total,
                     which, eps, ROWS: tl.constexpr, OUT: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Weight gradients of the gate and value projections of a (`which` 0) or b (1)."""
    size = n * n
    square = c * c
    out = tl.program_id(0) * OUT + tl.arange(0, OUT)
    share = tl.program_id(1).to(tl.int64)
    cols = tl.arange(0, C)
    dw_g = tl.zeros([OUT, C], tl.float32)
    dw_v = tl.zeros([OUT, C], tl.float32)
    for number in range(share * tiles, tl.minimum(share * tiles + tiles, total)):
        batch = number // per_example
        rows = (number % per_example) * ROWS + tl.arange(0, ROWS)
        inside = (rows < size)[:, None] & (cols < c)[None, :]
        at = (batch * size + rows[:, None].to(tl.int64)) * c + cols[None, :]
        z = tl.load(z_ptr + at, mask=inside, other=0.0)
        x, _, _, _ = affine_norm(z.to(tl.float32), nw_ptr, nb_ptr, cols, c, eps)
        x = x.to(z.dtype)
        keep = _pair_mask(mask_ptr + batch * n, rows, n)
        d_gate, d_value, _, _ = _gated_gradients(
            x,
            keep,
            d_ptr,
            w_ptr + which * square,
            w_ptr + (2 + which) * square,
            batch,
            rows,
            out,
            cols,
            size,
            c,
        )
        dw_g = tl.dot(tl.trans(d_gate), x, dw_g, input_precision="ieee")
        dw_v = tl.dot(tl.trans(d_value), x, dw_v, input_precision="ieee")
    inside = (out < c)[:, None] & (cols < c)[None, :]
    at = (share * 4 + which) * square + out[:, None] * c + cols[None, :]
    tl.store(dw_ptr + at, dw_g, mask=inside)
    tl.store(dw_ptr + at + 2 * square, dw_v, mask=inside)


Launch = tuple[dict[str, int], tuple[int, int]]


def _launch(z: Tensor, kernel: str) -> Launch:
    """Constexpr sizes with launch options of one kernel, and its grid over tiles of pairs and examples."""
    b, n, _, c = z.shape
    width = next_power_of_two(c)
    sizes = {"C": max(16, width)} | tile("triangle_multiplication", kernel, width, z.dtype)
    return sizes, (triton.cdiv(n * n, sizes["ROWS"]), b)


def _shares(launch: Launch, c: int) -> tuple[tuple[int, int], int]:
    """Grid of a weight-gradient kernel (slices of channels x shares of the tiles), and tiles a share."""
    sizes, grid = launch
    total = grid[0] * grid[1]
    each = triton.cdiv(total, min(_SHARES, total))
    return (triton.cdiv(c, sizes["OUT"]), triton.cdiv(total, each)), each


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
    z = z.contiguous()
    b, n, _, c = z.shape
    low_in, low_out, low_gate = (w.to(z.dtype).contiguous() for w in (w_in, w_out, w_gate))
    sizes, grid = _launch(z, "project")
    left, right = (z.new_empty(b, c, n, n) for _ in range(2))
    _project[grid](z, mask.contiguous(), norm_in_w, norm_in_b, low_in, left, right, n, c, _EPS, **sizes)
    product = _multiply(left, right, outgoing)
    out = torch.empty_like(z)
    sizes, grid = _launch(z, "gate_out")
    _gate_out[grid](
        z, product, norm_in_w, norm_in_b, norm_out_w, norm_out_b, low_out, low_gate, out, n, c, _EPS, **sizes
    )
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
    low_in, low_out, low_gate = (w.to(z.dtype).contiguous() for w in (w_in, w_out, w_gate))
    norms = (norm_in_w, norm_in_b, norm_out_w, norm_out_b)

    sizes, grid = _launch(z, "gate_out_backward")
    d_product, dx, dz = torch.empty_like(product), torch.empty_like(z), torch.empty_like(z)
    d_out_w, d_out_b = (z.new_empty(grid[0] * b, c, dtype=torch.float32) for _ in range(2))
    _gate_out_backward[grid](
        dy, z, product, *norms, low_out, low_gate, d_product, dx, d_out_w, d_out_b, n, c, _EPS, **sizes
    )
    sizes, grid = _launch(z, "gate_out_weights")
    slices, each = _shares((sizes, grid), c)
    dw_gate_out = z.new_empty(slices[1], 2, c, c, dtype=torch.float32)
    _gate_out_weights[slices](
        dy,
        z,
        product,
        *norms,
        low_out,
        low_gate,
        dw_gate_out,
        n,
        c,
        each,
        grid[0],
        grid[0] * b,
        _EPS,
        **sizes,
    )
    d_left, d_right = (d.contiguous() for d in _multiply_backward(d_product, left, right, outgoing))
    sizes, grid = _launch(z, "project_backward")
    d_in_w, d_in_b = (z.new_empty(grid[0] * b, c, dtype=torch.float32) for _ in range(2))
    _project_backward[grid](
        d_left, d_right, dx, z, mask, norm_in_w, norm_in_b, low_in, dz, d_in_w, d_in_b, n, c, _EPS, **sizes
    )
    sizes, grid = _launch(z, "project_weights")
    slices, each = _shares((sizes, grid), c)
    dw_in = z.new_empty(slices[1], 4, c, c, dtype=torch.float32)
    for which, d in enumerate((d_left, d_right)):
        _project_weights[slices](
            d,
            z,
            mask,
            norm_in_w,
            norm_in_b,
            low_in,
            dw_in,
            n,
            c,
            each,
            grid[0],
            grid[0] * b,
            which,
            _EPS,
            **sizes,
        )
    dw_out, dw_gate = (dw_gate_out[:, index].sum(0) for index in range(2))
    sums = [d.sum(0) for d in (d_in_w, d_in_b, dw_in, d_out_w, d_out_b)]
    grads = [*sums[:2], sums[2].view(4 * c, c), *sums[3:], dw_out, dw_gate]
    parameters = (norm_in_w, norm_in_b, w_in, norm_out_w, norm_out_b, w_out, w_gate)
    return [dz, *(grad.to(p.dtype) for grad, p in zip(grads, parameters, strict=True))]


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
