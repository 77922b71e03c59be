# SPDX-License-Identifier: Apache-2.0
"""The bias map of an attention from its pairs: LayerNorm, projection to the heads and key mask in one pass.

z is read once, and no map with the heads last is ever written; LN(z) is only where the attention's
queries, keys and values come from it, too. The backward pass normalises z again, sums partial gradients of
the parameters a program in registers and adds them in a fixed order. Transposed pairs are read as they lie,
and their gradient lies alike.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels import reference
from foldwright.kernels.casts import cast
from foldwright.kernels.launch import dense, needs_triton, next_power_of_two
from foldwright.kernels.registry import register
from foldwright.kernels.triton_norm import affine_norm, norm_backward

MAX_CHANNELS = 512
_EPS = 1e-5
_ELEMENTS, _ELEMENTS_BACKWARD = 8192, 4096  # of a tile: pairs x channels
_PROGRAMS = 264  # of the backward pass, each with partial gradients of the parameters


@triton.jit
def _heads_weight(w_ptr, heads, c, HEADS: tl.constexpr, C: tl.constexpr):
    at_h, at_c = tl.arange(0, HEADS), tl.arange(0, C)
    inside = (at_h < heads)[:, None] & (at_c < c)[None, :]
    return tl.load(w_ptr + at_h[:, None] * c + at_c[None, :], mask=inside, other=0.0)


@triton.jit
def _pairs(z_ptr, batch, pairs, n_j, size, c, s_b, s_i, s_j, C: tl.constexpr):
    """A tile of pairs (i, j), one after another, of z with any strides; and where it lies."""
    at_c = tl.arange(0, C)
    place = batch * s_b + (pairs // n_j).to(tl.int64) * s_i + (pairs % n_j).to(tl.int64) * s_j
    at = place[:, None] + at_c[None, :]
    inside = (pairs < size)[:, None] & (at_c < c)[None, :]
    return tl.load(z_ptr + at, mask=inside, other=0.0).to(tl.float32), at, inside


@triton.jit
def _pair_bias(z_ptr, nw_ptr, nb_ptr, w_ptr, key_ptr, out_ptr, y_ptr, n_j, size, heads, c, s_b, s_i, s_j,
               eps, WRITES: tl.constexpr, ROWS: tl.constexpr, HEADS: tl.constexpr,
               C: tl.constexpr):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    pairs = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at_c = tl.arange(0, C)
    z, _, inside = _pairs(z_ptr, batch, pairs, n_j, size, c, s_b, s_i, s_j, C)
    x, _, _, _ = affine_norm(z, nw_ptr, nb_ptr, at_c, c, eps)
    if WRITES:
        y_ptr += (batch * size + tl.program_id(0).to(tl.int64) * ROWS) * c
        at_y = tl.arange(0, ROWS)[:, None] * c + at_c[None, :]
        tl.store(y_ptr + at_y, x.to(y_ptr.dtype.element_ty), mask=inside)
    w = _heads_weight(w_ptr, heads, c, HEADS, C)
    logits = tl.dot(x.to(w.dtype), tl.trans(w), input_precision="ieee")
    key = tl.load(key_ptr + batch * n_j + pairs % n_j, mask=pairs < size, other=0.0).to(tl.float32)
    at_h = tl.arange(0, HEADS)
    at = (batch * heads + at_h[None, :]) * size + pairs[:, None]
    inside = (pairs < size)[:, None] & (at_h < heads)[None, :]
    tl.store(out_ptr + at, (logits + key[:, None]).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _pair_bias_backward(d_ptr, dy_ptr, z_ptr, nw_ptr, nb_ptr, w_ptr, dz_ptr, parts_ptr,
                        n_j, size, heads, c, tiles, s_b, s_i, s_j, eps,
                        HAS_DY: tl.constexpr, ROWS: tl.constexpr, HEADS: tl.constexpr,
                        C: tl.constexpr):  # fmt: skip
    """parts [programs, 2 + heads, c]: gradients of the norm's weight and bias and of the projection."""
    batch = tl.program_id(1).to(tl.int64)
    at_c, at_h = tl.arange(0, C), tl.arange(0, HEADS)
    w = _heads_weight(w_ptr, heads, c, HEADS, C)
    dnw, dnb = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32)
    dw = tl.zeros([HEADS, C], tl.float32)
    for number in range(0, tiles):
        pairs = (tl.program_id(0) * tiles + number) * ROWS + tl.arange(0, ROWS)
        z, at, inside = _pairs(z_ptr, batch, pairs, n_j, size, c, s_b, s_i, s_j, C)
        x, hat, rstd, norm_w = affine_norm(z, nw_ptr, nb_ptr, at_c, c, eps)
        from_d = (batch * heads + at_h[None, :]) * size + pairs[:, None]
        inside_d = (pairs < size)[:, None] & (at_h < heads)[None, :]
        d = tl.load(d_ptr + from_d, mask=inside_d, other=0.0).to(w.dtype)
        dx = tl.dot(d, w, input_precision="ieee")
        if HAS_DY:
            at_y = (batch * size + pairs.to(tl.int64))[:, None] * c + at_c[None, :]
            dx += tl.load(dy_ptr + at_y, mask=inside, other=0.0).to(tl.float32)
        dw = tl.dot(tl.trans(d), x.to(w.dtype), dw, input_precision="ieee")
        dnw += tl.sum(dx * hat, 0)
        dnb += tl.sum(dx, 0)
        dz = norm_backward(dx, hat, rstd, norm_w, c)
        tl.store(dz_ptr + at, dz.to(dz_ptr.dtype.element_ty), mask=inside)
    program = batch * tl.num_programs(0) + tl.program_id(0)
    parts_ptr += program * (2 + heads) * c
    tl.store(parts_ptr + at_c, dnw, mask=at_c < c)
    tl.store(parts_ptr + c + at_c, dnb, mask=at_c < c)
    inside = (at_h < heads)[:, None] & (at_c < c)[None, :]
    tl.store(parts_ptr + (2 + at_h[:, None]) * c + at_c[None, :], dw, mask=inside)


