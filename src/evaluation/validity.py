# SPDX-License-Identifier: Apache-2.0
"""Whether a predicted structure is possible: bonds, angles, chirality, planarity and clashes.

After PoseBusters (Buttenschoen et al. 2024): lengths and angles within 25 % of those of the reference
conformers, no two atoms of different residues nearer than 0.75 of their van der Waals radii (bonded ones and
their neighbours apart), every tetrahedral centre of the hand that the reference has, aromatic rings within
0.25 Å of a plane. References are the components' conformers, so that no toolkit is needed where it runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from foldwright.data.structure import Component, Structure
from foldwright.data.tokenize import atom_starts, atoms_named
from foldwright.vocabulary import MoleculeType

TOLERANCE = 0.25  # of lengths and angles
FLATNESS = 0.25  # Å
OVERLAP = 0.75  # of the sum of two radii
_MIN_VOLUME = 0.5  # Å^3 of a reference: a flatter centre has no hand
_AROMATIC = 4
_RADII = {6: 1.70, 7: 1.55, 8: 1.52, 9: 1.47, 15: 1.80, 16: 1.80, 17: 1.75, 34: 1.90, 35: 1.85, 53: 1.98}
_OTHER_RADIUS = 1.80
Coords = NDArray[np.floating]
Rows = NDArray[np.int64]


@dataclass
class Geometry:
    """What a component fixes: atoms of its bonds, angles, tetrahedra and aromatic rings, with the references'
    values (Å, rad, Å^3).
    """

    bonds: Rows  # [b, 2]
    lengths: Coords
    angles: Rows  # [a, 3], the middle one second
    sizes: Coords
    centres: Rows  # [c, 4]: centre and three neighbours
    volumes: Coords
    rings: list[Rows]


@dataclass
class Validity:
    """Counts of what is checked and of what fails."""

    bonds: int = 0
    bad_bonds: int = 0
    angles: int = 0
    bad_angles: int = 0
    centres: int = 0
    wrong_hands: int = 0
    rings: int = 0
    bent_rings: int = 0
    clashes: int = 0

    @property
    def is_valid(self) -> bool:
        """Nothing fails."""
        return not (self.bad_bonds or self.bad_angles or self.wrong_hands or self.bent_rings or self.clashes)

    def add(self, other: Validity) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def component_geometry(component: Component) -> Geometry:
    """The geometry of a component's first conformer; of atoms without a position there is none."""
    x, known = component.conformers[0].astype(np.float64), component.conformer_mask
    rows = component.bonds.astype(np.int64).reshape(-1, 2)
    rows = rows[known[rows].all(axis=1)]
    neighbours: dict[int, list[int]] = defaultdict(list)
    for i, j in rows.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    angles = [(a, centre, b) for centre, own in neighbours.items() for a, b in combinations(own, 2)]
    centres = [(centre, *own[:3]) for centre, own in neighbours.items()
               if len(own) in (3, 4) and component.atom_element[centre] == 6]  # fmt: skip
    angle_rows, centre_rows = (
        np.array(angles, np.int64).reshape(-1, 3),
        np.array(centres, np.int64).reshape(-1, 4),
    )
    volumes = signed_volumes(x, centre_rows)
    kinds = _kinds(component, neighbours)
    distinct = [len({kinds[n] for n in neighbours[row[0]]}) == len(neighbours[row[0]]) for row in centres]
    handed = (np.abs(volumes) > _MIN_VOLUME) & np.array(distinct, np.bool_)
    return Geometry(
        rows, _lengths(x, rows), angle_rows, _angles(x, angle_rows), centre_rows[handed], volumes[handed],
        _aromatic_rings(component),
    )  # fmt: skip


def _kinds(component: Component, neighbours: Mapping[int, list[int]]) -> list[int]:
    """A number an atom, equal for atoms that the graph does not tell apart (Weisfeiler and Leman): a centre
    with two equal neighbours has no hand, whatever the reference shows.
    """
    kinds = [int(z) for z in component.atom_element]
    for _ in range(len(kinds)):
        seen = [(kinds[i], tuple(sorted(kinds[n] for n in neighbours.get(i, ())))) for i in range(len(kinds))]
        number = {kind: i for i, kind in enumerate(sorted(set(seen)))}
        refined = [number[kind] for kind in seen]
        if len(set(refined)) == len(set(kinds)):
            break
        kinds = refined
    return kinds


def check_component(x: Coords, present: NDArray[np.bool_], geometry: Geometry) -> Validity:
    """A residue's atoms x [L, 3] Å, in the component's order, against its reference; present [L]."""
    bonds = present[geometry.bonds].all(axis=1)
    angles = present[geometry.angles].all(axis=1)
    centres = present[geometry.centres].all(axis=1)
    ratio = _lengths(x, geometry.bonds[bonds]) / geometry.lengths[bonds]
    bend = _angles(x, geometry.angles[angles]) / geometry.sizes[angles]
    hand = signed_volumes(x, geometry.centres[centres]) * geometry.volumes[centres]
    rings = [ring for ring in geometry.rings if present[ring].all()]
    return Validity(
        bonds=len(ratio), bad_bonds=int((np.abs(ratio - 1) > TOLERANCE).sum()),
        angles=len(bend), bad_angles=int((np.abs(bend - 1) > TOLERANCE).sum()),
        centres=len(hand), wrong_hands=int((hand <= 0).sum()),
        rings=len(rings), bent_rings=sum(_flatness(x[ring]) > FLATNESS for ring in rings),
    )  # fmt: skip


