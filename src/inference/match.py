# SPDX-License-Identifier: Apache-2.0
"""A prediction's file laid on the atoms of the truth, by chain, residue and atom name.

A chain stands for one of the same components, of the same name where there is one. Which of several equal
chains is meant does not matter: metrics exchange them. True chains that the prediction lacks are left out, as
are atoms that it lacks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from foldwright.data.structure import Floats, Ints, Structure, keep_chains


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
    """The predicted chain of each true one that has any."""
    left = list(range(len(predicted.chain_name)))
    sequences = [predicted.sequence(chain) for chain in left]
    found: dict[int, int] = {}
    for same_name in (True, False):
        for chain, name in enumerate(truth.chain_name.tolist()):
            if chain in found:
                continue
            wanted = truth.sequence(chain)
            for other in left:
                if sequences[other] == wanted and (not same_name or predicted.chain_name[other] == name):
                    found[chain] = other
                    left.remove(other)
                    break
    return found


def _atoms(structure: Structure, chain: int) -> dict[tuple[int, str], int]:
    """Atoms of a chain by the number of their residue in it and their name."""
    rows = np.flatnonzero(structure.residue_chain[structure.atom_residue] == chain)
    first = int(np.flatnonzero(structure.residue_chain == chain)[0])
    residues, names = (structure.atom_residue[rows] - first).tolist(), structure.atom_name[rows].tolist()
    return dict(zip(zip(residues, names, strict=True), rows.tolist(), strict=True))


def _described(structure: Structure) -> str:
    sizes = [f"{name} ({len(structure.sequence(chain))})" for chain, name in enumerate(structure.chain_name)]
    return "chains (of residues) " + ", ".join(sizes[:8])
