# SPDX-License-Identifier: Apache-2.0
"""What permutation alignment needs of the whole assembly: the true copies that the molecules of a crop may be
taken for, and the automorphisms of its residues.

Source: AF3 SI 4.2 (spec 2.8). A molecule is a polymer with all ligands bonded to it, or a set of bonded
ligands; molecules of the same chains, atoms and attachments are interchangeable. Of each copy only those
atoms travel that the crop holds of any copy. Copies outside the crop come nearest first, as many as
MAX_EXTRA_ATOMS holds; automorphisms as many as MAX_PAIRS holds, small residues first.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foldwright.data.records import Entry
from foldwright.data.structure import Bools, Component, Ints, Structure
from foldwright.vocabulary import MoleculeType

MAX_EXTRA_ATOMS = 65536  # true positions beyond the crop's own, about 0.9 MB
MAX_PAIRS = 65536  # (automorphism, atom) pairs, about 0.9 MB
_BACKBONE = ("N", "C", "O", "O3'", "P", "OP1", "OP2")  # with names of their own even where the graph has none
_Rows = NDArray[np.int64]


class Molecule(NamedTuple):
    """Its chains' atoms in an order that is the same in all copies, its kind, and whether it is a polymer."""

    atoms: _Rows
    signature: tuple[Any, ...]
    is_polymer: bool


class _Group(NamedTuple):
    """Copies of one kind, those in the crop first, and the atoms of a copy that travel."""

    copies: list[int]
    positions: _Rows


def truth_features(
    entry: Entry, components: Mapping[str, Component], tokens: _Rows, atoms: _Rows
) -> dict[str, Tensor]:
    """The Batch's molecule_*, truth_*, symmetry_* and option_* features of a crop.

    Args:
        entry: the whole assembly.
        components: all components the crop is made of, with their automorphisms.
        tokens, atoms: ascending indices of the crop's tokens and atoms.
    """
    return _molecule_features(entry, tokens, atoms) | _symmetry_features(entry, components, atoms)


