# SPDX-License-Identifier: Apache-2.0
"""The outer product mean of an MSA with its output projection (AF3 Algorithm 9): the [N, N, c c] product is
never written in the forward pass, nor kept for the backward pass.

A program holds the pairs of NI tokens i and NJ tokens j. It walks slices of a's channels: a slice's outer
product is one product over the MSA rows, rearranged on chip from (i, c) x (j, d) to (i, j) x (c, d) and
projected onto the output that the program accumulates. Rows beyond the last one that counts are not visited.

Backward: the weight's gradient walks the same tiles, a slice of channels and a share of the pairs a program;
the partial sums are added in a fixed order. The gradient of the product is written for CHUNK_BYTES at a time,
as the matrix (i, c) x (j, d) from which cuBLAS makes both inputs' gradients: to recompute it for each
tile of MSA rows would cost as much as these products themselves.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from foldwright.kernels import reference
from foldwright.kernels.casts import cast
from foldwright.kernels.launch import needs_triton, next_power_of_two
from foldwright.kernels.registry import register
from foldwright.kernels.tiles import tile

MAX_CHANNELS = 64  # of a and b: a tile holds all of b's
_TABLE_CHANNELS = 32  # of which the table names slices
MAX_OUTPUT = 512
CHUNK_BYTES = 1 << 29  # of the outer product's gradient
_EPS = 1e-3
_SHARES = 32  # of the pairs, for the weight's gradient


@triton.jit
def _outer(a_ptr, b_ptr, rows, n, c, i_start, j_start, NI: tl.constexpr, NJ: tl.constexpr,
           SLICE: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Σ_s a_si ⊗ b_sj of NI x NJ tokens and a slice of a's channels: float32 [NI NJ, SLICE D].

    a is packed [rows, N, SLICE], b [rows, N, c].
    """
    left = i_start * SLICE + tl.arange(0, NI * SLICE)
    right = tl.arange(0, NJ * D)
    token, d = j_start + right // D, right % D
    places = token * c + d
    inside_left, inside_right = left < n * SLICE, (token < n) & (d < c)
    step = tl.arange(0, ROWS)
    at_left, at_right = step[:, None] * (n * SLICE) + left[None, :], step[:, None] * (n * c) + places[None, :]
    acc = tl.zeros([NI * SLICE, NJ * D], tl.float32)
    for start in range(0, rows, ROWS):
        known = (step < rows - start)[:, None]
        a = tl.load(a_ptr + at_left, mask=known & inside_left[None, :], other=0.0)
        b = tl.load(b_ptr + at_right, mask=known & inside_right[None, :], other=0.0)
        acc = tl.dot(tl.trans(a), b, acc, input_precision="ieee")
        a_ptr += ROWS * n * SLICE
        b_ptr += ROWS * n * c
    return tl.permute(acc.reshape(NI, SLICE, NJ, D), (0, 2, 1, 3)).reshape(NI * NJ, SLICE * D)


@triton.jit
def _weights(w_ptr, first, c, c_z, SLICE: tl.constexpr, D: tl.constexpr, Z: tl.constexpr):
    """Places [Z, SLICE D] of the weight [c_z, c, c] for a slice of a's channels, and which of them exist."""
    column, z = tl.arange(0, SLICE * D), tl.arange(0, Z)
    channel, d = first + column // D, column % D
    inside = (z < c_z)[:, None] & ((channel < c) & (d < c))[None, :]
    return w_ptr + z[:, None] * (c * c) + (channel * c + d)[None, :], inside


@triton.jit
def _pairs(i_start, j_start, n, c_z, NI: tl.constexpr, NJ: tl.constexpr, Z: tl.constexpr):
    """Places [NI NJ, Z] in a map [N, N, c_z], and which of them exist."""
    pair, z = tl.arange(0, NI * NJ), tl.arange(0, Z)
    i, j = i_start + pair // NJ, j_start + pair % NJ
    inside = ((i < n) & (j < n))[:, None] & (z < c_z)[None, :]
    return (i.to(tl.int64) * n + j)[:, None] * c_z + z[None, :], inside


