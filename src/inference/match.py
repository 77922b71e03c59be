# SPDX-License-Identifier: Apache-2.0
"""A prediction's file laid on the atoms of the truth, by chain, residue and atom name.

A chain stands for one of the same components: what is bonded, for one that is bonded to the same atoms there,
then of the same name where there is one. Which of several equal molecules is meant does not matter: metrics
exchange them, but not a molecule's chains. True chains that the prediction lacks are left out, as
are atoms that it lacks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from foldwright.data.structure import Floats, Ints, Structure, keep_chains
from foldwright.vocabulary import MoleculeType

_NOWHERE = 1000.0  # Å: of an atom that was not predicted


class Matched(NamedTuple):
    """The truth, of the chains that were predicted, and predicted coordinates [L, 3] Å of its atoms. An atom
    that was not predicted counts as unresolved. `source` [L]: each one's number among the predicted atoms, -1
    without one. `missing`: names of true chains that were left out.
    """

    truth: Structure
    coords: Floats
    source: Ints
    missing: list[str]


def match(truth: Structure, predicted: Structure) -> Matched:
    """Raises ValueError where no chain of the truth was predicted."""
    partners = _partners(truth, predicted)
    if not partners:
        raise ValueError(
            f"no chain of the prediction has the sequence of one of {truth.entry_id}: got "
            f"{_described(predicted)}, expected {_described(truth)}"
        )
    keep = np.array([chain in partners for chain in range(len(truth.chain_name))])
    missing = truth.chain_name[~keep].tolist()
    kept = keep_chains(truth, keep)
    coords = np.zeros_like(kept.atom_coords)
    sources = np.full(len(coords), -1, np.int32)
    for number, chain in enumerate(np.flatnonzero(keep).tolist()):
        atoms = _atoms(predicted, partners[chain])
        for atom, place in _atoms(kept, number).items():
            if (source := atoms.get(atom)) is not None and predicted.atom_resolved[source]:
                coords[place], sources[place] = predicted.atom_coords[source], source
    return Matched(replace(kept, atom_resolved=kept.atom_resolved & (sources >= 0)), coords, sources, missing)


def _partners(truth: Structure, predicted: Structure) -> dict[int, int]:
    """The predicted chain of each true one that has any: polymers, then what is bonded to chains that have
    theirs, then the first of each molecule of ligands, and what is bonded to nothing last, so that it does
    not take the place of a bonded one.
    """
    links = _Links(truth, predicted)
    is_ligand = truth.chain_type == MoleculeType.LIGAND
    found = links.assign(np.flatnonzero(~is_ligand).tolist(), {})
    left = np.flatnonzero(is_ligand).tolist()
    while left:
        beside = [chain for chain in left if links.neighbours(chain) & found.keys()]
        bonded = [chain for chain in left if links.neighbours(chain)]
        chosen = beside or bonded[:1] or left
        found |= links.assign(chosen, found)
        left = [chain for chain in left if chain not in chosen]
    return found


class _Links:
    """What two structures' chains are made of, and the bonds between chains of the truth."""

    def __init__(self, truth: Structure, predicted: Structure) -> None:
        self._names = truth.chain_name.tolist(), predicted.chain_name.tolist()
        self._sequences = [
            [s.sequence(chain) for chain in range(len(s.chain_name))] for s in (truth, predicted)
        ]
        self._x, self._resolved = predicted.atom_coords, predicted.atom_resolved
        self._atoms = [_atoms(predicted, chain) for chain in range(len(predicted.chain_name))]
        self._bonds: dict[int, list[tuple[tuple[int, str], int, tuple[int, str]]]] = defaultdict(list)
        chain = truth.residue_chain[truth.atom_residue]
        first = np.searchsorted(truth.residue_chain, np.arange(len(truth.chain_name)))
        for pair in truth.bonds.tolist():
            keys = [(int(truth.atom_residue[a] - first[chain[a]]), str(truth.atom_name[a])) for a in pair]
            own, other = chain[pair].tolist()
            if own != other:
                self._bonds[own].append((keys[0], other, keys[1]))
                self._bonds[other].append((keys[1], own, keys[0]))

    def neighbours(self, chain: int) -> set[int]:
        """True chains bonded to a true chain."""
        return {other for _, other, _ in self._bonds[chain]}

    def assign(self, chains: list[int], found: Mapping[int, int]) -> dict[int, int]:
        """Partners of some true chains among predicted ones that none of `found` has, of the same components.

        Those of most bonds come first, each with the one where they are shortest (to a whole Å); then names.
        """
        free = [other for other in range(len(self._atoms)) if other not in found.values()]
        options = sorted(
            (
                -len(self._bonds[chain]),
                round(self._gap(chain, other, found)),
                name != self._names[1][other],
                chain,
                other,
            )
            for chain, name in ((chain, self._names[0][chain]) for chain in chains)
            for other in free
            if self._sequences[0][chain] == self._sequences[1][other]
        )
        chosen: dict[int, int] = {}
        for *_, chain, other in options:
            if chain not in chosen and other not in chosen.values():
                chosen[chain] = other
        return chosen

    def _gap(self, chain: int, other: int, found: Mapping[int, int]) -> float:
        """Å between the ends of all bonds of a true chain in the prediction, were `other` its partner. The
        far end is in its chain's partner, or in the nearest chain that could be it.
        """
        total = 0.0
        for own_atom, far, far_atom in self._bonds[chain]:
            could_be = [
                n for n, sequence in enumerate(self._sequences[1]) if sequence == self._sequences[0][far]
            ]
            partners = [found[far]] if far in found else could_be
            gaps = [self._distance((other, own_atom), (n, far_atom)) for n in partners if n != other]
            total += min(gaps, default=_NOWHERE)
        return total

    def _distance(self, *ends: tuple[int, tuple[int, str]]) -> float:
        atoms = [self._atoms[chain].get(atom, -1) for chain, atom in ends]
        if min(atoms) < 0 or not self._resolved[atoms].all():
            return _NOWHERE
        return float(np.linalg.norm(self._x[atoms[0]] - self._x[atoms[1]]))


def _atoms(structure: Structure, chain: int) -> dict[tuple[int, str], int]:
    """Atoms of a chain by the number of their residue in it and their name."""
    rows = np.flatnonzero(structure.residue_chain[structure.atom_residue] == chain)
    first = int(np.flatnonzero(structure.residue_chain == chain)[0])
    residues, names = (structure.atom_residue[rows] - first).tolist(), structure.atom_name[rows].tolist()
    return dict(zip(zip(residues, names, strict=True), rows.tolist(), strict=True))


def _described(structure: Structure) -> str:
    sizes = [f"{name} ({len(structure.sequence(chain))})" for chain, name in enumerate(structure.chain_name)]
    return "chains (of residues) " + ", ".join(sizes[:8])
