# SPDX-License-Identifier: Apache-2.0
"""The executable specification: one plain PyTorch function per op.

Clarity first: each is the formula of its algorithm. All run in any float dtype; statistics, softmax, sums
over many terms and geometry are at least float32. Masks are finite, so rows without a single key give finite
output.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from foldwright.geometry import best_rotation
from foldwright.kernels.casts import cast
from foldwright.kernels.registry import register
from foldwright.randomness import uniform
from foldwright.windows import key_mask, key_windows, query_windows

RANK_ONE = 1e-6  # σ₂ / σ₁ of a covariance below which a rotation is undefined
MASKED = -1e9  # added to the logits of masked keys; finite in bfloat16 and float32


def upcast(x: Tensor) -> Tensor:
    """float32 for narrower floats; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b in the dtype of x: the activations' dtype alone decides the precision of a product."""
    return F.linear(x, cast(weight, x.dtype), None if bias is None else cast(bias, x.dtype))


_OUTER_ROWS = 512  # tokens whose outer products with all others are there at once
_OUTER_ELEMENTS = 1 << 29  # of these products, at most
_ATOM_PAIRS = 1 << 25  # of the samples of smooth_lddt that are there at once


@register("layer_norm", "reference")
def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """LayerNorm over the last axis. weight and bias [c] or None."""
    wide = upcast(x)
    as_wide = [None if p is None else p.to(wide.dtype) for p in (weight, bias)]
    return F.layer_norm(wide, x.shape[-1:], as_wide[0], as_wide[1], eps).to(x.dtype)


@register("adaptive_layer_norm", "reference")
def adaptive_layer_norm(a: Tensor, g: Tensor) -> Tensor:
    """σ(g₁) ⊙ LN(a) + g₂: AF3 Algorithm 26, whose g = [logits of the gate, shift] is made of s alone.

    a [B, D, N, c], g [B, 1 or D, N, 2 c]; returns [B, D, N, c] in the dtype of g, that of the block's
    products: the residual stream a may be wider.
    """
    gate, shift = g.chunk(2, dim=-1)
    return torch.sigmoid(gate) * layer_norm(a, None, None).to(g.dtype) + shift


