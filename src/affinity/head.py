# SPDX-License-Identifier: Apache-2.0
"""The affinity head: how strongly a ligand binds its protein, and whether it binds at all (Boltz-2; spec 6).

It reads the trunk's pairs, the input embedding and one predicted pose of a pocket, none of which it trains.
Readings: the affinity variant of the input embedder, which differs by its own projection of the alignment's
profile, is the head's own projection of s_inputs, whose columns of the profile it owns; pairs of two protein
tokens are set to zero before every block, so that no figure can come from the protein alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foldwright.geometry import pairwise_distances
from foldwright.kernels import Ops
from foldwright.kernels.reference import upcast
from foldwright.layers.attention import mask_bias
from foldwright.layers.linear import Linear
from foldwright.layers.norm import LayerNorm
from foldwright.layers.stack import Stack
from foldwright.layers.transition import Transition
from foldwright.layers.widths import Widths
from foldwright.pairformer.triangle import PairStack
from foldwright.randomness import key, random_bits

N_DISTANCE_BINS = 64
NEAREST, FARTHEST = 2.0, 22.0  # Å, the first and last of the 63 bounds
_CONDITIONING_EXPANSION = 2
_EPSILON = 1e-7


@dataclass
class AffinityConfig:
    """`blocks`: of the Pairformer of each member of the ensemble. Defaults: Boltz-2's two models.

    The head exists in the affinity stage alone, which sets `enabled`.
    """

    enabled: bool = False
    blocks: list[int] = field(default_factory=lambda: [8, 4])
    pair_heads: int = 4  # of width c_z / pair_heads
    expansion: int = 4
    dropout: float = 0.25


@dataclass
class Pocket:
    """What the head reads: B crops of N tokens, all detached from the network that made them."""

    s_inputs: Tensor  # [B, N, c_s_inputs]
    z: Tensor  # [B, N, N, c_z], in the dtype of the products
    x: Tensor  # [B, N, 3] Å, float32: representative atoms of the predicted pose
    is_ligand: Tensor  # bool [B, N]: the one ligand that is scored
    token_mask: Tensor  # bool [B, N]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Pocket:
        return Pocket(*(part.to(device, non_blocking=non_blocking) for part in vars(self).values()))


@dataclass
class AffinityPrediction:
    """float32, one row a member of the ensemble: `value` [E, B] log10(K / µM), `logit` [E, B] of binding."""

    value: Tensor
    logit: Tensor


class AffinityHead(nn.Module):
    """The ensemble; every member sees the same pockets and has dropout of its own."""

    def __init__(self, config: AffinityConfig, widths: Widths, ops: Ops) -> None:
        super().__init__()
        if not config.blocks or min(config.blocks) < 1:
            raise ValueError(
                f"model.affinity.blocks: got {list(config.blocks)}, expected the blocks of at least "
                "one member, each 1 or more; Boltz-2's are [8, 4]"
            )
        self.members = nn.ModuleList(AffinityModel(config, n, widths, ops) for n in config.blocks)

    def forward(self, pocket: Pocket, seed: Tensor) -> AffinityPrediction:
        """seed int64 [B] keys dropout."""
        found = [member(pocket, key(seed, number)) for number, member in enumerate(self.members)]
        values, logits = zip(*found, strict=True)
        return AffinityPrediction(torch.stack(values), torch.stack(logits))


class AffinityModel(nn.Module):
    """One member: pairs conditioned on the pose, a Pairformer without single track, a mean, two small
    networks.
    """

    def __init__(self, config: AffinityConfig, blocks: int, widths: Widths, ops: Ops) -> None:
        super().__init__()
        c_z, c_s, c_in = widths.pair, widths.single, widths.single_inputs
        self.norm_z = LayerNorm(c_z, ops)
        self.linear_z = Linear(c_z, c_z)
        self.z_i = Linear(c_in, c_z)
        self.z_j = Linear(c_in, c_z)
        self.distance = Linear(N_DISTANCE_BINS, c_z)
        self.conditioning = PairwiseConditioning(c_z, ops)
        self.pairformer = PairformerNoSeq(config, blocks, c_z, ops)
        self.pooled = nn.ModuleList([_hidden(c_z, c_z), _hidden(c_z, c_s)])
        self.value = nn.ModuleList([_hidden(c_s, c_s), _hidden(c_s, c_s), Linear(c_s, 1, bias=True)])
        self.score = nn.ModuleList([_hidden(c_s, c_s), _hidden(c_s, c_s), Linear(c_s, 1, bias=True)])
        self.binder = Linear(1, 1, bias=True)

    def forward(self, pocket: Pocket, seed: Tensor) -> tuple[Tensor, Tensor]:
        """Value and logit of binding, float32 [B] each; seed int64 [B] keys dropout."""
        pairs = pair_mask(pocket.is_ligand, pocket.token_mask)
        s = pocket.s_inputs.to(pocket.z.dtype)
        z = self.linear_z(self.norm_z(pocket.z)) + self.z_i(s)[:, :, None] + self.z_j(s)[:, None, :]
        z = z + self.conditioning(z, self._embed_distances(pocket.x, z.dtype))
        z = self.pairformer(z, pairs, pocket.token_mask, seed)
        g = _run(self.pooled, pool(upcast(z), pairs), ends_linear=False)
        score = _run(self.score, g, ends_linear=True)
        return _run(self.value, g, ends_linear=True)[:, 0], self.binder(score)[:, 0]

    def _embed_distances(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return F.embedding(distance_bins(pairwise_distances(x)), self.distance.weight.t().to(dtype))


class PairwiseConditioning(nn.Module):
    """z and the embedded distances, normalised together, projected to c_z, and two transitions."""

    def __init__(self, c_z: int, ops: Ops) -> None:
        super().__init__()
        self.norm = LayerNorm(2 * c_z, ops)
        self.linear = Linear(2 * c_z, c_z)
        self.transitions = nn.ModuleList(Transition(c_z, _CONDITIONING_EXPANSION, ops) for _ in range(2))

    def forward(self, z: Tensor, distances: Tensor) -> Tensor:
        """Both [B, N, N, c_z] -> the update of z."""
        update = self.linear(self.norm(torch.cat([z, distances], dim=-1)))
        for transition in self.transitions:
            update = transition(update)
        return update


class PairformerNoSeq(Stack):
    """The pair track of AF3 Algorithm 17 alone, on the pairs of a mask."""

    def __init__(self, config: AffinityConfig, blocks: int, c_z: int, ops: Ops) -> None:
        heads = config.pair_heads
        super().__init__(
            PairStack(c_z, heads, c_z // heads, config.expansion, config.dropout, ops) for _ in range(blocks)
        )

    def forward(self, z: Tensor, pairs: Tensor, token_mask: Tensor, seed: Tensor) -> Tensor:
        """z [B, N, N, c_z], pairs bool [B, N, N], token_mask bool [B, N], seed int64 [B]."""
        seeds = random_bits(seed, (len(self), PairStack.n_seeds))
        key_bias = mask_bias(token_mask, z.dtype)
        for index in range(len(self)):
            z = self.run(index, z * pairs[..., None], token_mask, key_bias, seeds[:, index])
        return z


def pair_mask(is_ligand: Tensor, token_mask: Tensor) -> Tensor:
    """bool [B, N, N]: pairs of real tokens of which one or both belong to the ligand."""
    either = is_ligand[:, :, None] | is_ligand[:, None, :]
    return either & token_mask[:, :, None] & token_mask[:, None, :]


def pool(z: Tensor, pairs: Tensor) -> Tensor:
    """Mean of z [B, N, N, c] over the pairs of a mask [B, N, N] off the diagonal, [B, c]."""
    off_diagonal = ~torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)
    weight = (pairs & off_diagonal)[..., None].to(z.dtype)
    return (z * weight).sum((1, 2)) / (weight.sum((1, 2)) + _EPSILON)


def distance_bins(distance: Tensor) -> Tensor:
    """Bin numbers 0 to 63 of distances in Å: how many of the 63 bounds from 2 to 22 Å lie below."""
    bounds = torch.linspace(
        NEAREST, FARTHEST, N_DISTANCE_BINS - 1, device=distance.device, dtype=distance.dtype
    )
    return torch.bucketize(distance, bounds)


def _hidden(c_in: int, c_out: int) -> Linear:
    return Linear(c_in, c_out, bias=True, init="relu")


def _run(layers: nn.ModuleList, x: Tensor, *, ends_linear: bool) -> Tensor:
    """A small network: ReLU after every layer, but for the last where that gives the result."""
    for number, layer in enumerate(layers):
        x = layer(x)
        if not (ends_linear and number == len(layers) - 1):
            x = torch.relu(x)
    return x
