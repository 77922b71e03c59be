# SPDX-License-Identifier: Apache-2.0
"""Affinities of the ligands of one predicted structure, by the head of the affinity stage (Boltz-2; spec 6).

The pocket is cut around the ligand where the structure has it, as in training (`training/pockets.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foldwright.affinity.crop import PocketConfig
from foldwright.affinity.head import AffinityPrediction, Pocket
from foldwright.affinity.scores import ensemble, pic50
from foldwright.batch import Batch
from foldwright.data.query_example import Target
from foldwright.model import AlphaFold3, Representation
from foldwright.randomness import key
from foldwright.training.pockets import choose_pocket
from foldwright.vocabulary import MoleculeType

_MIN_LIGAND = 6  # heavy atoms of what an affinity is predicted for: no ion, no buffer


@dataclass(frozen=True)
class Affinity:
    """Of one ligand: means over the ensemble, and what each member says."""

    log10_k_um: float  # log10(K / µM): smaller binds more strongly
    pic50: float  # -log10(K / M)
    probability_binder: float
    members_log10_k_um: list[float]
    members_probability_binder: list[float]


class Affinities(NamedTuple):
    """By ligand chain: what was predicted, and why nothing was."""

    found: dict[str, Affinity]
    left_out: dict[str, str]


@torch.no_grad()
def affinities(
    network: AlphaFold3,
    target: Target,
    batch: Batch,
    trunk: Representation,
    x: Tensor,
    budget: PocketConfig,
    seeds: Tensor,
) -> Affinities:
    """Of every ligand of six heavy atoms or more, where there is a protein and the network has the
    head. x [A, 3] Å: the structure of a batch of one; seeds int64 [1].

    A ligand over the budget of the pocket is left out, with the reason.
    """
    structure, tokens = target.structure, target.entry.tokens
    found, left_out = dict[str, Affinity](), dict[str, str]()
    if network.affinity is None or not (structure.chain_type == MoleculeType.PROTEIN).any():
        return Affinities(found, left_out)
    for chain in np.flatnonzero(structure.chain_type == MoleculeType.LIGAND).tolist():
        is_ligand = tokens.token_chain == chain
        if is_ligand.sum() < _MIN_LIGAND:
            continue
        name = str(structure.chain_name[chain])
        try:
            kept = choose_pocket(x, batch, is_ligand, budget)
        except ValueError as error:
            left_out[name] = str(error)
            continue
        pocket = _pocket(batch, trunk, x, is_ligand, kept)
        prediction = network.predict_affinity(pocket, key(seeds, "affinity"))
        found[name] = _told(prediction)
    return Affinities(found, left_out)


def _pocket(
    batch: Batch, trunk: Representation, x: Tensor, is_ligand: NDArray[np.bool_], kept: NDArray[np.int64]
) -> Pocket:
    index = torch.from_numpy(kept).to(x.device)
    return Pocket(
        trunk.s_inputs[:, index],
        trunk.z[:, index][:, :, index],
        x[batch.representative_atom[0].long()[index]][None].float(),
        torch.from_numpy(is_ligand[kept]).to(x.device)[None],
        torch.ones(1, len(kept), dtype=torch.bool, device=x.device),
    )


def _told(prediction: AffinityPrediction) -> Affinity:
    scores = ensemble(prediction)
    return Affinity(
        float(scores.value[0]),
        float(pic50(scores.value)[0]),
        float(scores.probability[0]),
        prediction.value[:, 0].tolist(),
        torch.sigmoid(prediction.logit[:, 0]).tolist(),
    )
