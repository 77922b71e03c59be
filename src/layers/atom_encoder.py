# SPDX-License-Identifier: Apache-2.0
"""Atom attention encoder and decoder (AF3 Algorithms 5 and 6), split by what depends on the noise.

`AtomConditioning` holds all that is the same for every diffusion sample: the single conditioning c_l, the
windowed pair representation p_lm and the attention bias maps made from it.

Readings (spec 3.4): reference positions enter through a float32 product; charge as arcsinh; the queries start
from c_l *including* the trunk's term (DeepMind).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foldwright.batch import Batch
from foldwright.kernels import Ops
from foldwright.layers.atom_transformer import AtomTransformerConfig, atom_transformer
from foldwright.layers.conditioned import Given
from foldwright.layers.linear import Linear
from foldwright.layers.norm import LayerNorm
from foldwright.layers.widths import Widths
from foldwright.vocabulary import N_ELEMENTS, N_NAME_CHARS
from foldwright.windows import key_mask, key_windows, query_windows

N_PLAIN_FEATURES = 1 + N_ELEMENTS + 4 * N_NAME_CHARS  # charge, element, name: 385


@dataclass
class AtomConditioning:
    """Noise-independent atom terms. c [B, 1, A, c_atom], p [B, W, 32, 128, c_atompair], biases a block each.

    `given`: c, or what the encoder's blocks make of it, where that is made ahead of several passes.

    `assignment` [B, A, N] is 1 where an atom belongs to a token: broadcasts to atoms and sums over tokens are
    products with it, exact and, unlike scattered additions, deterministic in both directions.
    """

    c: Tensor
    p: Tensor
    biases: list[Tensor]
    assignment: Tensor
    given: Tensor | list[Given]


def atom_assignment(batch: Batch, dtype: torch.dtype) -> Tensor:
    """[B, A, N]: 1 where atom l belongs to token i; rows of padding atoms are zero."""
    tokens = torch.arange(batch.token_mask.shape[1], device=batch.device)
    return ((batch.atom_to_token[..., None] == tokens) & batch.atom_mask[..., None]).to(dtype)


def mean_over_tokens(x: Tensor, assignment: Tensor) -> Tensor:
    """Mean of x [B, D, A, c] over the atoms of each token: [B, D, N, c]; zero for tokens without atoms."""
    count = assignment.sum(1, dtype=torch.promote_types(x.dtype, torch.float32)).clamp(min=1.0)
    total = assignment.transpose(1, 2)[:, None] @ x
    return (total / count[:, None, :, None]).to(x.dtype)


def reference_features(batch: Batch, dtype: torch.dtype) -> Tensor:
    """arcsinh(charge), element and atom-name one-hots: [B, A, 385] (AF3 SI Table 5)."""
    charge = torch.arcsinh(batch.ref_charge.float())[..., None]
    element = F.one_hot(batch.ref_element.long(), N_ELEMENTS)
    name = F.one_hot(batch.ref_atom_name_chars.long(), N_NAME_CHARS).flatten(-2)
    return torch.cat([charge.to(dtype), element.to(dtype), name.to(dtype)], -1)


class AtomPairEmbedder(nn.Module):
    """Lines 2 to 6 of AF3 Algorithm 5: offsets between atoms of one reference space, [B, W, 32, 128, c]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = Linear(3, channels)
        self.inverse_square = Linear(1, channels)
        self.same_space = Linear(1, channels)

    def forward(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        """Masked to pairs in one reference space; distances and their projections are float32."""
        position = batch.ref_pos
        offset = query_windows(position)[..., :, None, :] - key_windows(position)[..., None, :, :]
        space = batch.ref_space_uid[..., None]
        same = query_windows(space) == key_windows(space).transpose(-1, -2)
        exists = query_windows(batch.atom_mask[..., None]) & key_mask(batch.atom_mask)[..., None, :]
        v = (same & exists)[..., None].to(offset.dtype)
        inverse = 1.0 / (1.0 + offset.square().sum(-1, keepdim=True))
        return (v * (self.offset(offset) + self.inverse_square(inverse) + self.same_space(v))).to(dtype)


class AtomAttentionEncoder(nn.Module):
    """AF3 Algorithm 5. With `from_trunk` it takes the trunk's s, the conditioned pairs and noisy
    positions.
    """

    def __init__(
        self, config: AtomTransformerConfig, widths: Widths, c_token: int, ops: Ops, *, from_trunk: bool
    ) -> None:
        super().__init__()
        self.ops = ops
        c, c_pair = widths.atom, widths.atom_pair
        self.embed_position = Linear(3, c)
        self.embed_mask = Linear(1, c)
        self.embed_features = Linear(N_PLAIN_FEATURES, c)
        self.pair_embedder = AtomPairEmbedder(c_pair)
        self.norm_s = LayerNorm(widths.single, ops, offset=False) if from_trunk else None
        self.embed_s = Linear(widths.single, c, init="zero") if from_trunk else None
        self.norm_z = LayerNorm(widths.pair, ops, offset=False) if from_trunk else None
        self.embed_z = Linear(widths.pair, c_pair, init="zero") if from_trunk else None
        self.embed_noisy = Linear(3, c) if from_trunk else None
        self.pair_from_query = Linear(c, c_pair, init="relu")
        self.pair_from_key = Linear(c, c_pair, init="relu")
        self.pair_mlp = nn.Sequential(
            nn.ReLU(),
            Linear(c_pair, c_pair, init="relu"),
            nn.ReLU(),
            Linear(c_pair, c_pair, init="relu"),
            nn.ReLU(),
            Linear(c_pair, c_pair, init="zero"),
        )
        self.transformer = atom_transformer(config, widths, ops)
        self.to_token = Linear(c, c_token, init="relu")

    def condition(
        self, batch: Batch, dtype: torch.dtype, s: Tensor | None, z: Tensor | None
    ) -> AtomConditioning:
        """Lines 1 to 13, all that no noise touches. s [B, N, c_s] of the trunk, z [B, N, N, c_z]
        conditioned.
        """
        assignment = atom_assignment(batch, dtype)
        mask = batch.ref_mask[..., None].float()
        c = self.embed_position(batch.ref_pos) + self.embed_mask(mask)
        c = (c.to(dtype) + self.embed_features(reference_features(batch, dtype))) * mask.to(dtype)
        p = self.pair_embedder(batch, dtype)
        if s is not None and self.norm_s is not None and self.embed_s is not None:
            c = c + assignment @ self.embed_s(self.norm_s(s.to(dtype)))
        if z is not None and self.norm_z is not None and self.embed_z is not None:
            pairs = self.embed_z(self.norm_z(z.to(dtype)))
            p = p + self.ops.gather_pairs(pairs, batch.atom_to_token, batch.atom_mask)
        active = F.relu(c)
        p = p + query_windows(self.pair_from_query(active))[..., :, None, :]
        p = p + key_windows(self.pair_from_key(active))[..., None, :, :]
        p = p + self.pair_mlp(p)
        biases = self.transformer.pair_bias(p, key_mask(batch.atom_mask))
        return AtomConditioning(c[:, None], p, biases, assignment, given=c[:, None])

    def forward(self, conditioning: AtomConditioning, r_noisy: Tensor | None) -> tuple[Tensor, Tensor]:
        """r_noisy [B, D, A, 3] scaled positions, or None. Returns token means [B, D, N, c_token] and q [B,
        D, A, c].
        """
        q = conditioning.c
        if r_noisy is not None and self.embed_noisy is not None:
            q = q + self.embed_noisy(r_noisy)
        q = self.transformer(q, conditioning.given, conditioning.biases)
        a = F.relu(self.to_token(q.to(conditioning.c.dtype)))
        return mean_over_tokens(a, conditioning.assignment), q


class AtomAttentionDecoder(nn.Module):
    """AF3 Algorithm 6: a [B, D, N, c_token] -> position updates r [B, D, A, 3], float32. Zero at init."""

    def __init__(self, config: AtomTransformerConfig, widths: Widths, ops: Ops) -> None:
        super().__init__()
        self.from_token = Linear(widths.token, widths.atom)
        self.transformer = atom_transformer(config, widths, ops)
        self.norm = LayerNorm(widths.atom, ops, offset=False)
        self.out = Linear(widths.atom, 3, init="zero")

    def condition(self, p: Tensor, batch: Batch) -> list[Tensor]:
        """Bias maps from the encoder's atom pairs, the same for every sample."""
        return self.transformer.pair_bias(p, key_mask(batch.atom_mask))

    def forward(
        self,
        a: Tensor,
        q_skip: Tensor,
        assignment: Tensor,
        given: Tensor | list[Given],
        biases: list[Tensor],
    ) -> Tensor:
        """q_skip [B, D, A, c_atom] of the encoder, in float32 or wider: the residual stream and the output
        are too. assignment and c_l (or what the blocks make of it): those of AtomConditioning.
        """
        q = q_skip + assignment[:, None] @ self.from_token(a)
        return self.out(self.norm(self.transformer(q, given, biases)))
