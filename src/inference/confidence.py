# SPDX-License-Identifier: Apache-2.0
"""All confidence scores of one predicted structure (AF3 SI 5.9), as arrays and numbers to be written."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor

from foldwright.batch import Batch
from foldwright.confidence import scores
from foldwright.data.structure import Floats, Structure
from foldwright.evaluation.surface import disordered_fraction
from foldwright.losses.distogram import FIRST_BREAK, LAST_BREAK
from foldwright.model import N_DISTOGRAM_BINS, DistogramHead, Judged
from foldwright.vocabulary import MoleculeType

_ROWS = 256  # of pairs whose logits are there at a time
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


@torch.no_grad()
def contact_probability(head: DistogramHead, z: Tensor) -> Tensor:
    """[N, N] probability of representative atoms within 8 Å, from the pairs z [1, N, N, c_z] of the trunk."""
    breaks = torch.linspace(FIRST_BREAK, LAST_BREAK, N_DISTOGRAM_BINS - 1, device=z.device)
    near = torch.cat([breaks <= CONTACT, breaks.new_zeros(1, dtype=torch.bool)])
    rows = [slice(start, start + _ROWS) for start in range(0, z.shape[1], _ROWS)]
    return torch.cat([head.rows(z, part)[0].softmax(-1)[..., near].sum(-1) for part in rows])


@torch.no_grad()
def judged_pairs(judged: Judged, asym_id: Tensor) -> scores.PairScores:
    """What the scores need of the pairs of one judged structure; asym_id [N]."""

    def logits(rows: slice) -> tuple[Tensor, Tensor]:
        pae, pde = judged.pairs(rows)
        return pae[0].float(), pde[0].float()

    return scores.pair_scores(logits, asym_id)


@torch.no_grad()
def assess(structure: Structure, batch: Batch, x: Tensor, judged: Judged, contacts: Tensor) -> Confidence:
    """The scores of a structure x [A, 3] Å of a batch of one, unpadded in its tokens.

    contacts [N, N]: `contact_probability`.
    """
    n_atoms, n_chains = len(structure.atom_name), len(structure.chain_name)
    asym, frame = batch.asym_id[0], batch.has_frame[0]
    plddt = scores.plddt(judged.plddt[0, :n_atoms].float()).cpu().numpy()

    pairs = judged_pairs(judged, asym)
    coords = x[:n_atoms].float()
    chain = structure.residue_chain[structure.atom_residue]
    polymer = structure.chain_type != MoleculeType.LIGAND
    clash = scores.has_clash(
        coords, torch.from_numpy(chain.copy()).to(x.device), torch.from_numpy(polymer[chain]).to(x.device)
    )
    present = np.ones(n_atoms, np.bool_)
    disordered = disordered_fraction(structure, coords.cpu().numpy(), present)
    ptm = float(pairs.ptm(frame))
    iptm = float(pairs.iptm(frame, asym)) if n_chains > 1 else None
    chain_pairs = _chain_pairs(pairs, frame, asym, n_chains)
    return Confidence(
        plddt=plddt,
        pae=pairs.pae.cpu().numpy(),
        pde=pairs.pde.cpu().numpy(),
        ptm=ptm,
        iptm=iptm,
        chain_ptm=[row[number] for number, row in enumerate(chain_pairs)],
        chain_pair_iptm=chain_pairs,
        chain_plddt=[float(plddt[chain == number].mean()) for number in range(n_chains)],
        gpde=float(scores.global_pde(pairs.pde, contacts)),
        has_clash=clash,
        fraction_disordered=disordered,
        ranking_score=scores.ranking_score(ptm, iptm, disordered, clash),
    )


def _chain_pairs(
    pairs: scores.PairScores, has_frame: Tensor, asym_id: Tensor, n_chains: int
) -> list[list[float]]:
    table = np.zeros((n_chains, n_chains))
    for a, b in combinations_with_replacement(range(n_chains), 2):
        table[a, b] = table[b, a] = float(pairs.chain_ptm(has_frame, asym_id, a, b))
    rows: list[list[float]] = table.tolist()
    return rows
