# SPDX-License-Identifier: Apache-2.0
"""The SwiGLU transition with its LayerNorm and residual, fused.

Forward: a program holds a tile of rows and walks the hidden channels, which are never written. Backward: the
same walk recomputes them and makes the whole gradient of x; on the way it writes the gated hidden layer and
the gradients of its factors, of a chunk of rows at most `_CHUNK_BYTES`, from which the weights' gradients are
a cuBLAS product each. To recompute them for the weights a second time would take 116 GFLOP at 384 tokens
against 0.9 GB written and read. Chunks are added in float32, in order, so every gradient is deterministic.

Rows wider than 256 channels are not held on chip: see triton_wide_transition. The reference runs above
MAX_CHANNELS and for the single track, whose rows are too few to be worth a kernel.
"""

from __future__ import annotations

from functools import reduce

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels import reference, triton_wide_transition
from foldwright.kernels.casts import cast
from foldwright.kernels.launch import needs_triton, next_power_of_two
from foldwright.kernels.registry import register
from foldwright.kernels.tiles import tile
from foldwright.kernels.triton_norm import (
    affine_norm,
    inside_width,
    norm_backward,
    scale_and_shift,
    statistics,
)
from foldwright.kernels.triton_pairs import apart, order, together
from foldwright.kernels.triton_sigmoid import sigmoid

MAX_CHANNELS = 512
_HELD = 256  # channels of a row that a program holds on chip
_EPS = 1e-5
_CHUNK_BYTES = 1 << 29  # of what the backward pass writes of the hidden layer
_WHOLE = 1024  # rows that are whole tiles: chunks are multiples

_Sizes = dict[str, int]


def _launch(n_rows: int, c: int, h: int, kernel: str, dtype: torch.dtype) -> tuple[_Sizes, tuple[int]]:
    """Constexpr sizes with launch options of one kernel, and its grid over tiles of rows."""
    width = next_power_of_two(c)
    sizes = {"C": max(16, width)} | tile("transition", kernel, width, dtype)
    sizes["EVEN"] = n_rows % sizes["ROWS"] == 0 and h % sizes["HIDDEN"] == 0
    return sizes, (triton.cdiv(n_rows, sizes["ROWS"]),)


@triton.jit
def _tile(n_rows, c: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, C: tl.constexpr):
    """Of a program: its first row, its rows from there, where their elements are, which exist (all, as the
    compiler sees, where c is C and EVEN).
    """
    first = tl.program_id(0).to(tl.int64) * ROWS
    rows, cols = tl.arange(0, ROWS), tl.arange(0, C)
    inside = ((rows < n_rows - first) | EVEN)[:, None] & inside_width(cols, c)
    return first, rows, cols, rows[:, None] * c + cols[None, :], inside


@triton.jit
def _hidden_weights(w_in_ptr, w_out_ptr, start, cols, h, c: tl.constexpr, EVEN: tl.constexpr,
                    HIDDEN: tl.constexpr):  # fmt: skip
    """Of a slice of hidden channels: rows of w_a and w_b in the order of `triton_pairs.order` [2 HIDDEN, C],
    and w_out^T [HIDDEN, C].
    """
    which, row = order(start, HIDDEN)
    hidden = start + tl.arange(0, HIDDEN)
    inside = ((row < h) | EVEN)[:, None] & inside_width(cols, c)
    at = ((which * h + row) * c)[:, None] + cols[None, :]
    w_in = tl.load(w_in_ptr + at, mask=inside, other=0.0)
    inside = ((hidden < h) | EVEN)[:, None] & inside_width(cols, c)
    return w_in, tl.load(w_out_ptr + cols[None, :] * h + hidden[:, None], mask=inside, other=0.0)


@triton.jit
def _factors(normed, w_in, HIDDEN: tl.constexpr):
    """a and b [ROWS, HIDDEN] by paired weights."""
    return apart(tl.dot(normed, tl.trans(w_in), input_precision="ieee"), normed.shape[0], HIDDEN)


