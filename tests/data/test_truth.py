# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from assemblies import copies, example, make_entry

from foldwright.data import truth
from foldwright.data.truth import crop_automorphisms, find_molecules
from foldwright.vocabulary import MoleculeType

PROTEIN, LIGAND = MoleculeType.PROTEIN, MoleculeType.LIGAND
CODES = "ALA GLY SER VAL LEU PHE".split()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_only_what_the_crop_holds_of_any_copy_travels():
    """Of a tetramer the crop has residues 0, 1 of A and 1, 2 of B: three residues of four copies."""
    entry = make_entry(copies(0, PROTEIN, CODES, 4, rng()))
    batch = example(entry, np.array([0, 1, 7, 8])).check()
    sizes = np.bincount(entry.structure.atom_residue)[:3]
    assert batch.molecule_copies.tolist() == [4, 4]
    assert batch.molecule_stride.tolist() == [sizes.sum()] * 2
    assert batch.sizes()["F"] == 4 * sizes.sum()
    assert batch.molecule_copy.tolist() == [0, 1]
    rows = (
        batch.truth_atom.long()
        + (batch.molecule_copy * batch.molecule_stride)[
            batch.token_molecule[batch.atom_to_token.long()].long()
        ]
    )
    assert torch.equal(batch.truth_coords[rows], batch.atom_coords)


def test_outside_copies_come_nearest_first_as_far_as_they_fit(monkeypatch):
    chains = copies(0, PROTEIN, CODES, 4, rng(1))
    entry = make_entry(chains)
    n = len(chains[0].coords)
    middle = [chain.coords.mean(0) for chain in chains]
    order = sorted((1, 2, 3), key=lambda c: np.linalg.norm(middle[c] - middle[0]))
    monkeypatch.setattr(truth, "MAX_EXTRA_ATOMS", 2 * n + 3)
    batch = example(entry, np.arange(6))
    assert batch.molecule_copies.tolist() == [3]
    expected = np.concatenate([chains[c].coords for c in (0, *order[:2])])
    np.testing.assert_allclose(batch.truth_coords, expected, atol=1e-4)


def test_a_kind_that_does_not_fit_is_not_exchanged(monkeypatch):
    entry = make_entry(copies(0, PROTEIN, CODES, 3, rng(2)))
    kept = np.array([0, 1, 2, 9, 10, 11])  # other residues of A than of B
    monkeypatch.setattr(truth, "MAX_EXTRA_ATOMS", 3)
    batch = example(entry, kept).check()
    assert batch.molecule_copies.tolist() == [1, 1]
    assert batch.molecule_group.tolist() == [0, 1]
    assert torch.equal(batch.truth_coords, batch.atom_coords)


def test_automorphisms_beyond_the_limit_are_left_out(monkeypatch):
    entry = make_entry([*copies(0, PROTEIN, CODES, 1, rng()), *copies(1, LIGAND, ["PO4"], 2, rng())])
    everything = example(entry).check()
    assert everything.sizes()["V"] == 2 + 24 + 24
    assert everything.sizes()["Y"] == 2 * 4 + 2 * 24 * 4
    monkeypatch.setattr(truth, "MAX_PAIRS", 8 + 96 + 10)
    batch = example(entry).check()
    assert batch.sizes()["V"] == 2 + 24 + 2
    assert batch.option_residue.tolist() == [0] * 2 + [1] * 24 + [2] * 2


@pytest.mark.parametrize(
    ("reference", "fixed", "expected"),
    [
        ([0, 1, 2, 3], [], [[0, 1, 2, 3], [0, 2, 1, 3], [3, 1, 2, 0]]),
        ([0, 1, 2], [], [[0, 1, 2], [0, 2, 1]]),  # atom 3 is absent: nothing may map to it
        ([0, 1, 2, 3], [1], [[0, 1, 2, 3], [3, 1, 2, 0]]),  # atom 1 is bonded
        (
            [3, -1, 2, 1, 0],
            [],
            [[0, 1, 2, 3, 4], [0, 1, 3, 2, 4], [4, 1, 2, 3, 0]],
        ),  # order, and an unknown atom
    ],
)
def test_tables_are_cut_to_the_atoms_that_are_there(reference, fixed, expected):
    table = np.array([[0, 1, 2, 3], [0, 2, 1, 3], [3, 1, 2, 0]], np.int32)
    mask = np.isin(np.arange(len(reference)), fixed)
    assert crop_automorphisms(table, np.array(reference, np.int32), mask).tolist() == expected


def test_a_bonded_carboxylate_does_not_flip():
    chains = [*copies(0, PROTEIN, ["ALA", "GLU", "ALA"], 1, rng()), *copies(1, LIGAND, ["NAG"], 1, rng())]
    free = make_entry(chains)
    names = free.structure.atom_name.tolist()
    bonded = make_entry(chains, bonds=[(names.index("OE1"), len(chains[0].coords))])
    assert example(free).sizes()["V"] == 2
    assert example(bonded).sizes()["V"] == 0


def test_molecules_are_chains_with_what_is_bonded_to_them():
    """A chain bonded to a sugar bonded to a second one; a free sugar; a disulfide joins no molecules."""
    chains = [*copies(0, PROTEIN, ["ALA", "CYS", "ALA"], 2, rng()), *copies(1, LIGAND, ["NAG"], 3, rng())]
    starts = np.cumsum([0, *(len(chain.coords) for chain in chains)])
    sulfur = make_entry(chains).structure.atom_name.tolist().index("SG")
    bonds = [(0, starts[2]), (starts[2] + 3, starts[3]), (sulfur, starts[1] + sulfur)]
    found = find_molecules(make_entry(chains, bonds=bonds).structure)
    assert [molecule.is_polymer for molecule in found] == [True, True, False]
    sizes = np.diff(starts)
    assert [len(molecule.atoms) for molecule in found] == [sizes[0] + sizes[2] + sizes[3], sizes[1], sizes[4]]
    assert sorted(np.concatenate([molecule.atoms for molecule in found]).tolist()) == list(range(starts[-1]))
    assert len({molecule.signature for molecule in found}) == 3
