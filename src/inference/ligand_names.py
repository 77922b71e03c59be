# SPDX-License-Identifier: Apache-2.0
"""Ligands of a prediction under the names that the truth has for them, found by their graphs.

A ligand given as SMILES or SDF has a code and atom names of its own, which its file describes. The truth's
ligand is the one of the same elements and bonds; hydrogens, charges and bond orders may differ (protonation,
tautomers). Of several ligands, and several ways to lay one on the other, the one counts that agrees in most
hands of carbon centres, then bond orders, then charges: a meso compound is not laid on itself the wrong way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from foldwright.data.automorphisms import MAX_AUTOMORPHISMS
from foldwright.data.ccd import Dictionary, described_components
from foldwright.data.mmcif import read_structure
from foldwright.data.query_example import Components
from foldwright.data.structure import Component, Structure
from foldwright.evaluation.validity import component_geometry, signed_volumes
from foldwright.vocabulary import MoleculeType

Mapped = NDArray[np.int64]


class Read(NamedTuple):
    """A structure read from a file, and its components: the dictionary's, and those it describes itself."""

    structure: Structure
    components: Mapping[str, Component]


def read_predicted(path: Path, dictionary: Dictionary) -> Read:
    """A prediction with the ligands that only its file knows. Errors: those of `read_structure`."""
    own = {code: found for code, found in described_components(path).items() if code not in dictionary}
    known = Dictionary(dictionary.folder, dictionary.own | own) if own else dictionary
    return Read(read_structure(path, known), Components(known, 1))


def named_as(truth: Structure, components: Mapping[str, Component], predicted: Read) -> Structure:
    """The predicted structure, with codes and atom names of the truth for ligands of one residue whose code
    the truth does not have. What no true ligand is equal to keeps its own.
    """
    structure = predicted.structure
    true_codes = {str(truth.residue_component[residue]) for residue in _lone_ligands(truth)}
    codes, names = structure.residue_component.astype(object), structure.atom_name.astype(object)
    for residue in _lone_ligands(structure):
        own = predicted.components[str(codes[residue])]
        if own.code in true_codes:
            continue
        options = [(code, laid) for code in sorted(true_codes) if (laid := lay(own, components[code]))]
        if not options:
            continue
        code, laid = max(options, key=lambda option: option[1].agreement)
        new_name = dict(zip(own.atom_name.tolist(), components[code].atom_name[laid.order], strict=True))
        atoms = np.flatnonzero(structure.atom_residue == residue)
        codes[residue], names[atoms] = code, [new_name[name] for name in names[atoms]]
    return replace(structure, residue_component=codes.astype(np.str_), atom_name=names.astype(np.str_))


def _lone_ligands(structure: Structure) -> Iterator[int]:
    """The residue of every ligand chain of one."""
    sizes = np.bincount(structure.residue_chain, minlength=len(structure.chain_type))
    for chain in np.flatnonzero((structure.chain_type == MoleculeType.LIGAND) & (sizes == 1)).tolist():
        yield int(np.flatnonzero(structure.residue_chain == chain)[0])


class Laid(NamedTuple):
    """`order` [L]: atom i of one component is atom order[i] of the other; what of them agrees, most important
    first: hands, bond orders, charges.
    """

    order: Mapped
    agreement: tuple[int, int, int]


def lay(first: Component, second: Component) -> Laid | None:
    """One component laid on another of the same graph of elements; None where there is no such way."""
    if not np.array_equal(np.sort(first.atom_element), np.sort(second.atom_element)):
        return None
    if len(first.bonds) != len(second.bonds):
        return None
    with rdBase.BlockLogs():
        found = _graph(second).GetSubstructMatches(
            _graph(first), uniquify=False, useChirality=False, maxMatches=MAX_AUTOMORPHISMS
        )
    agreement = _agreement(first, second)
    laid = (Laid(order, agreement(order)) for order in np.array(found, np.int64))
    return max(laid, key=lambda each: each.agreement, default=None)


def _graph(component: Component) -> Chem.Mol:
    """Elements and bonds alone."""
    graph = Chem.RWMol()
    for element in component.atom_element.tolist():
        atom = Chem.Atom(element)
        atom.SetNoImplicit(True)
        graph.AddAtom(atom)
    for i, j in component.bonds.tolist():
        graph.AddBond(i, j, Chem.BondType.SINGLE)
    graph.UpdatePropertyCache(False)
    return graph.GetMol()


def _agreement(first: Component, second: Component) -> Callable[[Mapped], tuple[int, int, int]]:
    """How many hands, bond orders and charges are the same under an order."""
    geometry, orders = component_geometry(first), _bond_orders(second)
    x = second.conformers[0].astype(np.float64)

    def count(order: Mapped) -> tuple[int, int, int]:
        hands = signed_volumes(x, order[geometry.centres]) * geometry.volumes > 0
        kinds = np.array([orders[frozenset(pair)] for pair in order[first.bonds].tolist()], np.int64)
        same = kinds == first.bond_order
        return int(hands.sum()), int(same.sum()), int((first.atom_charge == second.atom_charge[order]).sum())

    return count


def _bond_orders(component: Component) -> dict[frozenset[int], int]:
    pairs = map(frozenset, component.bonds.tolist())
    return dict(zip(pairs, component.bond_order.tolist(), strict=True))