@register("gated_residual", "reference")
def gated_residual(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """x + σ(gate) ⊙ update: the gated branches of AF3 Algorithms 24 and 25.

    x, update [B, D, N, c]; gate [B, 1 or D, N, c]. The residual stream x may be wider than the update.
    """
    return x + torch.sigmoid(gate) * update


@register("swiglu", "reference")
def swiglu(h: Tensor) -> Tensor:
    """swish(h₁) ⊙ h₂ of the two halves of h [..., 2 n]: [..., n] (AF3 Algorithm 25)."""
    a, b = h.chunk(2, dim=-1)
    return F.silu(a) * b


@register("transition", "reference")
def transition(
    x: Tensor, norm_w: Tensor, norm_b: Tensor, w_in: Tensor, w_out: Tensor, share: float = 1.0
) -> Tensor:
    """AF3 Algorithm 11 (SwiGLU) with its residual: share x + update.

    x [..., c], w_in [2 n c, c] (a above b), w_out [c, n c]. `share` is 1 / R where R ranks hold a part of the
    hidden channels each, so that their outputs add up to x + update.
    """
    update = linear(swiglu(linear(layer_norm(x, norm_w, norm_b), w_in)), w_out)
    return torch.add(update, x, alpha=share)


@register("triangle_multiplication", "reference")
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
    """AF3 Algorithms 12 (outgoing) and 13 (incoming) with residual and dropout: z + dropout_row(update).

    z [B, N, N, c]; mask [B, N] of tokens; w_in [4 c, c]: gates of a and b, then values of a and b; seed int64
    [B]. The mask of the dropout is `dropout_residual`'s, shared along the rows i.
    """
    x = layer_norm(z, norm_in_w, norm_in_b)
    gates, values = linear(x, w_in).chunk(2, dim=-1)
    pair_mask = (mask[:, :, None] & mask[:, None, :])[..., None]
    a, b = (torch.sigmoid(gates) * values * pair_mask).chunk(2, dim=-1)
    product = torch.einsum("bikc,bjkc->bijc" if outgoing else "bkic,bkjc->bijc", a, b)
    update = linear(layer_norm(product, norm_out_w, norm_out_b), w_out) * torch.sigmoid(linear(x, w_gate))
    return dropout_residual(z, update, seed, rate, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / √c + bias) v with logits and softmax in float32. q, k, v [..., S, H, c], bias [...,
    H, S, T].
    """
    logits = torch.einsum("...qhc,...khc->...hqk", upcast(q) * q.shape[-1] ** -0.5, upcast(k)) + upcast(bias)
    return torch.einsum("...hqk,...khc->...qhc", logits.softmax(-1).to(v.dtype), v)


@register("triangle_attention", "reference")
@register("attention_pair_bias", "reference")
def shared_bias_attention(packed: Tensor, bias: Tensor) -> Tensor:
    """σ(g) ⊙ softmax(q·k/√c + bias) v, the bias shared by the axis S.

    AF3 Algorithm 14's core with S the rows i of z (15: of its transpose), and Algorithm 24's with S the
    diffusion samples. packed [B, S, N, 4, H, c]: q, k, v and g, as one projection makes them; bias [B, H, N,
    N], the key mask folded in. Returns [B, S, N, H c].
    """
    q, k, v, gate = packed.unbind(3)
    return _attend(q, k, v, bias[:, None]).flatten(-2) * torch.sigmoid(gate.flatten(-2))


@register("window_attention", "reference")
def window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor) -> Tensor:
    """AF3 Algorithm 7, core. q, k, v [B, D, A, H, c] of atoms; bias [B, W, H, Q, K], mask folded in.

    gate [B, D, A, H c]. Returns σ(gate) ⊙ attention within windows, [B, D, A, H c].
    """
    heads = q.shape[3]
    q, k, v = (window(x.flatten(-2)).unflatten(-1, (heads, -1)) for window, x in
               ((query_windows, q), (key_windows, k), (key_windows, v)))  # fmt: skip
    return _attend(q, k, v, bias[:, None]).flatten(-2).flatten(2, 3) * torch.sigmoid(gate)


@register("gather_pairs", "reference")
def gather_pairs(z: Tensor, atom_to_token: Tensor, atom_mask: Tensor) -> Tensor:
    """z [B, N, N, c] at the tokens of every windowed atom pair, [B, W, 32, 128, c] (AF3 Algorithm 5, line
    10). atom_to_token and atom_mask [B, A]; zero where one of the atoms does not exist.
    """
    rows = query_windows(atom_to_token[..., None])
    columns = key_windows(atom_to_token[..., None]).transpose(-1, -2)
    exists = query_windows(atom_mask[..., None]) & key_mask(atom_mask)[..., None, :]
    example = torch.arange(z.shape[0], device=z.device).view(-1, 1, 1, 1)
    return z[example, rows.long(), columns.long()] * exists[..., None]


@register("outer_product_mean", "reference")
def outer_product_mean(a: Tensor, b: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """AF3 Algorithm 9 after its norm and projections. a, b [B, M, N, c]; mask [B, M] of rows; weight [c_z, c
    c].

    Masked mean over rows; returns [B, N, N, c_z]. As in DeepMind's code the projection precedes the division.
    Rows are summed in the dtype's own product (float32 accumulation); counts are float32. Without gradient
    the outer products, N N c c, are there for 512 tokens i at a time, or fewer.
    """
    a = a * mask[:, :, None, None]
    count = upcast(mask.to(a.dtype)).sum(1)[:, None, None, None]

    def means(own: Tensor) -> Tensor:
        outer = torch.einsum("bmic,bmjd->bijcd", own, b).flatten(-2)
        return (upcast(linear(outer, weight, bias)) / (count + 1e-3)).to(a.dtype)

    if torch.is_grad_enabled() or a.shape[2] <= _OUTER_ROWS:
        return means(a)
    n, c = a.shape[2:]
    rows = min(_OUTER_ROWS, max(1, _OUTER_ELEMENTS // (a.shape[0] * n * c * c)))
    z = a.new_empty(a.shape[0], n, n, weight.shape[0])
    for own, place in zip(a.split(rows, dim=2), z.split(rows, dim=1), strict=True):
        place.copy_(means(own))
    return z


@register("pair_bias", "reference")
def pair_bias(z: Tensor, norm_w: Tensor, norm_b: Tensor, weight: Tensor, key_bias: Tensor) -> Tensor:
    """LinearNoBias(LN(z)), heads first, and the key mask: the bias map of AF3 Algorithms 10, 14 and 24.

    z [B, ..., Q, K, c], weight [H, c], key_bias [B, ..., 1, 1, K]; returns [B, ..., H, Q, K].
    """
    return linear(layer_norm(z, norm_w, norm_b), weight).movedim(-1, -3) + key_bias


@register("norm_and_pair_bias", "reference")
def norm_and_pair_bias(
    z: Tensor, norm_w: Tensor, norm_b: Tensor, weight: Tensor, key_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """LN(z) and the bias map of it, as AF3 Algorithm 14 needs both; see pair_bias."""
    normed = layer_norm(z, norm_w, norm_b)
    return normed, linear(normed, weight).movedim(-1, -3) + key_bias


@register("pair_weighted_average", "reference")
def pair_weighted_average(v: Tensor, logits: Tensor, gate: Tensor) -> Tensor:
    """AF3 Algorithm 10, core. v [B, M, N, H, c]; logits [B, H, N, N], key mask folded in; gate [B, M, N, H
    c].
    """
    weights = upcast(logits).softmax(-1).to(v.dtype)
    return torch.einsum("bhij,bmjhc->bmihc", weights, v).flatten(-2) * torch.sigmoid(gate)


@register("dropout_residual", "reference")
def dropout_residual(x: Tensor, update: Tensor, seed: Tensor, rate: float, shared_axis: int) -> Tensor:
    """x + dropout(update), the mask shared along `shared_axis` (AF2's row- and column-wise dropout).

    x, update [B, ...]; seed int64 [B]. The mask is counter-based: recomputation gives the same one.
    """
    if rate == 0.0:
        return x + update
    shape = list(update.shape[1:])
    shape[shared_axis - 1] = 1
    keep = uniform(seed, tuple(shape)) >= rate
    return x + update * (keep.to(update.dtype) / (1.0 - rate))


@register("projected_residual", "reference")
def projected_residual(
    z: Tensor, x: Tensor, weight: Tensor, seed: Tensor, rate: float, shared_axis: int
) -> Tensor:
    """z + dropout(LinearNoBias(x)): how AF3 Algorithm 17 takes up its triangle attentions.

    z [B, I, J, c], x [B, I, J, c'], weight [c, c']; seed, rate and axis as in dropout_residual.
    """
    return dropout_residual(z, linear(x, weight), seed, rate, shared_axis)


@register("smooth_lddt", "reference")
def smooth_lddt(x: Tensor, x_true: Tensor, mask: Tensor, is_nucleotide: Tensor) -> Tensor:
    """AF3 Algorithm 27: 1 - smooth LDDT, [B, D]. x, x_true [B, D, A, 3] Å; mask and is_nucleotide [B, A]
    bool.

    Pairs count when both atoms are resolved, differ, and lie within 15 Å (30 Å if the first is a
    nucleotide's) in the truth. As many samples at a time as have 2^25 pairs, recomputed in the backward pass.
    """
    group = max(1, _ATOM_PAIRS // x.shape[2] ** 2)
    parts = [
        checkpoint(_smooth_lddt, *samples, mask, is_nucleotide, use_reentrant=False, preserve_rng_state=False)
        for samples in zip(x.split(group, 1), x_true.split(group, 1), strict=True)
    ]
    return torch.cat(parts, 1)


def _smooth_lddt(x: Tensor, x_true: Tensor, mask: Tensor, is_nucleotide: Tensor) -> Tensor:
    delta_true = _distances(x_true)
    radius = torch.where(is_nucleotide, 30.0, 15.0)[:, None, :, None]
    included = (delta_true < radius) & (mask[:, None, :, None] & mask[:, None, None, :])
    included = included & ~torch.eye(x.shape[2], dtype=torch.bool, device=x.device)
    error = (delta_true - _distances(x)).abs()
    score = sum(torch.sigmoid(cut - error) for cut in (0.5, 1.0, 2.0, 4.0)) * 0.25
    weight = included.to(x.dtype)
    return 1.0 - (score * weight).sum((-1, -2)) / weight.sum((-1, -2)).clamp(min=1.0)


def _distances(x: Tensor) -> Tensor:
    """Pairwise distances [..., A, A]; the 1e-10 under the root keeps the gradient finite at zero distance."""
    return ((x[..., :, None, :] - x[..., None, :, :]).square().sum(-1) + 1e-10).sqrt()


@register("weighted_rigid_align", "reference")
@torch.no_grad()
def weighted_rigid_align(moving: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """AF3 Algorithm 28: the proper rigid motion of `moving` nearest to `target`, without gradient.

    moving, target [..., A, 3] Å; weight [..., A] >= 0, zero where an atom does not count. Float32 or float64.
    Sets of rank below two (fewer than three atoms, collinear atoms) are only centred. No host waits for it.
    """
    total = weight.sum(-1)[..., None, None].clamp(min=1e-8)
    w = weight[..., None]
    mean_moving = (moving * w).sum(-2, keepdim=True) / total
    mean_target = (target * w).sum(-2, keepdim=True) / total
    centred = moving - mean_moving
    covariance = (centred.transpose(-1, -2) @ ((target - mean_target) * w)).double() / total
    rotation, _ = best_rotation(covariance)
    minors = torch.linalg.cross(covariance, covariance.roll(1, -2))  # ‖minors‖ ~ σ₁ σ₂
    flat = minors.square().sum((-2, -1)).sqrt() <= RANK_ONE * covariance.square().sum((-2, -1))
    rotation = torch.where(
        flat[..., None, None], torch.eye(3, dtype=rotation.dtype, device=rotation.device), rotation
    )
    return centred @ rotation.to(moving.dtype).transpose(-1, -2) + mean_target
