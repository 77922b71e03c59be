# SPDX-License-Identifier: Apache-2.0
"""The SwiGLU transition with its LayerNorm, fully fused: the n c wide hidden layer is never written.

Forward and input gradient: a program holds a tile of rows and walks the hidden channels, recomputing them in
the backward pass. Weight gradients: a program holds a slice of hidden channels and walks a share of the rows;
the shares' partial sums are added in a fixed order, so every gradient is deterministic.

Rows wider than 256 channels are not held on chip: see triton_wide_transition. The reference runs above
MAX_CHANNELS and for the single track, whose rows are too few to be worth a kernel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels import reference, triton_wide_transition
from foldwright.kernels.casts import cast
from foldwright.kernels.launch import needs_triton, next_power_of_two
from foldwright.kernels.registry import register
from foldwright.kernels.tiles import tile
from foldwright.kernels.triton_norm import affine_norm, norm_backward

MAX_CHANNELS = 512
_HELD = 256  # channels of a row that a program holds on chip
_EPS = 1e-5
_SHARES = 32  # of the rows, for the weight gradients


def _tile(c: int, kernel: str, dtype: torch.dtype) -> dict[str, int]:
    """Constexpr sizes and launch options of one kernel: rows and hidden channels of a tile."""
    return {"C": max(16, next_power_of_two(c))} | tile("transition", kernel, next_power_of_two(c), dtype)


@triton.jit
def _normalised(x_ptr, w_ptr, b_ptr, rows, cols, n_rows, c, eps, C: tl.constexpr):
    """LN(x) of a tile in float32, and what its gradient needs: x_hat and 1/σ."""
    inside = (rows < n_rows)[:, None] & (cols < c)[None, :]
    x = tl.load(x_ptr + rows[:, None] * c + cols[None, :], mask=inside, other=0.0).to(tl.float32)
    return affine_norm(x, w_ptr, b_ptr, cols, c, eps)


@triton.jit
def _hidden_weights(w_in_ptr, w_out_ptr, hidden, cols, h, c, C: tl.constexpr):
    """w_a, w_b [HIDDEN, C] and w_out^T [HIDDEN, C] of a slice of hidden channels."""
    inside = (hidden < h)[:, None] & (cols < c)[None, :]
    at = hidden[:, None] * c + cols[None, :]
    w_a = tl.load(w_in_ptr + at, mask=inside, other=0.0)
    w_b = tl.load(w_in_ptr + h.to(tl.int64) * c + at, mask=inside, other=0.0)
    w_o = tl.load(w_out_ptr + cols[None, :] * h + hidden[:, None], mask=inside, other=0.0)
    return w_a, w_b, w_o


@triton.jit
def _forward(x_ptr, nw_ptr, nb_ptr, w_in_ptr, w_out_ptr, y_ptr, n_rows, c, h, eps,
             ROWS: tl.constexpr, HIDDEN: tl.constexpr, C: tl.constexpr):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, C)
    normed, _, _, _ = _normalised(x_ptr, nw_ptr, nb_ptr, rows, cols, n_rows, c, eps, C)
    normed = normed.to(x_ptr.dtype.element_ty)
    y = tl.zeros([ROWS, C], tl.float32)
    for start in range(0, h, HIDDEN):
        hidden = start + tl.arange(0, HIDDEN)
        w_a, w_b, w_o = _hidden_weights(w_in_ptr, w_out_ptr, hidden, cols, h, c, C)
        a = tl.dot(normed, tl.trans(w_a), input_precision="ieee")
        b = tl.dot(normed, tl.trans(w_b), input_precision="ieee")
        gated = (a * tl.sigmoid(a) * b).to(x_ptr.dtype.element_ty)
        y = tl.dot(gated, w_o, y, input_precision="ieee")
    inside = (rows < n_rows)[:, None] & (cols < c)[None, :]
    tl.store(y_ptr + rows[:, None] * c + cols[None, :], y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _hidden_gradients(normed, dy, w_a, w_b, w_o):
    """Recompute a slice of the hidden layer: gated hidden, and the gradients of a and b, all in the dtype
    of dy.
    """
    a = tl.dot(normed, tl.trans(w_a), input_precision="ieee")
    b = tl.dot(normed, tl.trans(w_b), input_precision="ieee")
    dh = tl.dot(dy, tl.trans(w_o), input_precision="ieee")
    sigmoid = tl.sigmoid(a)
    silu = a * sigmoid
    da = dh * b * (sigmoid + silu * (1.0 - sigmoid))
    return (silu * b).to(dy.dtype), da.to(dy.dtype), (dh * silu).to(dy.dtype)


@triton.jit
def _input_gradient(dy_ptr, x_ptr, nw_ptr, nb_ptr, w_in_ptr, w_out_ptr, dx_ptr, dnw_ptr, dnb_ptr,
                    n_rows, c, h, eps,
                    ROWS: tl.constexpr, HIDDEN: tl.constexpr, C: tl.constexpr):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    rows = program * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, C)
    inside = (rows < n_rows)[:, None] & (cols < c)[None, :]
    at = rows[:, None] * c + cols[None, :]
    normed, hat, rstd, w = _normalised(x_ptr, nw_ptr, nb_ptr, rows, cols, n_rows, c, eps, C)
    normed = normed.to(x_ptr.dtype.element_ty)
    dy = tl.load(dy_ptr + at, mask=inside, other=0.0)
    d_normed = tl.zeros([ROWS, C], tl.float32)
    for start in range(0, h, HIDDEN):
        hidden = start + tl.arange(0, HIDDEN)
        w_a, w_b, w_o = _hidden_weights(w_in_ptr, w_out_ptr, hidden, cols, h, c, C)
        _, da, db = _hidden_gradients(normed, dy, w_a, w_b, w_o)
        d_normed = tl.dot(da, w_a, d_normed, input_precision="ieee")
        d_normed = tl.dot(db, w_b, d_normed, input_precision="ieee")
    tl.store(dnw_ptr + program * c + cols, tl.sum(d_normed * hat, 0), mask=cols < c)
    tl.store(dnb_ptr + program * c + cols, tl.sum(d_normed, 0), mask=cols < c)
    dx = norm_backward(d_normed, hat, rstd, w, c)
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _weight_gradients(dy_ptr, x_ptr, nw_ptr, nb_ptr, w_in_ptr, w_out_ptr, dw_ptr, n_rows, c, h, tiles, eps,
                      ROWS: tl.constexpr, HIDDEN: tl.constexpr, C: tl.constexpr):  # fmt: skip
    share = tl.program_id(1).to(tl.int64)
    hidden = tl.program_id(0) * HIDDEN + tl.arange(0, HIDDEN)
    cols = tl.arange(0, C)
    w_a, w_b, w_o = _hidden_weights(w_in_ptr, w_out_ptr, hidden, cols, h, c, C)
    dw_a = tl.zeros([HIDDEN, C], tl.float32)
    dw_b = tl.zeros([HIDDEN, C], tl.float32)
    dw_o = tl.zeros([HIDDEN, C], tl.float32)
    for number in range(0, tiles):
        rows = (share * tiles + number) * ROWS + tl.arange(0, ROWS)
        inside = (rows < n_rows)[:, None] & (cols < c)[None, :]
        normed, _, _, _ = _normalised(x_ptr, nw_ptr, nb_ptr, rows, cols, n_rows, c, eps, C)
        normed = normed.to(x_ptr.dtype.element_ty)
        dy = tl.load(dy_ptr + rows[:, None] * c + cols[None, :], mask=inside, other=0.0)
        gated, da, db = _hidden_gradients(normed, dy, w_a, w_b, w_o)
        dw_a = tl.dot(tl.trans(da), normed, dw_a, input_precision="ieee")
        dw_b = tl.dot(tl.trans(db), normed, dw_b, input_precision="ieee")
        dw_o = tl.dot(tl.trans(gated), dy, dw_o, input_precision="ieee")
    inside = (hidden < h)[:, None] & (cols < c)[None, :]
    at = share * 3 * h * c + hidden[:, None] * c + cols[None, :]
    tl.store(dw_ptr + at, dw_a, mask=inside)
    tl.store(dw_ptr + at + h.to(tl.int64) * c, dw_b, mask=inside)
    tl.store(dw_ptr + at + 2 * h.to(tl.int64) * c, dw_o, mask=inside)


def _sizes(x: Tensor, w_out: Tensor) -> tuple[int, int, int]:
    return x.numel() // x.shape[-1], x.shape[-1], w_out.shape[1]


@torch.library.custom_op("foldwright::transition", mutates_args=())
def _transition(x: Tensor, norm_w: Tensor, norm_b: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
    x = x.contiguous()
    n_rows, c, h = _sizes(x, w_out)
    low_in, low_out = cast(w_in, x.dtype).contiguous(), cast(w_out, x.dtype).contiguous()
    if c > _HELD:
        return triton_wide_transition.forward(x, norm_w, norm_b, low_in, low_out, _EPS)
    sizes = _tile(c, "forward", x.dtype)
    y = torch.empty_like(x)
    _forward[(triton.cdiv(n_rows, sizes["ROWS"]),)](
        x, norm_w, norm_b, low_in, low_out, y, n_rows, c, h, _EPS, **sizes
    )
    return y


@_transition.register_fake
def _(x: Tensor, norm_w: Tensor, norm_b: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("foldwright::transition_backward", mutates_args=())
def _transition_backward(
    dy: Tensor, x: Tensor, norm_w: Tensor, norm_b: Tensor, w_in: Tensor, w_out: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, dy = x.contiguous(), dy.contiguous()
    n_rows, c, h = _sizes(x, w_out)
    low_in, low_out = cast(w_in, x.dtype).contiguous(), cast(w_out, x.dtype).contiguous()
    if c > _HELD:
        dx, *grads = triton_wide_transition.backward(dy, x, norm_w, norm_b, low_in, low_out, _EPS)
        parameters = (norm_w, norm_b, w_in, w_out)
        d_norm_w, d_norm_b, d_in, d_out = (g.to(p.dtype) for g, p in zip(grads, parameters, strict=True))
        return dx, d_norm_w, d_norm_b, d_in, d_out
    sizes = _tile(c, "input", x.dtype)
    n_tiles = triton.cdiv(n_rows, sizes["ROWS"])
    dx = torch.empty_like(x)
    partial = x.new_empty(2, n_tiles, c, dtype=torch.float32)
    _input_gradient[(n_tiles,)](
        dy, x, norm_w, norm_b, low_in, low_out, dx, partial[0], partial[1], n_rows, c, h, _EPS, **sizes
    )
    sizes = _tile(c, "weights", x.dtype)
    n_tiles = triton.cdiv(n_rows, sizes["ROWS"])
    shares = min(_SHARES, n_tiles)
    dw = x.new_empty(shares, 3, h, c, dtype=torch.float32)
    _weight_gradients[(triton.cdiv(h, sizes["HIDDEN"]), shares)](
        dy, x, norm_w, norm_b, low_in, low_out, dw, n_rows, c, h, triton.cdiv(n_tiles, shares), _EPS, **sizes
    )
    d_norm_w, d_norm_b, dw = partial[0].sum(0), partial[1].sum(0), dw.sum(0)
    d_in = dw[:2].reshape(2 * h, c).to(w_in.dtype)
    d_out = dw[2].t().to(w_out.dtype, copy=True, memory_format=torch.contiguous_format)
    return dx, d_norm_w.to(norm_w.dtype), d_norm_b.to(norm_b.dtype), d_in, d_out


@_transition_backward.register_fake
def _(
    dy: Tensor, x: Tensor, norm_w: Tensor, norm_b: Tensor, w_in: Tensor, w_out: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    return (
        dx,
        torch.empty_like(norm_w),
        torch.empty_like(norm_b),
        torch.empty_like(w_in),
        torch.empty_like(w_out),
    )


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx, dy):
    return _transition_backward(dy, *ctx.saved_tensors)


torch.library.register_autograd("foldwright::transition", _gradient, setup_context=_setup)


@register("transition", "triton", supports=needs_triton, preference=2)
def transition(x: Tensor, norm_w: Tensor, norm_b: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
    """See kernels.reference.transition."""
    single_track = x.shape[-1] > _HELD and x.dim() < 4
    if x.shape[-1] > MAX_CHANNELS or single_track:
        return reference.transition(x, norm_w, norm_b, w_in, w_out)
    return _transition(x, norm_w, norm_b, w_in, w_out)