@triton.jit
def _transition_forward(x_ptr, nw_ptr, nb_ptr, w_in_ptr, w_out_ptr, y_ptr, n_rows, c: tl.constexpr, h, eps,
                        share, EVEN: tl.constexpr, ROWS: tl.constexpr, HIDDEN: tl.constexpr,
                        C: tl.constexpr):  # fmt: skip
    first, _, cols, at, inside = _tile(n_rows, c, EVEN, ROWS, C)
    x_ptr += first * c
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    normed, _, _, _ = affine_norm(x.to(tl.float32), nw_ptr, nb_ptr, cols, c, eps)
    normed = normed.to(x.dtype)
    y = tl.zeros([ROWS, C], tl.float32)
    for start in range(0, h, HIDDEN):
        w_in, w_out = _hidden_weights(w_in_ptr, w_out_ptr, start, cols, h, c, EVEN, HIDDEN)
        a, b = _factors(normed, w_in, HIDDEN)
        gated = (a * sigmoid(a) * b).to(normed.dtype)
        y = tl.dot(gated, w_out, y, input_precision="ieee")
    y += tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32) * share  # not held through the loop
    tl.store(y_ptr + first * c + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _transition_gradients(dy_ptr, x_ptr, nw_ptr, nb_ptr, w_in_ptr, w_out_ptr, dx_ptr, normed_ptr,
                          gated_ptr, d_ptr, dnw_ptr, dnb_ptr, n_rows, c: tl.constexpr, h, eps, share,
                          EVEN: tl.constexpr, ROWS: tl.constexpr, HIDDEN: tl.constexpr,
                          C: tl.constexpr):  # fmt: skip
    """The gradient of x, the residual's included; LN(x), the gated hidden layer, and the gradients of its
    factors a and b, side by side.
    """
    first, rows, cols, at, inside = _tile(n_rows, c, EVEN, ROWS, C)
    x_ptr += first * c
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + first * c + at, mask=inside, other=0.0)
    mean, rstd = statistics(x, cols, c, eps)
    w, shift = scale_and_shift(nw_ptr, nb_ptr, cols, c)
    normed = ((x - mean[:, None]) * rstd[:, None] * w[None, :] + shift[None, :]).to(dy.dtype)
    tl.store(normed_ptr + first * c + at, normed, mask=inside)
    gated_ptr += first * h
    d_ptr += first * 2 * h
    d = tl.zeros([ROWS, C], tl.float32)
    for start in range(0, h, HIDDEN):
        hidden = start + tl.arange(0, HIDDEN)
        inside_hidden = ((rows < n_rows - first) | EVEN)[:, None] & ((hidden < h) | EVEN)[None, :]
        w_in, w_out = _hidden_weights(w_in_ptr, w_out_ptr, start, cols, h, c, EVEN, HIDDEN)
        a, b = _factors(normed, w_in, HIDDEN)
        dh = tl.dot(dy, tl.trans(w_out), input_precision="ieee")
        gate = sigmoid(a)
        silu = a * gate
        da = (dh * b * (gate + silu * (1.0 - gate))).to(dy.dtype)
        db = (dh * silu).to(dy.dtype)
        d = tl.dot(together(da, db, ROWS, HIDDEN), w_in, d, input_precision="ieee")
        at_d = rows[:, None] * (2 * h) + hidden[None, :]
        tl.store(gated_ptr + rows[:, None] * h + hidden[None, :], (silu * b).to(dy.dtype), mask=inside_hidden)
        tl.store(d_ptr + at_d, da, mask=inside_hidden)
        tl.store(d_ptr + h + at_d, db, mask=inside_hidden)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)  # neither held through the loop
    dy = tl.load(dy_ptr + first * c + at, mask=inside, other=0.0).to(tl.float32)
    hat = (x - mean[:, None]) * rstd[:, None]
    program = tl.program_id(0).to(tl.int64)
    tl.store(dnw_ptr + program * c + cols, tl.sum(d * hat, 0), mask=cols < c)
    tl.store(dnb_ptr + program * c + cols, tl.sum(d, 0), mask=cols < c)
    dx = norm_backward(d, hat, rstd, w, c) + dy * share
    tl.store(dx_ptr + first * c + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)


def _forward_held(
    x: Tensor, norm_w: Tensor, norm_b: Tensor, w_in: Tensor, w_out: Tensor, share: float, eps: float
) -> Tensor:
    c, h = w_out.shape
    n_rows, y = x.numel() // c, torch.empty_like(x)
    sizes, grid = _launch(n_rows, c, h, "forward", x.dtype)
    _transition_forward[grid](x, norm_w, norm_b, w_in, w_out, y, n_rows, c, h, eps, share, **sizes)
    return y


