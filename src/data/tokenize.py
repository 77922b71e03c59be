# SPDX-License-Identifier: Apache-2.0
"""Structure -> Tokens (AF3 SI 2.6): a token a standard residue, a token a heavy atom of everything else.

Array arithmetic throughout, so that it may run whenever an example is loaded; only bonds inside atomised
residues are gathered residue by residue.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from foldwright.data.structure import MAX_BOND_LENGTH, Component, Ints, Structure, Tokens
from foldwright.vocabulary import RESIDUE_ATOMS, RESTYPES, MoleculeType, centre_atom, representative_atom

_STANDARD = [name for name in RESTYPES if name in RESIDUE_ATOMS]
_CENTRE_SLOT = np.array([RESIDUE_ATOMS[name].index(centre_atom(name)) for name in _STANDARD])
_REPRESENTATIVE_SLOT = np.array([RESIDUE_ATOMS[name].index(representative_atom(name)) for name in _STANDARD])


def tokenize(structure: Structure, components: Mapping[str, Component]) -> Tokens:
    """Tokens of a structure. `components` must hold every component whose residues are atomised.

    `token_bonds` (spec 1.6) joins tokens bonded inside an atomised residue, between an atomised residue and
    its neighbours in the polymer, and through Structure.bonds unless both ends are standard residues.
    Raises ValueError if a component is missing.
    """
    atomised = structure.residue_atomised[structure.atom_residue]
    starts = atomised.copy()
    starts[:1] = True
    starts[1:] |= structure.atom_residue[1:] != structure.atom_residue[:-1]
    first = np.flatnonzero(starts)
    residue = structure.atom_residue[first]
    restype = structure.residue_restype[residue]
    token_atomised = structure.residue_atomised[residue]
    atom_token = (np.cumsum(starts) - 1).astype(np.int32)
    return Tokens(
        token_residue=residue.astype(np.int32),
        token_chain=structure.residue_chain[residue].astype(np.int32),
        token_restype=restype,
        token_atomised=token_atomised,
        token_first_atom=np.append(first, len(starts)).astype(np.int32),
        token_centre=_special_atom(structure, first, restype, token_atomised, _CENTRE_SLOT),
        token_representative=_special_atom(structure, first, restype, token_atomised, _REPRESENTATIVE_SLOT),
        atom_token=atom_token,
        token_bonds=_token_bonds(structure, components, atom_token),
        polymer_ligand_bonds=_polymer_ligand_bonds(structure),
    )


def _special_atom(
    structure: Structure, first: NDArray[np.int64], restype: NDArray[np.uint8],
    atomised: NDArray[np.bool_], slots: NDArray[np.int64],
) -> Ints:  # fmt: skip
    """Atom index of each token's slot; only leading slots (OP3) may be absent, so offsets stay fixed."""
    slot = slots[np.where(atomised, 0, restype)]
    offset = np.where(atomised, 0, slot - structure.atom_slot[first])
    return (first + offset).astype(np.int32)


def _token_bonds(structure: Structure, components: Mapping[str, Component], atom_token: Ints) -> Ints:
    """[P, 2] sorted unique pairs of different tokens."""
    atomised = structure.residue_atomised[structure.atom_residue]
    links = structure.bonds[atomised[structure.bonds].any(axis=1)]
    atoms = [links, _inner_bonds(structure, components), _backbone_links(structure)]
    pairs = np.sort(atom_token[np.concatenate(atoms)], axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0).astype(np.int32).reshape(-1, 2)


def _inner_bonds(structure: Structure, components: Mapping[str, Component]) -> Ints:
    """Atom pairs bonded inside atomised residues, by the dictionary."""
    found = [np.zeros((0, 2), np.int64)]
    start = atom_starts(structure)
    bonds_of: dict[tuple[str, ...], Ints] = {}
    for residue in np.flatnonzero(structure.residue_atomised):
        begin, end = start[residue], start[residue + 1]
        code = str(structure.residue_component[residue])
        names = structure.atom_name[begin:end].tolist()
        known = (code, *names)
        if known not in bonds_of:
            bonds_of[known] = _bonds_among(code, names, components)
        found.append(bonds_of[known] + begin)
    return np.concatenate(found).astype(np.int32)


def _bonds_among(code: str, names: list[str], components: Mapping[str, Component]) -> Ints:
    if code not in components:
        got = ", ".join(sorted(components)[:8])
        raise ValueError(
            f"component {code!r} of an atomised residue is missing; got {got}; pass all components"
        )
    component = components[code]
    place = {name: i for i, name in enumerate(names)}
    index = np.array([place.get(str(name), -1) for name in component.atom_name], np.int64)
    pairs = index[component.bonds.astype(np.int64)].reshape(-1, 2)
    return pairs[(pairs >= 0).all(axis=1)].astype(np.int32)


def _backbone_links(structure: Structure) -> Ints:
    """C-N and O3'-P atom pairs of neighbouring residues of a polymer of which one or both are atomised.

    Pairs seen far apart are left out: depsipeptides and branched peptides join some neighbours otherwise. So
    are, where nothing is seen (in prediction), those whose C or O3' is bonded elsewhere.
    """
    same_chain = structure.residue_chain[1:] == structure.residue_chain[:-1]
    consecutive = structure.residue_index[1:] - structure.residue_index[:-1] == 1
    polymer = structure.chain_type[structure.residue_chain[1:]] != MoleculeType.LIGAND
    either = structure.residue_atomised[1:] | structure.residue_atomised[:-1]
    left = np.flatnonzero(same_chain & consecutive & polymer & either)
    protein = structure.chain_type[structure.residue_chain[left]] == MoleculeType.PROTEIN
    donor = np.where(protein, atoms_named(structure, "C")[left], atoms_named(structure, "O3'")[left])
    acceptor = np.where(protein, atoms_named(structure, "N")[left + 1], atoms_named(structure, "P")[left + 1])
    pairs = np.stack([donor, acceptor], axis=1)
    pairs = pairs[(pairs >= 0).all(axis=1)]
    difference = structure.atom_coords[pairs[:, 0]] - structure.atom_coords[pairs[:, 1]]
    apart = np.linalg.norm(difference, axis=1) > MAX_BOND_LENGTH
    seen = structure.atom_resolved[pairs].all(axis=1)
    elsewhere = np.isin(pairs[:, 0], structure.bonds)
    return pairs[~np.where(seen, apart, elsewhere)].astype(np.int32)


def _polymer_ligand_bonds(structure: Structure) -> Ints:
    """Structure.bonds between a polymer chain and a ligand chain, as (polymer atom, ligand atom)."""
    chain = structure.residue_chain[structure.atom_residue]
    ligand = (structure.chain_type[chain] == MoleculeType.LIGAND)[structure.bonds]
    mixed = ligand[:, 0] != ligand[:, 1]
    pairs, flipped = structure.bonds[mixed], ligand[mixed][:, 0]
    return np.where(flipped[:, None], pairs[:, ::-1], pairs).astype(np.int32)


def atom_starts(structure: Structure) -> NDArray[np.int64]:
    """[S + 1]: atoms of residue i are start[i] .. start[i + 1] - 1."""
    return np.searchsorted(structure.atom_residue, np.arange(len(structure.residue_chain) + 1))


def atoms_named(structure: Structure, name: str) -> NDArray[np.int64]:
    """[S] index of the atom of that name in each residue, -1 where it has none."""
    rows = np.flatnonzero(structure.atom_name == name)
    found = np.full(len(structure.residue_chain), -1, np.int64)
    found[structure.atom_residue[rows]] = rows
    return found