def _tensor(array: Any, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.from_numpy(np.array(array, order="C")).to(dtype)


# --- molecules ---


def find_molecules(structure: Structure) -> list[Molecule]:
    """The molecules of an assembly, in order of their first chain."""
    links = _ligand_links(structure)
    linked_chains = structure.residue_chain[structure.atom_residue[links]]
    molecule_of = _joined(len(structure.chain_name), linked_chains)
    start = np.searchsorted(structure.residue_chain[structure.atom_residue], np.arange(len(molecule_of) + 1))
    keys = _chain_keys(structure, links, start)
    found = []
    for number in np.unique(molecule_of):
        chains = sorted(
            np.flatnonzero(molecule_of == number).tolist(), key=lambda chain: (keys[chain], chain)
        )
        rows = np.concatenate([np.arange(start[chain], start[chain + 1]) for chain in chains])
        is_polymer = bool((structure.chain_type[chains] != MoleculeType.LIGAND).any())
        found.append(Molecule(rows, tuple(keys[chain] for chain in chains), is_polymer))
    return found


def _ligand_links(structure: Structure) -> Ints:
    """[n, 2] atoms of the bonds between two chains of which one at least is a ligand."""
    chain = structure.residue_chain[structure.atom_residue[structure.bonds]].reshape(-1, 2)
    ligand = (structure.chain_type[chain] == MoleculeType.LIGAND).any(axis=1)
    return structure.bonds.reshape(-1, 2)[ligand & (chain[:, 0] != chain[:, 1])]


def _joined(n_chains: int, chains: Ints) -> NDArray[np.int64]:
    """[C] the lowest chain that each chain is linked to, over any number of links [n, 2]."""
    label = np.arange(n_chains)
    changed = True
    while changed:
        least = np.minimum(label[chains[:, 0]], label[chains[:, 1]])
        new = label.copy()
        np.minimum.at(new, chains[:, 0], least)
        np.minimum.at(new, chains[:, 1], least)
        changed = bool((new != label).any())
        label = new
    return label


def _chain_keys(structure: Structure, links: Ints, start: _Rows) -> list[tuple[Any, ...]]:
    """What makes two chains the same: entity, atoms, and what is bonded where."""
    first_residue = np.searchsorted(structure.residue_chain, np.arange(len(start)))
    attached: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for pair in links.tolist():
        ends = []
        for atom in pair:
            residue = structure.atom_residue[atom]
            chain = int(structure.residue_chain[residue])
            place = int(residue - first_residue[chain]), str(structure.atom_name[atom])
            ends.append((chain, place, int(structure.chain_entity[chain])))
        for (chain, place, _), (_, far_place, far_entity) in (ends, ends[::-1]):
            attached[chain].append((place, far_entity, far_place))
    keys = []
    for chain, entity in enumerate(structure.chain_entity.tolist()):
        residues = slice(first_residue[chain], first_residue[chain + 1])
        names = structure.atom_name[start[chain] : start[chain + 1]].tobytes()
        digest = hashlib.blake2b(names + structure.residue_component[residues].tobytes(), digest_size=8)
        keys.append((entity, digest.hexdigest(), tuple(sorted(attached[chain]))))
    return keys


def _molecule_features(entry: Entry, tokens: _Rows, atoms: _Rows) -> dict[str, Tensor]:
    structure = entry.structure
    molecules = find_molecules(structure)
    molecule_of, position_of = np.zeros((2, len(structure.atom_name)), np.int64)
    for number, molecule in enumerate(molecules):
        molecule_of[molecule.atoms], position_of[molecule.atoms] = number, np.arange(len(molecule.atoms))
    present, local = np.unique(molecule_of[atoms], return_inverse=True)
    position = position_of[atoms]
    groups = _groups(structure, molecules, present, local, position, atoms)
    row_of = {molecule: row for row, molecule in enumerate(present.tolist())}
    group, copy, copies, stride = np.zeros((4, len(present)), np.int64)
    truth_atom = np.zeros(len(atoms), np.int64)
    rows: list[_Rows] = []
    offset = 0
    for number, (candidates, positions) in enumerate(groups):
        for index, chosen in enumerate(candidates):
            if chosen in row_of:
                row = row_of[chosen]
                group[row], copy[row], copies[row], stride[row] = (
                    number,
                    index,
                    len(candidates),
                    len(positions),
                )
                truth_atom[local == row] = offset + np.searchsorted(positions, position[local == row])
            rows.append(molecules[chosen].atoms[positions])
        offset += len(candidates) * len(positions)
    truth = np.concatenate(rows)
    resolved = structure.atom_resolved[truth]
    return {
        "token_molecule": _tensor(local[np.searchsorted(atoms, entry.tokens.token_first_atom[tokens])]),
        "molecule_mask": torch.ones(len(present), dtype=torch.bool),
        "molecule_is_polymer": _tensor([molecules[m].is_polymer for m in present.tolist()], torch.bool),
        "molecule_group": _tensor(group),
        "molecule_copy": _tensor(copy),
        "molecule_copies": _tensor(copies),
        "molecule_stride": _tensor(stride),
        "truth_atom": _tensor(truth_atom),
        "truth_coords": _tensor(np.where(resolved[:, None], structure.atom_coords[truth], 0), torch.float32),
        "truth_resolved": _tensor(resolved, torch.bool),
    }


def _groups(
    structure: Structure,
    molecules: list[Molecule],
    present: _Rows,
    local: _Rows,
    position: _Rows,
    atoms: _Rows,
) -> list[_Group]:
    """The kinds of molecules of a crop. A kind that does not fit MAX_EXTRA_ATOMS is not exchanged."""
    members: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for row, molecule in enumerate(present.tolist()):
        members[molecules[molecule].signature].append(row)
    others: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number in sorted(set(range(len(molecules))) - set(present.tolist())):
        others[molecules[number].signature].append(number)
    seen = structure.atom_coords[atoms][structure.atom_resolved[atoms]]
    middle = seen.mean(axis=0) if len(seen) else np.zeros(3, np.float32)
    left = MAX_EXTRA_ATOMS
    groups: list[_Group] = []
    for signature, rows in sorted(members.items(), key=lambda item: len(item[1])):
        mine = np.isin(local, rows)
        positions = np.unique(position[mine])
        needed = len(rows) * len(positions) - int(mine.sum())
        if needed > left:
            groups += [_Group([int(present[row])], np.unique(position[local == row])) for row in rows]
            continue
        left -= needed
        nearest = _nearest_first(structure, molecules, others[signature], positions, middle)
        nearest = nearest[: left // len(positions)]
        left -= len(nearest) * len(positions)
        groups.append(_Group([int(present[row]) for row in rows] + nearest, positions))
    return groups


def _nearest_first(
    structure: Structure, molecules: list[Molecule], numbers: list[int], positions: _Rows, middle: Any
) -> list[int]:
    """Molecules that show any of the positions, by their distance to a point."""
    distance = {}
    for number in numbers:
        atoms = molecules[number].atoms[positions]
        seen = structure.atom_coords[atoms][structure.atom_resolved[atoms]]
        if len(seen):
            distance[number] = float(np.linalg.norm(seen.mean(axis=0) - middle))
    return sorted(distance, key=lambda number: (distance[number], number))


# --- atoms of a residue ---


def _symmetry_features(entry: Entry, components: Mapping[str, Component], atoms: _Rows) -> dict[str, Tensor]:
    structure = entry.structure
    residue = structure.atom_residue[atoms]
    first = np.flatnonzero(np.diff(residue, prepend=-1))
    last = np.append(first[1:], len(residue))
    codes, kind = np.unique(structure.residue_component[residue[first]], return_inverse=True)
    varied = np.array([len(components[str(code)].automorphisms) > 1 for code in codes], np.bool_)
    fixed = _fixed_atoms(structure, atoms)
    known: dict[tuple[int, bytes, bytes], Ints] = {}
    options: list[tuple[int, Ints]] = []  # first atom, [P, n] atoms taken by each atom of the residue
    for row in np.flatnonzero(varied[kind]).tolist():
        own = slice(int(first[row]), int(last[row]))
        reference = entry.atom_reference[atoms[own]]
        key = (int(kind[row]), reference.tobytes(), fixed[own].tobytes())
        if key not in known:
            table = components[str(codes[kind[row]])].automorphisms
            known[key] = crop_automorphisms(table, reference, fixed[own])
        if len(known[key]) > 1:
            options.append((own.start, known[key]))
    return _flat(options)


def _fixed_atoms(structure: Structure, atoms: _Rows) -> Bools:
    """[A]: atoms of a backbone or bonded to another residue, which no automorphism may move."""
    bonded = np.zeros(len(structure.atom_name), np.bool_)
    bonded[structure.bonds.ravel()] = True
    chain = structure.residue_chain[structure.atom_residue[atoms]]
    backbone = np.isin(structure.atom_name[atoms], _BACKBONE)
    return bonded[atoms] | (backbone & (structure.chain_type[chain] != MoleculeType.LIGAND))


def crop_automorphisms(table: Ints, reference: Ints, fixed: Bools) -> Ints:
    """[P, n]: the automorphisms of n present atoms of a residue, the identity first.

    Args:
        table: [P', L] automorphisms of the whole component, the identity first.
        reference: [n] index of each present atom in the component, -1 for one the component lacks.
        fixed: [n] atoms that must stay. Rows that move one, or map to an absent atom, are left out.
    """
    present = reference >= 0
    place = np.full(table.shape[1], -1, np.int32)
    place[reference[present]] = np.flatnonzero(present)
    image = np.tile(np.arange(len(reference), dtype=np.int32), (len(table), 1))
    image[:, present] = place[table[:, reference[present]]]
    allowed = (image >= 0).all(axis=1) & (image == np.arange(len(reference)))[:, fixed].all(axis=1)
    image = image[allowed]
    _, kept = np.unique(image, axis=0, return_index=True)
    return image[np.sort(kept)]


def _flat(options: list[tuple[int, Ints]]) -> dict[str, Tensor]:
    """Residues' automorphisms side by side, in as many rows each as MAX_PAIRS leaves room for."""
    sources: list[Ints] = []
    targets: list[Ints] = []
    option: list[_Rows] = []
    residues: list[int] = []
    left = MAX_PAIRS
    for number, (start, image) in enumerate(sorted(options, key=lambda item: item[1].size)):
        moved = np.flatnonzero((image != image[0]).any(axis=0))
        rows = image[: left // len(moved), moved]
        left -= rows.size
        sources.append(np.tile(moved + start, len(rows)).astype(np.int32))
        targets.append((rows + start).ravel())
        option.append(np.repeat(np.arange(len(rows)), len(moved)) + len(residues))
        residues += [number] * len(rows)
    flat = np.concatenate([np.zeros(0, np.int64), *option])
    return {
        "symmetry_mask": torch.ones(len(flat), dtype=torch.bool),
        "symmetry_option": _tensor(flat),
        "symmetry_from": _tensor(np.concatenate([np.zeros(0, np.int32), *sources])),
        "symmetry_to": _tensor(np.concatenate([np.zeros(0, np.int32), *targets])),
        "option_residue": _tensor(np.array(residues, np.int32)),
    }
