# SPDX-License-Identifier: Apache-2.0
"""Pairs of tokens at the pairs of their atoms in windows (AF3 Algorithm 5, line 10), in Triton.

The gradient of a token pair is the sum over the atom pairs that read it. PyTorch sorts all places and adds
run by run; here a program has one token's row and a tile of its columns, visits the windows in which the
token has atoms, adds their rows in registers, and brings keys to columns by a product with zeros and ones.
Each sum has a fixed order, and needs no order of the atoms: that they lie together makes it fast.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldwright.kernels.launch import needs_triton, next_power_of_two
from foldwright.kernels.registry import register
from foldwright.windows import KEYS, QUERIES, n_windows

_COLUMNS = 64  # tokens j of a program of the backward pass
_MARGIN = (KEYS - QUERIES) // 2


@triton.jit
def _key_tokens(token_ptr, window, n_atoms, QUERIES: tl.constexpr, KEYS: tl.constexpr, MARGIN: tl.constexpr):
    """Tokens of a window's keys; -1 where there is no atom."""
    atoms = window * QUERIES - MARGIN + tl.arange(0, KEYS)
    return tl.load(token_ptr + atoms, mask=(atoms >= 0) & (atoms < n_atoms), other=-1)


@triton.jit
def _gather(z_ptr, token_ptr, out_ptr, n_tokens, n_atoms, c, QUERIES: tl.constexpr, KEYS: tl.constexpr,
            MARGIN: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Grid: query atoms, examples."""
    atom, example = tl.program_id(0), tl.program_id(1).to(tl.int64)
    token_ptr += example * n_atoms
    row = tl.load(token_ptr + atom)
    columns = _key_tokens(token_ptr, atom // QUERIES, n_atoms, QUERIES, KEYS, MARGIN)
    at_c = tl.arange(0, C)
    exists = (columns >= 0) & (row >= 0)
    place = (example * n_tokens + row) * n_tokens + columns
    channels = (at_c < c)[None, :]
    pairs = tl.load(z_ptr + place[:, None] * c + at_c[None, :], mask=exists[:, None] & channels, other=0.0)
    at = ((example * n_atoms + atom) * KEYS + tl.arange(0, KEYS))[:, None] * c + at_c[None, :]
    tl.store(out_ptr + at, pairs, mask=channels)


@triton.jit
def _scatter(d_ptr, token_ptr, first_ptr, last_ptr, dz_ptr, n_tokens, n_atoms, c, QUERIES: tl.constexpr,
             KEYS: tl.constexpr, MARGIN: tl.constexpr, COLUMNS: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Grid: tokens i, tiles of tokens j, examples."""
    row, example = tl.program_id(0), tl.program_id(2).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    token_ptr += example * n_atoms
    first = tl.load(first_ptr + example * n_tokens + row)
    end = tl.load(last_ptr + example * n_tokens + row) + 1
    at_c, at_k = tl.arange(0, C), tl.arange(0, KEYS)
    channels = (at_c < c)[None, :]
    dz = tl.zeros([COLUMNS, C], tl.float32)
    for window in range(first // QUERIES, (end + QUERIES - 1) // QUERIES):
        rows = tl.zeros([KEYS, C], tl.float32)
        for atom in range(tl.maximum(first, window * QUERIES), tl.minimum(end, (window + 1) * QUERIES)):
            own = tl.load(token_ptr + atom) == row
            at = ((example * n_atoms + atom) * KEYS + at_k)[:, None] * c + at_c[None, :]
            rows += tl.load(d_ptr + at, mask=channels & own, other=0.0).to(tl.float32)
        keys = _key_tokens(token_ptr, window, n_atoms, QUERIES, KEYS, MARGIN)
        belongs = (columns[:, None] == keys[None, :]).to(tl.float32)
        dz = tl.dot(belongs, rows, dz, input_precision="ieee")
    at = ((example * n_tokens + row) * n_tokens + columns)[:, None] * c + at_c[None, :]
    tl.store(dz_ptr + at, dz.to(dz_ptr.dtype.element_ty), mask=(columns < n_tokens)[:, None] & channels)


def _width(c: int) -> int:
    return max(16, next_power_of_two(c))


_WINDOW = {"QUERIES": QUERIES, "KEYS": KEYS, "MARGIN": _MARGIN}


@torch.library.custom_op("foldwright::gather_pairs", mutates_args=())
def _gather_pairs(z: Tensor, token: Tensor) -> Tensor:
    """z [B, N, N, c]; token int32 [B, A], -1 for atoms that do not exist -> [B, W, 32, 128, c]."""
    (b, n, _, c), n_atoms = z.shape, token.shape[1]
    out = z.new_empty(b, n_windows(n_atoms), QUERIES, KEYS, c)
    _gather[(n_atoms, b)](z.contiguous(), token.contiguous(), out, n, n_atoms, c, **_WINDOW, C=_width(c))
    return out


@_gather_pairs.register_fake
def _(z: Tensor, token: Tensor) -> Tensor:
    return z.new_empty(z.shape[0], n_windows(token.shape[1]), QUERIES, KEYS, z.shape[-1])


@torch.library.custom_op("foldwright::gather_pairs_backward", mutates_args=())
def _gather_pairs_backward(d: Tensor, token: Tensor, n_tokens: int) -> Tensor:
    (b, n_atoms), c = token.shape, d.shape[-1]
    first, last = _extent(token, n_tokens)
    dz = d.new_empty(b, n_tokens, n_tokens, c)
    _scatter[(n_tokens, triton.cdiv(n_tokens, _COLUMNS), b)](
        d.contiguous(), token.contiguous(), first, last, dz, n_tokens, n_atoms, c,
        **_WINDOW, COLUMNS=_COLUMNS, C=_width(c),
    )  # fmt: skip
    return dz


@_gather_pairs_backward.register_fake
def _(d: Tensor, token: Tensor, n_tokens: int) -> Tensor:
    return d.new_empty(d.shape[0], n_tokens, n_tokens, d.shape[-1])


def _extent(token: Tensor, n_tokens: int) -> tuple[Tensor, Tensor]:
    """First and last atom of every token, int32 [B, N]; none between them for a token without atoms."""
    b, n_atoms = token.shape
    place = torch.where(token < 0, n_tokens, token).long()
    atoms = torch.arange(n_atoms, dtype=torch.int32, device=token.device).expand(b, -1)
    first = atoms.new_full((b, n_tokens + 1), n_atoms).scatter_reduce(1, place, atoms, "amin")
    last = atoms.new_full((b, n_tokens + 1), -1).scatter_reduce(1, place, atoms, "amax")
    return first[:, :n_tokens].contiguous(), last[:, :n_tokens].contiguous()


def _setup(ctx, inputs, output) -> None:
    z, token = inputs
    ctx.save_for_backward(token)
    ctx.n_tokens = z.shape[1]


def _gradient(ctx, d):
    return _gather_pairs_backward(d, ctx.saved_tensors[0], ctx.n_tokens), None


torch.library.register_autograd("foldwright::gather_pairs", _gradient, setup_context=_setup)


@register("gather_pairs", "triton", supports=needs_triton, preference=2)
def gather_pairs(z: Tensor, atom_to_token: Tensor, atom_mask: Tensor) -> Tensor:
    """See kernels.reference.gather_pairs."""
    return _gather_pairs(z, torch.where(atom_mask, atom_to_token, -1).int())
