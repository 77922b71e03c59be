# SPDX-License-Identifier: Apache-2.0
"""What the confidence head should predict about a structure: LDDT, aligned and distance errors, resolution.

AF3 SI 4.3 (equations 8 to 14, Algorithms 29 and 30), from a predicted structure and the ground truth, which
is already permuted onto it. Everything is without gradient and invariant to rigid motions of either.
Readings: equation 8 is the normalised LDDT; error bins are floor(2 e), their centres (k + 1/2) / 2 Å.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foldwright.batch import Batch
from foldwright.geometry import distances, pairwise_distances, to_frames
from foldwright.vocabulary import MoleculeType

N_PLDDT_BINS = 50
N_ERROR_BINS = 64
BINS_PER_ANGSTROM = 2  # of aligned and distance errors; the last bin holds all from 31.5 Å
LDDT_THRESHOLDS = (0.5, 1.0, 2.0, 4.0)  # Å
PROTEIN_RADIUS, NUCLEOTIDE_RADIUS = 15.0, 30.0  # Å, by the neighbour's kind
RESOLUTIONS = (0.1, 4.0)  # Å: structures that confidence is learnt from


@dataclass
class ConfidenceTargets:
    """Bin numbers (int64) and what counts (bool): per atom [B, A] and per pair of tokens [B, N, N].

    `lddt` [B, A] holds the scores that `plddt` bins; `resolved` is 0 or 1, for every expected atom.
    """

    lddt: Tensor
    plddt: Tensor
    plddt_mask: Tensor
    pae: Tensor
    pae_mask: Tensor
    pde: Tensor
    pde_mask: Tensor
    resolved: Tensor
    resolved_mask: Tensor


@torch.no_grad()
def confidence_targets(x: Tensor, batch: Batch) -> ConfidenceTargets:
    """Targets of a predicted structure x [B, A, 3] Å, float32 or wider, against the batch's labels."""
    x_true = batch.atom_coords.to(x.dtype)
    lddt, plddt_mask = atom_lddt(x, x_true, batch)
    pae, pae_mask = aligned_errors(x, x_true, batch)
    pde, pde_mask = distance_errors(x, x_true, batch)
    return ConfidenceTargets(
        lddt=lddt,
        plddt=(lddt * N_PLDDT_BINS).long().clamp(max=N_PLDDT_BINS - 1),
        plddt_mask=plddt_mask,
        pae=error_bins(pae),
        pae_mask=pae_mask,
        pde=error_bins(pde),
        pde_mask=pde_mask,
        resolved=batch.atom_resolved.long(),
        resolved_mask=batch.atom_mask,
    )


def counts_for_confidence(batch: Batch) -> Tensor:
    """Which examples confidence is learnt from: experimental, at 0.1 to 4 Å. bool [B]."""
    low, high = RESOLUTIONS
    return batch.supervises_confidence & (batch.resolution >= low) & (batch.resolution <= high)


def atom_lddt(x: Tensor, x_true: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """LDDT of every atom to the CA and C1' atoms of standard residues around it, and where it exists.

    [B, A] in [0, 1]; neighbours are within 15 Å (protein) or 30 Å (nucleic acid) of the truth, not the atom
    itself. Undefined for unresolved atoms and those without a neighbour.
    """
    centre = batch.centre_atom.long()
    is_polymer = batch.molecule_type != MoleculeType.LIGAND
    counted = batch.token_mask & ~batch.is_atomised & is_polymer & _take(batch.atom_resolved, centre)
    is_protein = batch.molecule_type == MoleculeType.PROTEIN
    radius = torch.where(is_protein, PROTEIN_RADIUS, NUCLEOTIDE_RADIUS)[:, None]
    d, d_true = (distances(y, _points(y, centre)) for y in (x, x_true))
    atom = torch.arange(x.shape[1], device=x.device)
    near = counted[:, None] & (d_true < radius) & (atom[:, None] != centre[:, None])
    error = (d - d_true).abs()
    kept = torch.zeros_like(error)
    for threshold in LDDT_THRESHOLDS:
        kept += error < threshold
    n_near = near.sum(-1)
    score = (kept * near).sum(-1) / (len(LDDT_THRESHOLDS) * n_near.clamp(min=1))
    return score, batch.atom_resolved & (n_near > 0)


def aligned_errors(x: Tensor, x_true: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Error in Å [B, N, N] of representative atom j in the frame of token i, and where both are known."""
    atoms, points = batch.frame_atoms.long(), batch.representative_atom.long()

    def local(y: Tensor) -> Tensor:
        a, b, c = (_points(y, atoms[..., corner]) for corner in range(3))
        return to_frames(bisector_axes(a, b, c), b, _points(y, points))

    error = ((local(x) - local(x_true)).square().sum(-1) + 1e-8).sqrt()
    resolved = torch.stack([_take(batch.atom_resolved, atoms[..., corner]) for corner in range(3)], -1)
    has_frame = batch.has_frame & batch.token_mask & resolved.all(-1)
    has_point = batch.token_mask & _take(batch.atom_resolved, points)
    return error, has_frame[:, :, None] & has_point[:, None, :]


def distance_errors(x: Tensor, x_true: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Error in Å [B, N, N] of distances between representative atoms, and where both are resolved."""
    points = batch.representative_atom.long()
    error = pairwise_distances(_points(x, points)) - pairwise_distances(_points(x_true, points))
    known = batch.token_mask & _take(batch.atom_resolved, points)
    return error.abs(), known[:, :, None] & known[:, None, :]


def bisector_axes(a: Tensor, b: Tensor, c: Tensor, eps: float = 1e-10) -> Tensor:
    """AF3 Algorithm 29: axes [..., 3, 3] (columns) along the bisector of a-b-c, across it, and their normal.

    Degenerate triples give finite, meaningless axes: mask them.
    """
    w_1, w_2 = _unit(a - b, eps), _unit(c - b, eps)
    e_1, e_2 = _unit(w_1 + w_2, eps), _unit(w_2 - w_1, eps)
    return torch.stack([e_1, e_2, torch.linalg.cross(e_1, e_2)], -1)


def error_bins(error: Tensor) -> Tensor:
    """Bin numbers of errors in Å, half an Å each; what is not finite is in the last."""
    number = torch.nan_to_num(error * BINS_PER_ANGSTROM, nan=torch.inf)
    return number.clamp(max=N_ERROR_BINS - 1).long()


def _unit(v: Tensor, eps: float) -> Tensor:
    return v / (v.square().sum(-1, keepdim=True) + eps).sqrt()


def _points(x: Tensor, index: Tensor) -> Tensor:
    """Atoms [B, N, 3] of x [B, A, 3] by index [B, N]."""
    return torch.gather(x, 1, index[..., None].expand(-1, -1, 3))


def _take(flags: Tensor, index: Tensor) -> Tensor:
    return torch.gather(flags, 1, index)
