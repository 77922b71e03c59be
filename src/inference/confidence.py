# SPDX-License-Identifier: Apache-2.0
"""All confidence scores of one predicted structure (AF3 SI 5.9), as arrays and numbers to be written."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from foldwright.batch import Batch
from foldwright.confidence import scores
from foldwright.confidence.head import ConfidenceLogits
from foldwright.data.structure import Floats, Structure
from foldwright.evaluation.surface import disordered_fraction
from foldwright.losses.distogram import FIRST_BREAK, LAST_BREAK
from foldwright.vocabulary import MoleculeType

CONTACT = 8.0  # Å of representative atoms


@dataclass
class Confidence:
    """Scores of one structure: L atoms, N tokens, C chains. `iptm` is None for a single chain."""

    plddt: Floats  # [L], 0 to 100
    pae: Floats  # [N, N] Å
    pde: Floats  # [N, N] Å
    ptm: float
    iptm: float | None
    chain_ptm: list[float]
    chain_pair_iptm: list[list[float]]  # the diagonal holds chain_ptm
    chain_plddt: list[float]
    gpde: float
    has_clash: bool
    fraction_disordered: float
    ranking_score: float


def contact_probability(distogram_logits: Tensor) -> Tensor:
    """[N, N] probability of representative atoms within 8 Å, from logits [N, N, 64]."""
    n_bins = distogram_logits.shape[-1]
    breaks = torch.linspace(FIRST_BREAK, LAST_BREAK, n_bins - 1, device=distogram_logits.device)
    near = torch.cat([breaks <= CONTACT, breaks.new_zeros(1, dtype=torch.bool)])
    rows = [part.softmax(-1)[..., near].sum(-1) for part in distogram_logits.split(256)]
    return torch.cat(rows)


@torch.no_grad()
def assess(
    structure: Structure, batch: Batch, x: Tensor, logits: ConfidenceLogits, contacts: Tensor
) -> Confidence:
    """The scores of a structure x [A, 3] Å of a batch of one, unpadded in its tokens.

    contacts [N, N]: `contact_probability`.
    """
    n_atoms, n_chains = len(structure.atom_name), len(structure.chain_name)
    asym, frame, tokens = batch.asym_id[0], batch.has_frame[0], batch.token_mask[0]
    pae_logits = logits.pae[0].float()
    plddt = scores.plddt(logits.plddt[0, :n_atoms].float()).cpu().numpy()
    pde = scores.expected_error(logits.pde[0].float())
    coords = x[:n_atoms].float()
    chain = structure.residue_chain[structure.atom_residue]
    polymer = structure.chain_type != MoleculeType.LIGAND
    clash = scores.has_clash(
        coords, torch.from_numpy(chain.copy()).to(x.device), torch.from_numpy(polymer[chain]).to(x.device)
    )
    present = np.ones(n_atoms, np.bool_)
    disordered = disordered_fraction(structure, coords.cpu().numpy(), present)
    ptm = float(scores.ptm(pae_logits, tokens, frame))
    iptm = float(scores.iptm(pae_logits, tokens, frame, asym)) if n_chains > 1 else None
    own = [_chain_ptm(pae_logits, frame, asym == number) for number in range(n_chains)]
    return Confidence(
        plddt=plddt,
        pae=scores.expected_error(pae_logits).cpu().numpy(),
        pde=pde.cpu().numpy(),
        ptm=ptm,
        iptm=iptm,
        chain_ptm=own,
        chain_pair_iptm=_chain_pairs(pae_logits, frame, asym, own),
        chain_plddt=[float(plddt[chain == number].mean()) for number in range(n_chains)],
        gpde=float(scores.global_pde(pde, contacts)),
        has_clash=clash,
        fraction_disordered=disordered,
        ranking_score=scores.ranking_score(ptm, iptm, disordered, clash),
    )


def _chain_ptm(pae_logits: Tensor, has_frame: Tensor, mine: Tensor) -> float:
    own = mine.nonzero()[:, 0]
    every = torch.ones(len(own), dtype=torch.bool, device=own.device)
    return float(scores.ptm(pae_logits[own][:, own], every, has_frame[own]))


def _chain_pairs(
    pae_logits: Tensor, has_frame: Tensor, asym_id: Tensor, own: list[float]
) -> list[list[float]]:
    table = np.diag(np.array(own))
    for a, b in combinations(range(len(own)), 2):
        table[a, b] = table[b, a] = float(scores.chain_pair_iptm(pae_logits, has_frame, asym_id, a, b))
    rows: list[list[float]] = table.tolist()
    return rows