def check_structure(
    structure: Structure,
    components: Mapping[str, Component],
    reference: NDArray[np.integer],
    coords: Coords,
    present: NDArray[np.bool_],
) -> list[Validity]:
    """One Validity a residue of a structure with coords [L, 3] Å; clashes count for the residue named first.

    reference [L]: each atom's index in its component (`atom_reference`).
    """
    geometries: dict[str, Geometry] = {}
    start = atom_starts(structure)
    found = []
    for residue, code in enumerate(structure.residue_component.tolist()):
        component = components[code]
        if code not in geometries:
            geometries[code] = component_geometry(component)
        own = np.arange(start[residue], start[residue + 1])
        own = own[present[own] & (reference[own] >= 0)]
        x, there = np.zeros((len(component.atom_name), 3)), np.zeros(len(component.atom_name), np.bool_)
        x[reference[own]], there[reference[own]] = coords[own], True
        found.append(check_component(x, there, geometries[code]))
    for i, _ in clashing_pairs(structure, coords, present).tolist():
        found[structure.atom_residue[i]].clashes += 1
    return found


def clashing_pairs(structure: Structure, coords: Coords, present: NDArray[np.bool_]) -> Rows:
    """[n, 2] atoms of different residues nearer than 0.75 of their radii; those joined by one or two bonds
    between residues, sulphurs of disulfides, and metals apart.
    """
    atoms = np.flatnonzero(present & np.isin(structure.atom_element, list(_RADII)))
    if len(atoms) < 2:
        return np.zeros((0, 2), np.int64)
    radius = np.array([_RADII.get(int(z), _OTHER_RADIUS) for z in structure.atom_element])
    pairs = atoms[
        cKDTree(coords[atoms]).query_pairs(2 * OVERLAP * max(_RADII.values()), output_type="ndarray")
    ]
    distance = np.linalg.norm(coords[pairs[:, 0]] - coords[pairs[:, 1]], axis=1)
    pairs = pairs[distance < OVERLAP * radius[pairs].sum(axis=1)]
    residue = structure.atom_residue[pairs]
    pairs = pairs[(residue[:, 0] != residue[:, 1])]
    sulphur = (structure.atom_element[pairs] == 16).all(axis=1)
    pairs = pairs[~sulphur]
    joined = _joined_residues(structure)
    keep = [tuple(sorted(structure.atom_residue[pair].tolist())) not in joined for pair in pairs]
    return pairs[np.array(keep, np.bool_)] if len(pairs) else pairs


def _joined_residues(structure: Structure) -> set[tuple[int, int]]:
    """Pairs of residues with a covalent bond: neighbours of a polymer, and ends of Structure.bonds."""
    linked = structure.atom_residue[structure.bonds.reshape(-1, 2)]
    found = {tuple(sorted(pair)) for pair in linked.tolist()}
    same = structure.residue_chain[1:] == structure.residue_chain[:-1]
    found |= {(int(i), int(i) + 1) for i in np.flatnonzero(same)}
    return {(int(a), int(b)) for a, b in found}


def backbone_links(structure: Structure, coords: Coords, present: NDArray[np.bool_]) -> tuple[int, int]:
    """How many peptide and phosphodiester bonds between neighbours there are, and how many are longer than
    2.4 Å or shorter than 1 Å; where C or O3' is bonded elsewhere (depsipeptides) there is none.
    """
    kind = structure.chain_type[structure.residue_chain]
    is_protein, is_ligand = kind == MoleculeType.PROTEIN, kind == MoleculeType.LIGAND
    donor = np.where(is_protein, atoms_named(structure, "C"), atoms_named(structure, "O3'"))[:-1]
    acceptor = np.where(is_protein, atoms_named(structure, "N"), atoms_named(structure, "P"))[1:]
    same = (structure.residue_chain[1:] == structure.residue_chain[:-1]) & ~is_ligand[1:]
    same &= (donor >= 0) & (acceptor >= 0) & ~np.isin(donor, structure.bonds)
    donor, acceptor = donor[same], acceptor[same]
    both = present[donor] & present[acceptor]
    length = np.linalg.norm(coords[donor[both]] - coords[acceptor[both]], axis=1)
    return len(length), int(((length > 2.4) | (length < 1.0)).sum())


def signed_volumes(x: Coords, centres: Rows) -> Coords:
    """Å^3 [c] of the parallelepipeds of three neighbours seen from their centre: the sign is the hand."""
    arms = x[centres[:, 1:]] - x[centres[:, :1]]
    return np.einsum("cx,cx->c", arms[:, 0], np.cross(arms[:, 1], arms[:, 2]))


def _lengths(x: Coords, rows: Rows) -> Coords:
    return np.linalg.norm(x[rows[:, 0]] - x[rows[:, 1]], axis=1)


def _angles(x: Coords, rows: Rows) -> Coords:
    a, b = x[rows[:, 0]] - x[rows[:, 1]], x[rows[:, 2]] - x[rows[:, 1]]
    norm = np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-9)
    return np.arccos(np.clip((a * b).sum(axis=1) / norm, -1, 1))


def _flatness(x: Coords) -> float:
    """The largest distance in Å of a point to the best plane."""
    centred = x - x.mean(axis=0)
    return float(np.abs(centred @ np.linalg.svd(centred)[2][2]).max())


def _aromatic_rings(component: Component) -> list[Rows]:
    """Atoms of each connected set of aromatic bonds."""
    label = np.arange(len(component.atom_name))
    rows = component.bonds[component.bond_order == _AROMATIC].reshape(-1, 2)
    for _ in range(len(rows)):
        least = np.minimum(label[rows[:, 0]], label[rows[:, 1]])
        np.minimum.at(label, rows[:, 0], least)
        np.minimum.at(label, rows[:, 1], least)
    members = np.unique(rows)
    rings = [members[label[members] == number] for number in np.unique(label[members])]
    return [ring for ring in rings if component.conformer_mask[ring].all()]
