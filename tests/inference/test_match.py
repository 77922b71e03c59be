# SPDX-License-Identifier: Apache-2.0
"""A prediction's chains laid on the truth's, whatever they are called."""

from dataclasses import replace

import numpy as np
import pytest

from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.inference.match import match


@pytest.fixture(scope="module")
def store():
    return Store(store_path())


def renamed(structure):
    """Chains of one entity bear each other's names, the last one's the first."""
    names = structure.chain_name.copy()
    for entity in np.unique(structure.chain_entity):
        own = np.flatnonzero(structure.chain_entity == entity)
        names[own] = structure.chain_name[own[::-1]]
    return replace(structure, chain_name=names)


def bond_lengths(structure, coords):
    """Å of the bonds between chains."""
    ends = structure.bonds[
        np.ptp(structure.residue_chain[structure.atom_residue[structure.bonds]], axis=1) > 0
    ]
    return np.linalg.norm(coords[ends[:, 0]] - coords[ends[:, 1]], axis=1)


@pytest.mark.parametrize("name", ["3o21", "1pfe"])
def test_bonded_chains_are_found_by_their_bonds(store, name):
    truth = store.entry(name).structure
    found = match(truth, renamed(truth))
    assert not found.missing
    assert (found.source >= 0)[truth.bonds].all()
    np.testing.assert_allclose(
        bond_lengths(truth, found.coords), bond_lengths(truth, truth.atom_coords), atol=0.1
    )


def test_a_free_ligand_does_not_take_the_place_of_a_bonded_one(store):
    truth = store.entry("3o21").structure
    truth = replace(truth, bonds=truth.bonds[-1:])  # of three equal ligands the last is bonded
    found = match(truth, renamed(truth))
    assert bond_lengths(truth, found.coords) == pytest.approx(1.4, abs=0.2)


def test_what_is_bonded_to_nothing_goes_by_name(store):
    truth = store.entry("2beg").structure
    assert not len(truth.bonds)
    found = match(truth, renamed(truth))
    first = truth.residue_chain[truth.atom_residue] == 0
    last = truth.residue_chain[truth.atom_residue] == len(truth.chain_name) - 1
    np.testing.assert_array_equal(found.coords[first], truth.atom_coords[last])
    with pytest.raises(ValueError, match="no chain of the prediction"):
        match(truth, store.entry("5pti").structure)