@triton.jit
def _outer_product_forward(a_ptr, b_ptr, rows_ptr, scale_ptr, w_ptr, bias_ptr, y_ptr,
                           n_rows, n, c, c_z, slices, NI: tl.constexpr, NJ: tl.constexpr,
                           SLICE: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
                           Z: tl.constexpr):  # fmt: skip
    j_start, i_start = tl.program_id(0) * NJ, tl.program_id(1) * NI
    batch = tl.program_id(2).to(tl.int64)
    rows = tl.load(rows_ptr + batch)
    b_ptr += batch * n_rows * n * c
    y = tl.zeros([NI * NJ, Z], tl.float32)
    for number in range(0, slices):
        slice_ptr = a_ptr + (batch * slices + number) * n_rows * n * SLICE
        outer = _outer(slice_ptr, b_ptr, rows, n, c, i_start, j_start, NI, NJ, SLICE, D, ROWS)
        at, inside = _weights(w_ptr, number * SLICE, c, c_z, SLICE, D, Z)
        w = tl.load(at, mask=inside, other=0.0)
        y = tl.dot(outer.to(w.dtype), tl.trans(w), y, input_precision="ieee")
    z = tl.arange(0, Z)
    bias = tl.load(bias_ptr + z, mask=z < c_z, other=0.0).to(tl.float32)
    at, inside = _pairs(i_start, j_start, n, c_z, NI, NJ, Z)
    y = (y + bias[None, :]) * tl.load(scale_ptr + batch)
    tl.store(y_ptr + batch * n * n * c_z + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _outer_product_weight_gradient(dy_ptr, a_ptr, b_ptr, rows_ptr, scale_ptr, dw_ptr,
                                   n_rows, n, c, c_z, slices, j_tiles, tiles, each,
                                   NI: tl.constexpr, NJ: tl.constexpr, SLICE: tl.constexpr,
                                   D: tl.constexpr, ROWS: tl.constexpr, Z: tl.constexpr):  # fmt: skip
    """Of a slice of a's channels, over a share of the tiles of pairs of one example."""
    number, share = tl.program_id(0), tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    rows = tl.load(rows_ptr + batch)
    a_ptr += (batch * slices + number) * n_rows * n * SLICE
    b_ptr += batch * n_rows * n * c
    dy_ptr += batch * n * n * c_z
    dw = tl.zeros([Z, SLICE * D], tl.float32)
    for index in range(share * each, tl.minimum(share * each + each, tiles)):
        i_start, j_start = index // j_tiles * NI, index % j_tiles * NJ
        outer = _outer(a_ptr, b_ptr, rows, n, c, i_start, j_start, NI, NJ, SLICE, D, ROWS)
        at, inside = _pairs(i_start, j_start, n, c_z, NI, NJ, Z)
        dy = tl.load(dy_ptr + at, mask=inside, other=0.0)
        dw = tl.dot(tl.trans(dy), outer.to(dy.dtype), dw, input_precision="ieee")
    dw_ptr += (batch * tl.num_programs(1) + share) * c_z * c * c
    at, inside = _weights(dw_ptr, number * SLICE, c, c_z, SLICE, D, Z)
    tl.store(at, dw * tl.load(scale_ptr + batch), mask=inside)


@triton.jit
def _outer_product_gradient(dy_ptr, scale, w_ptr, d_ptr, first, last, n, c, c_z,
                            NI: tl.constexpr, NJ: tl.constexpr, SLICE: tl.constexpr,
                            D: tl.constexpr, Z: tl.constexpr):  # fmt: skip
    """Gradient of the outer product of the tokens i from `first` to `last`, as a matrix (i, c) x (j, d)."""
    j_start, i_start = tl.program_id(0) * NJ, first + tl.program_id(1) * NI
    channel = tl.program_id(2) * SLICE
    at, inside = _pairs(i_start, j_start, n, c_z, NI, NJ, Z)
    dy = tl.load(dy_ptr + at, mask=inside, other=0.0)
    at, inside = _weights(w_ptr, channel, c, c_z, SLICE, D, Z)
    d_outer = tl.dot(dy, tl.load(at, mask=inside, other=0.0), input_precision="ieee") * tl.load(scale)
    pair, column = tl.arange(0, NI * NJ), tl.arange(0, SLICE * D)
    i, j = i_start + pair // NJ, j_start + pair % NJ
    left, right = channel + column // D, column % D
    row = ((i - first) * c).to(tl.int64)[:, None] + left[None, :]
    inside = ((i < last) & (j < n))[:, None] & ((left < c) & (right < c))[None, :]
    at = row * (n * c) + (j * c)[:, None] + right[None, :]
    tl.store(d_ptr + at, d_outer.to(d_ptr.dtype.element_ty), mask=inside)


def _tile(c: int, c_z: int, kernel: str, dtype: torch.dtype) -> dict[str, int]:
    """Constexpr sizes and launch options. The table names NI, the rows LEFT = NI SLICE and the columns
    RIGHT = NJ D of a tile of the outer product, and the MSA rows of a step. A wider b has narrower slices of
    a, so that the weight's tile, Z x SLICE D, stays as large.
    """
    sizes = tile("outer_product_mean", kernel, next_power_of_two(c_z), dtype)
    d = max(16, next_power_of_two(c))
    left, right = sizes.pop("LEFT"), sizes.pop("RIGHT")
    slice_ = min(d, max(1, left // sizes["NI"] * _TABLE_CHANNELS // max(_TABLE_CHANNELS, d)))
    return {
        "NJ": max(1, right // max(_TABLE_CHANNELS, d)),
        "SLICE": slice_,
        "D": d,
        "Z": max(16, next_power_of_two(c_z)),
    } | sizes


def _grid(n: int, sizes: dict[str, int], tokens: int) -> tuple[int, int]:
    """Tiles of all tokens j and of a number of tokens i."""
    return triton.cdiv(n, sizes["NJ"]), triton.cdiv(tokens, sizes["NI"])


def _visited(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Of each example: MSA rows up to the last one that counts, int32 [B]; 1 / its count, float32 [B]."""
    numbers = torch.arange(1, mask.shape[1] + 1, dtype=torch.int32, device=mask.device)
    return (mask * numbers).amax(1).to(torch.int32), 1.0 / (mask.sum(1, dtype=torch.float32) + _EPS)


def _kept(x: Tensor, mask: Tensor) -> Tensor:
    """x [B, M, N, c] with its masked rows zero, contiguous."""
    return (x * mask[:, :, None, None].to(x.dtype)).contiguous()


def _sliced(x: Tensor, width: int) -> Tensor:
    """x [B, M, N, c] as slices of `width` channels, zero beyond c: [B, slices, M, N, width]."""
    slices = triton.cdiv(x.shape[-1], width)
    padded = F.pad(x, (0, slices * width - x.shape[-1]))
    return padded.unflatten(-1, (slices, width)).permute(0, 3, 1, 2, 4).contiguous()


@torch.library.custom_op("foldwright::outer_product_mean", mutates_args=())
def _outer_product_mean(a: Tensor, b: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    examples, m, n, c = a.shape
    c_z = weight.shape[0]
    sizes = _tile(c, c_z, "forward", a.dtype)
    left = _sliced(_kept(a, mask), sizes["SLICE"])
    y = a.new_empty(examples, n, n, c_z)
    _outer_product_forward[(*_grid(n, sizes, n), examples)](
        left, b.contiguous(), *_visited(mask), cast(weight, a.dtype).contiguous(), bias, y,
        m, n, c, c_z, left.shape[1], **sizes,
    )  # fmt: skip
    return y


@_outer_product_mean.register_fake
def _(a: Tensor, b: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], a.shape[2], a.shape[2], weight.shape[0])


def _weights_gradient(
    dy: Tensor, a: Tensor, b: Tensor, rows: Tensor, scale: Tensor, weight: Tensor
) -> Tensor:
    """Of the weight, from a without its masked rows."""
    examples, m, n, c = a.shape
    c_z = weight.shape[0]
    sizes = _tile(c, c_z, "weights", a.dtype)
    left = _sliced(a, sizes["SLICE"])
    j_tiles, i_tiles = _grid(n, sizes, n)
    shares = min(_SHARES, j_tiles * i_tiles)
    dw = dy.new_empty(examples * shares, *weight.shape, dtype=torch.float32)
    _outer_product_weight_gradient[(left.shape[1], shares, examples)](
        dy, left, b, rows, scale, dw, m, n, c, c_z, left.shape[1], j_tiles,
        j_tiles * i_tiles, triton.cdiv(j_tiles * i_tiles, shares), **sizes,
    )  # fmt: skip
    return dw.sum(0).to(weight.dtype)


def _input_gradients(
    dy: Tensor, a: Tensor, b: Tensor, scale: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Of one example's a and b [M, N, c], both without their masked rows; dy [N, N, c_z], scale [1]."""
    m, n, c = a.shape
    c_z = weight.shape[0]
    sizes = _tile(c, c_z, "outer", a.dtype)
    step = max(1, min(n, CHUNK_BYTES // (n * c * c * a.element_size())))
    d_outer = a.new_empty(step * c, n * c)
    da = torch.empty_like(a)
    db: Tensor | None = None
    for first in range(0, n, step):
        last = min(first + step, n)
        d = d_outer[: (last - first) * c]
        grid = (*_grid(n, sizes, last - first), triton.cdiv(c, sizes["SLICE"]))
        _outer_product_gradient[grid](dy, scale, weight, d, first, last, n, c, c_z, **sizes)
        da[:, first:last] = (b.view(m, -1) @ d.t()).view(m, last - first, c)
        part = a[:, first:last].reshape(m, -1) @ d
        db = part if db is None else db + part.float()
    assert db is not None  # there is a token
    return da, db.view(m, n, c).to(b.dtype)


@torch.library.custom_op("foldwright::outer_product_mean_backward", mutates_args=())
def _outer_product_mean_backward(
    dy: Tensor, a: Tensor, b: Tensor, mask: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dy, low = dy.contiguous(), cast(weight, a.dtype).contiguous()
    rows, scale = _visited(mask)
    a, b = _kept(a, mask), _kept(b, mask)
    dw = _weights_gradient(dy, a, b, rows, scale, weight)
    pairs = [_input_gradients(*one, low) for one in zip(dy, a, b, scale[:, None], strict=True)]
    d_bias = (dy.sum((1, 2), dtype=torch.float32) * scale[:, None]).sum(0)
    da, db = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    return da, db, dw, d_bias.to(bias.dtype)


@_outer_product_mean_backward.register_fake
def _(
    dy: Tensor, a: Tensor, b: Tensor, mask: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return a.new_empty(a.shape), b.new_empty(b.shape), weight.new_empty(weight.shape), torch.empty_like(bias)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx, dy):
    da, db, dw, d_bias = _outer_product_mean_backward(dy, *ctx.saved_tensors)
    return da, db, None, dw, d_bias


torch.library.register_autograd("foldwright::outer_product_mean", _gradient, setup_context=_setup)


@register("outer_product_mean", "triton", supports=needs_triton, preference=2)
def outer_product_mean(a: Tensor, b: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See kernels.reference.outer_product_mean."""
    if a.shape[-1] > MAX_CHANNELS or weight.shape[0] > MAX_OUTPUT:
        return reference.outer_product_mean(a, b, mask, weight, bias)
    return _outer_product_mean(a, b, mask, weight, bias)