def _backward_held(
    dy: Tensor,
    x: Tensor,
    norm_w: Tensor,
    norm_b: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    share: float,
    eps: float,
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of x, in its dtype; in float32 of the norm's parameters [2, c], w_in and w_out."""
    c, h = w_out.shape
    dx = torch.empty_like(x)
    parts: list[tuple[Tensor, ...]] = []
    rows = max(1, _CHUNK_BYTES // (3 * h * x.element_size() * _WHOLE)) * _WHOLE
    for chunk, dy_chunk, dx_chunk in zip(*(t.view(-1, c).split(rows) for t in (x, dy, dx)), strict=True):
        n = len(chunk)
        normed, gated, d = (x.new_empty(n, columns) for columns in (c, h, 2 * h))
        sizes, grid = _launch(n, c, h, "gradients", x.dtype)
        partial = x.new_empty(2, *grid, c, dtype=torch.float32)
        _transition_gradients[grid](
            dy_chunk, chunk, norm_w, norm_b, w_in, w_out, dx_chunk, normed, gated, d, *partial,
            n, c, h, eps, share, **sizes,
        )  # fmt: skip
        weights = (d.t() @ normed).float(), (dy_chunk.t() @ gated).float()
        parts.append((partial.sum(1), *weights))
    return dx, [reduce(torch.add, gradients) for gradients in zip(*parts, strict=True)]


@torch.library.custom_op("foldwright::transition", mutates_args=())
def _transition(
    x: Tensor, norm_w: Tensor, norm_b: Tensor, w_in: Tensor, w_out: Tensor, share: float
) -> Tensor:
    low_in, low_out = cast(w_in, x.dtype).contiguous(), cast(w_out, x.dtype).contiguous()
    forward = _forward_held if x.shape[-1] <= _HELD else triton_wide_transition.forward
    return forward(x.contiguous(), norm_w, norm_b, low_in, low_out, share, _EPS)


@_transition.register_fake
def _(x: Tensor, norm_w: Tensor, norm_b: Tensor, w_in: Tensor, w_out: Tensor, share: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("foldwright::transition_backward", mutates_args=())
def _transition_backward(
    dy: Tensor, x: Tensor, norm_w: Tensor, norm_b: Tensor, w_in: Tensor, w_out: Tensor, share: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, of the norm's parameters (float32 [2, c]), of w_in and of w_out."""
    low_in, low_out = cast(w_in, x.dtype).contiguous(), cast(w_out, x.dtype).contiguous()
    backward = _backward_held if x.shape[-1] <= _HELD else triton_wide_transition.backward
    dx, (d_norm, d_in, d_out) = backward(
        dy.contiguous(), x.contiguous(), norm_w, norm_b, low_in, low_out, share, _EPS
    )
    return dx, d_norm, d_in.to(w_in.dtype), d_out.to(w_out.dtype)


@_transition_backward.register_fake
def _(
    dy: Tensor, x: Tensor, norm_w: Tensor, norm_b: Tensor, w_in: Tensor, w_out: Tensor, share: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    d_norm = norm_w.new_empty(2, x.shape[-1], dtype=torch.float32)
    return dx, d_norm, torch.empty_like(w_in), torch.empty_like(w_out)


def _setup(ctx, inputs, output) -> None:
    *saved, ctx.share = inputs
    ctx.save_for_backward(*saved)


def _gradient(ctx, dy):
    x, norm_w, *rest = ctx.saved_tensors
    dx, d_norm, d_in, d_out = _transition_backward(dy, x, norm_w, *rest, ctx.share)
    d_norm_w, d_norm_b = d_norm.to(norm_w.dtype)
    return dx, d_norm_w, d_norm_b, d_in, d_out, None


torch.library.register_autograd("foldwright::transition", _gradient, setup_context=_setup)


@register("transition", "triton", supports=needs_triton, preference=2)
def transition(
    x: Tensor, norm_w: Tensor, norm_b: Tensor, w_in: Tensor, w_out: Tensor, share: float = 1.0
) -> Tensor:
    """See kernels.reference.transition."""
    single_track = x.shape[-1] > _HELD and x.dim() < 4
    if x.shape[-1] > MAX_CHANNELS or single_track:
        return reference.transition(x, norm_w, norm_b, w_in, w_out, share)
    return _transition(x, norm_w, norm_b, w_in, w_out, share)
