# SPDX-License-Identifier: Apache-2.0
"""The confidence head (AF3 Algorithm 31): pLDDT, aligned and distance errors, and which atoms are resolved.

It reads the trunk's representations and one predicted structure; what flows in is detached by the caller.
Readings: "+=" of line 4 is "="; 39 distance bins of 1.25 Å from 3.25 Å, the last open, nearer pairs in none
(the printed spacing does not divide its range); no norms beside the Pairformer's, as printed; every atom
has the weights of its slot in its token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foldwright.batch import Batch
from foldwright.confidence.targets import N_ERROR_BINS, N_PLDDT_BINS
from foldwright.geometry import pairwise_distances
from foldwright.kernels import Ops
from foldwright.kernels.reference import linear, upcast
from foldwright.layers.linear import Linear, initialise
from foldwright.layers.widths import Widths
from foldwright.pairformer.pairformer import PairformerConfig, PairformerStack
from foldwright.pairformer.triangle import added
from foldwright.vocabulary import MAX_ATOMS_PER_TOKEN

N_DISTANCE_BINS = 39
FIRST_DISTANCE, DISTANCE_STEP = 3.25, 1.25  # Å


@dataclass
class ConfidenceConfig:
    """Defaults: AF3's. SI is silent on dropout; none is the recommended reading (spec 3.9)."""

    pairformer: PairformerConfig = field(default_factory=lambda: PairformerConfig(blocks=4, dropout=0.0))


@dataclass
class ConfidenceLogits:
    """float32: per atom plddt [B, A, 50] and resolved [B, A, 2]; per pair pae and pde [B, N, N, 64]."""

    plddt: Tensor
    pae: Tensor
    pde: Tensor
    resolved: Tensor


class ConfidenceHead(nn.Module):
    """AF3 Algorithm 31. Logits are zero at initialisation."""

    def __init__(self, config: ConfidenceConfig, widths: Widths, ops: Ops) -> None:
        super().__init__()
        c_s, c_z, c_in = widths.single, widths.pair, widths.single_inputs
        self.z_i = Linear(c_in, c_z)
        self.z_j = Linear(c_in, c_z)
        self.distance = Linear(N_DISTANCE_BINS, c_z)
        self.pairformer = PairformerStack(config.pairformer, widths, ops)
        self.pae = Linear(c_z, N_ERROR_BINS, init="zero")
        self.pde = Linear(c_z, N_ERROR_BINS, init="zero")
        self.plddt = SlotLinear(c_s, N_PLDDT_BINS)
        self.resolved = SlotLinear(c_s, 2)

    def forward(
        self, batch: Batch, s_inputs: Tensor, s: Tensor, z: Tensor, x: Tensor, seed: Tensor
    ) -> ConfidenceLogits:
        """s_inputs [B, N, c_s_inputs], s [B, N, c_s], z [B, N, N, c_z] of the trunk, in the dtype of the
        products; x [B, A, 3] Å, float32; seed int64 [B] keys dropout.
        """
        s, z = self.embed(batch, s_inputs, s, z, x, seed)
        s = upcast(s)
        pae, pde = self.pairs(z, slice(None))
        return ConfidenceLogits(self.plddt(s, batch), pae, pde, self.resolved(s, batch))

    def embed(
        self, batch: Batch, s_inputs: Tensor, s: Tensor, z: Tensor, x: Tensor, seed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the logits are made from, s [B, N, c_s] and z [B, N, N, c_z]; arguments as of `forward`."""
        z = added(z + self.z_i(s_inputs)[:, :, None], self.z_j(s_inputs)[:, None, :])
        z = added(z, self._embed_distances(batch, x, z.dtype))
        s, z = self.pairformer(s, z, batch.token_mask, seed)
        return s, z

    def pairs(self, z: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """pae and pde logits [B, n, N, 64] of n rows of the pairs z of `embed`."""
        own = upcast(z[:, rows])
        return self.pae(own), self.pde(own + upcast(z[:, :, rows]).transpose(1, 2))

    def _embed_distances(self, batch: Batch, x: Tensor, dtype: torch.dtype) -> Tensor:
        table = F.pad(self.distance.weight.t().to(dtype), (0, 0, 1, 0))  # row 0: nearer than the first bin
        index = batch.representative_atom.long()[..., None].expand(-1, -1, 3)
        return F.embedding(distance_bins(pairwise_distances(torch.gather(x, 1, index))) + 1, table)


class SlotLinear(nn.Module):
    """logits_l = W[slot(l)] s_token(l): a product of its own for each of the 24 atom slots of a token."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.c_out = c_out
        self.weight = nn.Parameter(torch.empty(MAX_ATOMS_PER_TOKEN * c_out, c_in))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        initialise(self.weight, "zero")

    def forward(self, s: Tensor, batch: Batch) -> Tensor:
        """s [B, N, c_in] -> [B, A, c_out]."""
        of_slots = linear(s, self.weight).unflatten(-1, (MAX_ATOMS_PER_TOKEN, self.c_out)).flatten(1, 2)
        index = batch.atom_to_token.long() * MAX_ATOMS_PER_TOKEN + batch.atom_slot.long()
        return torch.gather(of_slots, 1, index[..., None].expand(-1, -1, self.c_out))


def distance_bins(distance: Tensor) -> Tensor:
    """Bin numbers 0 to 38 of distances in Å, -1 below the first bin."""
    number = torch.floor((distance - FIRST_DISTANCE) / DISTANCE_STEP).long()
    return number.clamp(min=-1, max=N_DISTANCE_BINS - 1)
