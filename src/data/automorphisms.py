# SPDX-License-Identifier: Apache-2.0
"""Relabellings of a component's heavy atoms that leave the molecule the same.

Source: AF3 SI 4.2 (spec 2.8, the recommended reading). Standard residues have a fixed table: ASP OD, GLU OE,
PHE and TYR rings; prochiral pairs (LEU CD, VAL CG, OP1/OP2) have names of their own and stay. All other
components: automorphisms of the molecular graph by RDKit's self-substructure match, at most 1000. An atom's
colour is its element, charge, hydrogens and stereo labels, so that R never maps to S. Like terminal atoms of
a conjugated group (carboxylate, phosphate, nitro, guanidinium) are symmetrised first, since the dictionary
writes one of them with the double bond and another with the charge or the hydrogen.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from foldwright.data.ccd import Definition
from foldwright.data.structure import Ints
from foldwright.vocabulary import RESIDUE_ATOMS

MAX_AUTOMORPHISMS = 1000  # AF3 SI 4.2
_RING = (("CD1", "CD2"), ("CE1", "CE2"))
_STANDARD_SWAPS = {"ASP": (("OD1", "OD2"),), "GLU": (("OE1", "OE2"),), "PHE": _RING, "TYR": _RING}
_CONJUGATED = (7, 8, 16)  # N, O, S
_BONDS = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
_Colour = tuple[int, int, int, str]


def automorphisms(whole: Definition, molecule: Chem.Mol | None, limit: int = MAX_AUTOMORPHISMS) -> Ints:
    """[P, L] of a component's L heavy atoms, 1 <= P <= limit: atom i may take the place of atom row[i].

    Row 0 is the identity. `whole` is the dictionary's entry with its hydrogens, `molecule` what
    `conformers.build_molecule` makes of it: the source of stereo labels, of which None has none.
    """
    heavy = whole.heavy()
    names = [str(name) for name in heavy.atom_name]
    identity = np.arange(len(names), dtype=np.int32)
    if whole.code in RESIDUE_ATOMS:
        swapped = identity.copy()
        for first, second in _STANDARD_SWAPS.get(whole.code, ()):
            a, b = names.index(first), names.index(second)
            swapped[a], swapped[b] = b, a
        return np.stack([identity] if (swapped == identity).all() else [identity, swapped])
    matches = _graph_matches(whole, heavy, molecule, limit)
    others = matches[(matches != identity).any(axis=1)]
    return np.concatenate([identity[None], others])[:limit]


def _graph_matches(whole: Definition, heavy: Definition, molecule: Chem.Mol | None, limit: int) -> Ints:
    """Automorphisms of the coloured graph, in RDKit's order. An atom's colour travels as its isotope."""
    terminals = conjugated_terminals(heavy)
    colours = _colours(whole, heavy, terminals, _stereo_labels(whole, molecule))
    number = {colour: i for i, colour in enumerate(sorted(set(colours)), 1)}
    graph = Chem.RWMol()
    for colour in colours:
        atom = Chem.Atom(colour[0])
        atom.SetIsotope(number[colour])
        atom.SetNoImplicit(True)
        graph.AddAtom(atom)
    aromatic = heavy.bond_aromatic.tolist()
    for bond, (i, j) in enumerate(heavy.bonds.tolist()):
        kind = Chem.BondType.AROMATIC if aromatic[bond] else _BONDS[int(heavy.bond_order[bond])]
        graph.AddBond(i, j, Chem.BondType.SINGLE if terminals[[i, j]].any() else kind)
    with rdBase.BlockLogs():
        graph.UpdatePropertyCache(False)
        found = graph.GetSubstructMatches(graph, uniquify=False, useChirality=False, maxMatches=limit)
    return np.array(found, np.int32).reshape(-1, len(colours))


def conjugated_terminals(heavy: Definition) -> NDArray[np.bool_]:
    """[L]: terminal N, O, S atoms that share their neighbour with a like one, one bond of theirs double."""
    degree = np.bincount(heavy.bonds.ravel(), minlength=len(heavy.atom_name))
    groups: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for (i, j), order in zip(heavy.bonds.tolist(), heavy.bond_order.tolist(), strict=True):
        for atom, centre in ((i, j), (j, i)):
            element = int(heavy.atom_element[atom])
            if degree[atom] == 1 and element in _CONJUGATED:
                groups[centre, element].append((atom, order))
    terminal = np.zeros(len(heavy.atom_name), np.bool_)
    for members in groups.values():
        if len(members) > 1 and any(order == 2 for _, order in members):
            terminal[[atom for atom, _ in members]] = True
    return terminal


def _colours(
    whole: Definition, heavy: Definition, terminals: NDArray[np.bool_], stereo: list[str]
) -> list[_Colour]:
    is_hydrogen = whole.atom_element == 1
    hydrogens = np.zeros(len(is_hydrogen), np.int64)
    for i, j in whole.bonds.tolist():
        hydrogens[i] += is_hydrogen[j]
        hydrogens[j] += is_hydrogen[i]
    bare = hydrogens[~is_hydrogen]
    beside = np.zeros(len(terminals), np.bool_)  # a phosphorus seems chiral only for the way it is written
    for i, j in heavy.bonds.tolist():
        beside[i] |= terminals[j]
        beside[j] |= terminals[i]
    return [
        (int(element), 0, 0, "")
        if terminals[atom]
        else (
            int(element),
            int(heavy.atom_charge[atom]),
            int(bare[atom]),
            "" if beside[atom] else stereo[atom],
        )
        for atom, element in enumerate(heavy.atom_element.tolist())
    ]


def _stereo_labels(whole: Definition, molecule: Chem.Mol | None) -> list[str]:
    """R or S and the E, Z labels of the double bonds of each heavy atom; empty where RDKit knows none."""
    heavy = np.flatnonzero(whole.atom_element != 1)
    if molecule is None:
        return [""] * len(heavy)
    labels = []
    for index in heavy.tolist():
        atom = molecule.GetAtomWithIdx(index)
        centre = atom.GetProp("_CIPCode") if atom.HasProp("_CIPCode") else ""
        bonds = sorted(
            str(bond.GetStereo()) for bond in atom.GetBonds() if bond.GetStereo() > Chem.BondStereo.STEREOANY
        )
        labels.append(" ".join([centre, *bonds]))
    return labels
