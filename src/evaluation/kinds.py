# SPDX-License-Identifier: Apache-2.0
"""LDDT by kind of chain and interface (AF3 SI 5.8 and 6; spec 9), the truth permuted onto the prediction.

Intra: pairs within a chain; of a polymer those of different residues, of a ligand all, of a modified residue
its own. Interface: pairs of one atom in either chain, of chains with atoms within 5 Å in the truth. The
radius is 15 Å, 30 Å where a nucleic acid takes part. Per-atom scores are averaged over a chain or interface,
these over the target.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from foldwright.data.structure import Structure
from foldwright.evaluation.lddt import lddt
from foldwright.evaluation.surface import relative_surface
from foldwright.vocabulary import MoleculeType

INTERFACE = 5.0  # Å
_NUCLEIC = (MoleculeType.DNA, MoleculeType.RNA)
_RADIUS, _NUCLEIC_RADIUS = 15.0, 30.0  # Å
Coords = NDArray[np.floating]
Bools = NDArray[np.bool_]


def lddt_by_kind(
    structure: Structure, x: Coords, x_true: Coords, resolved: Bools, predicted: Bools | None = None
) -> dict[str, float]:
    """Means over the chains, or interfaces, of each kind that the target has; names as in `selection`.

    x, x_true [L, 3] Å of all atoms, resolved [L]; predicted [L]: those that x has, all if None.
    `unresolved_rasa` is the mean accessible share of protein residues without a resolved atom, at most 1.
    """
    found: dict[str, list[float]] = defaultdict(list)
    chain = structure.residue_chain[structure.atom_residue]
    for number, kind in enumerate(structure.chain_type.tolist()):
        atoms = np.flatnonzero((chain == number) & resolved)
        group = np.arange(len(atoms)) if kind == MoleculeType.LIGAND else structure.atom_residue[atoms]
        radius = _NUCLEIC_RADIUS if kind in _NUCLEIC else _RADIUS
        found[f"intra_{_name(kind)}"].append(_lddt(x, x_true, atoms, group, radius))
    for residue in np.flatnonzero(structure.residue_atomised).tolist():
        if structure.chain_type[structure.residue_chain[residue]] != MoleculeType.LIGAND:
            atoms = np.flatnonzero((structure.atom_residue == residue) & resolved)
            found["intra_modified"].append(_lddt(x, x_true, atoms, np.arange(len(atoms)), _RADIUS))
    for a, b in interfaces(structure, x_true, resolved):
        found[interface_kind(structure, a, b)].append(interface_lddt(structure, x, x_true, resolved, a, b))
    means = {kind: float(np.nanmean(v)) for kind, v in found.items() if np.isfinite(v).any()}
    present = np.ones(len(x), np.bool_) if predicted is None else predicted
    return means | _unresolved(structure, x, resolved, present)


def interface_kind(structure: Structure, a: int, b: int) -> str:
    """E.g. interface_dna_protein: the kinds of two chains, in the order of the alphabet."""
    names = sorted(_name(int(structure.chain_type[chain])) for chain in (a, b))
    return f"interface_{names[0]}_{names[1]}"


def interface_lddt(structure: Structure, x: Coords, x_true: Coords, resolved: Bools, a: int, b: int) -> float:
    """LDDT of the pairs between two chains; NaN without any."""
    chain = structure.residue_chain[structure.atom_residue]
    atoms = np.flatnonzero(((chain == a) | (chain == b)) & resolved)
    nucleic = any(structure.chain_type[c] in _NUCLEIC for c in (a, b))
    return _lddt(x, x_true, atoms, chain[atoms], _NUCLEIC_RADIUS if nucleic else _RADIUS)


def interfaces(structure: Structure, x_true: Coords, resolved: Bools) -> list[tuple[int, int]]:
    """Pairs of chains a < b with resolved atoms within 5 Å."""
    chain = structure.residue_chain[structure.atom_residue]
    trees = {}
    for number in range(len(structure.chain_name)):
        own = (chain == number) & resolved
        if own.any():
            trees[number] = cKDTree(x_true[own])
    numbers = sorted(trees)
    return [
        (a, b)
        for place, a in enumerate(numbers)
        for b in numbers[place + 1 :]
        if trees[a].count_neighbors(trees[b], INTERFACE) > 0
    ]


def _name(kind: int) -> str:
    return MoleculeType(kind).name.lower()


def _lddt(
    x: Coords, x_true: Coords, atoms: NDArray[np.int64], group: NDArray[np.integer], radius: float
) -> float:
    if len(atoms) < 2:
        return float("nan")
    predicted, true = (torch.from_numpy(np.asarray(part[atoms], np.float64)) for part in (x, x_true))
    every = torch.ones(len(atoms), dtype=torch.bool)
    return float(lddt(predicted, true, every, torch.from_numpy(np.array(group)), radius))


def _unresolved(structure: Structure, x: Coords, resolved: Bools, present: Bools) -> dict[str, float]:
    shown = np.bincount(structure.atom_residue, weights=resolved, minlength=len(structure.residue_chain)) > 0
    protein = structure.chain_type[structure.residue_chain] == MoleculeType.PROTEIN
    if not (protein & ~shown).any():
        return {}
    area = relative_surface(structure, x.astype(np.float32), present)[~shown & protein]
    known = area[np.isfinite(area)]
    return {"unresolved_rasa": float(np.minimum(known, 1.0).mean())} if len(known) else {}