def _sizes(z: Tensor, heads: int, elements: int) -> dict[str, int]:
    width = max(16, next_power_of_two(z.shape[-1]))
    heads = max(16, next_power_of_two(heads))
    rows = max(16, elements // width)
    return {"ROWS": rows, "HEADS": heads, "C": width, "num_warps": 8 if width > 256 else 4}


def _maps(
    z: Tensor, norm_w: Tensor, norm_b: Tensor, weight: Tensor, key_bias: Tensor, y: Tensor | None
) -> Tensor:
    """The maps; LN(z) into y where it is given."""
    b, n_i, n_j, c = z.shape
    heads, sizes = weight.shape[0], _sizes(z, weight.shape[0], _ELEMENTS)
    out = z.new_empty(b, heads, n_i, n_j)
    key_bias = key_bias.expand(b, 1, 1, n_j).contiguous()
    _pair_bias[(triton.cdiv(n_i * n_j, sizes["ROWS"]), b)](
        z, norm_w, norm_b, cast(weight, z.dtype).contiguous(), key_bias, out, out if y is None else y,
        n_j, n_i * n_j, heads, c, *z.stride()[:3], _EPS, WRITES=y is not None, **sizes,
    )  # fmt: skip
    return out


def _gradients(
    d: Tensor, dy: Tensor | None, z: Tensor, norm_w: Tensor, norm_b: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    z, d = dense(z), d.contiguous()
    b, n_i, n_j, c = z.shape
    heads, sizes = weight.shape[0], _sizes(z, weight.shape[0], _ELEMENTS_BACKWARD)
    all_tiles = triton.cdiv(n_i * n_j, sizes["ROWS"])
    tiles = triton.cdiv(all_tiles, _PROGRAMS)
    programs = triton.cdiv(all_tiles, tiles)
    dz = torch.empty_like(z)
    parts = z.new_empty(b * programs, 2 + heads, c, dtype=torch.float32)
    _pair_bias_backward[(programs, b)](
        d, d if dy is None else dy.contiguous(), z, norm_w, norm_b, cast(weight, z.dtype).contiguous(),
        dz, parts, n_j, n_i * n_j, heads, c, tiles, *z.stride()[:3], _EPS,
        HAS_DY=dy is not None, **sizes,
    )  # fmt: skip
    return dz, parts.sum(0)


@torch.library.custom_op("foldwright::pair_bias", mutates_args=())
def _forward(z: Tensor, norm_w: Tensor, norm_b: Tensor, weight: Tensor, key_bias: Tensor) -> Tensor:
    return _maps(dense(z), norm_w, norm_b, weight, key_bias, None)


@_forward.register_fake
def _(z: Tensor, norm_w: Tensor, norm_b: Tensor, weight: Tensor, key_bias: Tensor) -> Tensor:
    return z.new_empty(z.shape[0], weight.shape[0], z.shape[1], z.shape[2])


@torch.library.custom_op("foldwright::norm_and_pair_bias", mutates_args=())
def _forward_with_norm(
    z: Tensor, norm_w: Tensor, norm_b: Tensor, weight: Tensor, key_bias: Tensor
) -> tuple[Tensor, Tensor]:
    y = z.new_empty(z.shape)
    return y, _maps(dense(z), norm_w, norm_b, weight, key_bias, y)


@_forward_with_norm.register_fake
def _(z: Tensor, norm_w: Tensor, norm_b: Tensor, weight: Tensor, key_bias: Tensor) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape), z.new_empty(z.shape[0], weight.shape[0], z.shape[1], z.shape[2])


@torch.library.custom_op("foldwright::pair_bias_backward", mutates_args=())
def _backward(
    d: Tensor, dy: Tensor | None, z: Tensor, norm_w: Tensor, norm_b: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of z and, float32 [2 + H, c], of norm_w, norm_b and weight."""
    return _gradients(d, dy, z, norm_w, norm_b, weight)


@_backward.register_fake
def _(
    d: Tensor, dy: Tensor | None, z: Tensor, norm_w: Tensor, norm_b: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    parts = weight.new_empty(2 + weight.shape[0], weight.shape[1], dtype=torch.float32)
    return torch.empty_like(dense(z)), parts


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4])


def _gradient(ctx, d):
    return _gradient_with_norm(ctx, None, d)


def _gradient_with_norm(ctx, dy, d):
    z, norm_w, norm_b, weight = ctx.saved_tensors
    dz, of_parameters = _backward(d, dy, z, norm_w, norm_b, weight)
    d_norm_w, d_norm_b = of_parameters[:2].to(norm_w.dtype)
    return dz, d_norm_w, d_norm_b, of_parameters[2:].to(weight.dtype), None


torch.library.register_autograd("foldwright::pair_bias", _gradient, setup_context=_setup)
torch.library.register_autograd("foldwright::norm_and_pair_bias", _gradient_with_norm, setup_context=_setup)


def _held(z: Tensor) -> bool:
    """Whether the kernels do it: not for maps of atom windows (five axes), nor for the widest pairs."""
    return z.dim() == 4 and z.shape[-1] <= MAX_CHANNELS


@register("pair_bias", "triton", supports=needs_triton, preference=2)
def pair_bias(z: Tensor, norm_w: Tensor, norm_b: Tensor, weight: Tensor, key_bias: Tensor) -> Tensor:
    """See kernels.reference.pair_bias."""
    arguments = (z, norm_w, norm_b, weight, key_bias)
    return _forward(*arguments) if _held(z) else reference.pair_bias(*arguments)


@register("norm_and_pair_bias", "triton", supports=needs_triton, preference=2)
def norm_and_pair_bias(
    z: Tensor, norm_w: Tensor, norm_b: Tensor, weight: Tensor, key_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """See kernels.reference.norm_and_pair_bias."""
    arguments = (z, norm_w, norm_b, weight, key_bias)
    return _forward_with_norm(*arguments) if _held(z) else reference.norm_and_pair_bias(*arguments)
