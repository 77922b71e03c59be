# SPDX-License-Identifier: Apache-2.0
"""Pocket-aligned RMSD of a ligand (AF3 SI 6.2; spec 9), the smallest over its symmetries.

The pocket: residues of the primary polymer chain, the one with most atoms within 10 Å of the true ligand,
that have an atom within 10 Å of it. Their CA atoms (C1' of nucleotides) are superposed; all their atoms,
where fewer than three are there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from foldwright.data.superpose import superpose

POCKET = 10.0  # Å
SUCCESS = 2.0  # Å
Coords = NDArray[np.floating]


@dataclass
class Pocket:
    """Atoms of a pocket to superpose [k] and its polymer chain."""

    atoms: NDArray[np.int64]
    chain: int


def find_pocket(
    x_true: Coords,
    resolved: NDArray[np.bool_],
    ligand: NDArray[np.bool_],
    polymer: NDArray[np.bool_],
    chain: NDArray[np.integer],
    residue: NDArray[np.integer],
    is_centre: NDArray[np.bool_],
) -> Pocket | None:
    """The pocket of a ligand in the truth, of per-atom arrays [L]; None without a polymer near it."""
    own = np.flatnonzero(ligand & resolved)
    others = np.flatnonzero(polymer & resolved)
    if not len(own) or not len(others):
        return None
    distance, _ = cKDTree(x_true[own]).query(x_true[others], distance_upper_bound=POCKET)
    near = others[np.isfinite(distance)]
    if not len(near):
        return None
    primary = int(np.bincount(chain[near]).argmax())
    members = np.isin(residue, residue[near[chain[near] == primary]]) & resolved & (chain == primary)
    centres = np.flatnonzero(members & is_centre)
    return Pocket(centres if len(centres) >= 3 else np.flatnonzero(members), primary)


def ligand_rmsd(
    x: Coords, x_true: Coords, pocket: Pocket, atoms: NDArray[np.integer], resolved: NDArray[np.bool_],
    symmetries: NDArray[np.integer],
) -> float:  # fmt: skip
    """RMSD in Å of a ligand's atoms [n], the smallest over relabellings [P, n] of them (the identity first).

    Where the truth shows none of the relabelled atoms it does not count. NaN without a pocket of three atoms.
    """
    if len(pocket.atoms) < 3:
        return float("nan")
    moved = superpose(x[pocket.atoms], x_true[pocket.atoms])(x[atoms])
    best = np.inf
    for order in symmetries:
        target = atoms[order]
        shown = resolved[target]
        if shown.any():
            square = ((moved[shown] - x_true[target[shown]]) ** 2).sum(axis=1)
            best = min(best, float(np.sqrt(square.mean())))
    return best
