# SPDX-License-Identifier: Apache-2.0
"""The diffusion losses (AF3 SI 3.7.1, eq. 2 to 6, Algorithm 27), one value per example and sample.

All in float32 (or the coordinates' wider dtype). What counts are the resolved atoms that the example's data
set supervises; examples without any give zero, attached to the graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foldwright.batch import Batch
from foldwright.kernels import Ops
from foldwright.vocabulary import MoleculeType

NUCLEOTIDE_WEIGHT, LIGAND_WEIGHT = 5.0, 10.0  # α_dna = α_rna and α_ligand of eq. 4


def atom_molecule_type(batch: Batch) -> Tensor:
    """Molecule type of every atom's chain, uint8 [B, A]."""
    return torch.gather(batch.molecule_type, 1, batch.atom_to_token.long())


def supervised_atoms(batch: Batch) -> Tensor:
    """Resolved atoms that the diffusion loss of their example counts: bool [B, A]."""
    counted = batch.supervises_non_protein[:, None] | (atom_molecule_type(batch) == MoleculeType.PROTEIN)
    return batch.atom_resolved & counted & batch.supervises_diffusion[:, None]


def atom_weights(batch: Batch) -> Tensor:
    """w_l of eq. 4, zero for atoms that are not supervised: float32 [B, A]."""
    kind = atom_molecule_type(batch)
    nucleotide = (kind == MoleculeType.RNA) | (kind == MoleculeType.DNA)
    weight = 1.0 + NUCLEOTIDE_WEIGHT * nucleotide + LIGAND_WEIGHT * (kind == MoleculeType.LIGAND)
    return weight * supervised_atoms(batch)


def aligned_mse(x: Tensor, x_true: Tensor, weight: Tensor, counted: Tensor, ops: Ops) -> Tensor:
    """Eq. 3 with the truth aligned onto the prediction: [B, D] Å². x, x_true [B, D, A, 3], weight [B, A].

    The mean runs over the atoms `counted` [B, A] (not over the sum of weights).
    """
    weight = weight[:, None].to(x.dtype)
    target = ops.weighted_rigid_align(x_true, x.detach(), weight.expand(x.shape[:-1]))
    squared = (x - target).square().sum(-1)
    n_counted = counted.sum(-1).clamp(min=1)[:, None].to(x.dtype)
    return (weight * squared).sum(-1) / (3.0 * n_counted)


def bond_loss(x: Tensor, x_true: Tensor, batch: Batch) -> Tensor:
    """Eq. 5: mean squared error of polymer-ligand bond lengths, [B, D] Å²; zero where there are none.

    A bond counts only where all atoms do: one end at least is no protein.
    """

    def lengths(y: Tensor) -> Tensor:
        index = batch.bond_atoms.long()[:, None, :, :, None]
        index = index.expand(-1, y.shape[1], -1, -1, 3)
        ends = torch.gather(y[:, :, None].expand(-1, -1, index.shape[2], -1, -1), 3, index)
        return ((ends[..., 0, :] - ends[..., 1, :]).square().sum(-1) + 1e-10).sqrt()

    is_counted = batch.supervises_diffusion & batch.supervises_non_protein
    counted = (batch.bond_mask & is_counted[:, None])[:, None].to(x.dtype)
    error = (lengths(x) - lengths(x_true)).square() * counted
    return error.sum(-1) / counted.sum(-1).clamp(min=1.0)


def smooth_lddt_loss(x: Tensor, x_true: Tensor, batch: Batch, ops: Ops) -> Tensor:
    """Algorithm 27, [B, D]."""
    kind = atom_molecule_type(batch)
    nucleotide = (kind == MoleculeType.RNA) | (kind == MoleculeType.DNA)
    counted = supervised_atoms(batch)
    return ops.smooth_lddt(x, x_true, counted, nucleotide) * counted.any(1, keepdim=True)
