# SPDX-License-Identifier: Apache-2.0
"""Invariances of all metrics together: the truth scores perfectly, however it is moved or relabelled."""

from pathlib import Path

import numpy as np
import pytest
import torch

from foldwright.batch import collate
from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.mmcif import read_structure
from foldwright.data.query_example import Components, structure_target
from foldwright.data.reference import random_rotations
from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.data.truth import find_molecules
from foldwright.evaluation.scores import score

PERFECT_1 = ("lddt", "lddt_ca", "tm_score", "tm_score_complex", "dockq")
PERFECT_0 = ("rmsd", "ligand_rmsd")


@pytest.fixture(scope="module")
def store():
    return Store(store_path())


def prepared(store, name):
    entry = store.entry(name)
    target = structure_target(entry.structure, store.components)
    return target, collate([target.example(0, 1, 1, 0)], {})


def truth_of(target, rng=None):
    """The true coordinates; unresolved atoms somewhere near."""
    structure = target.structure
    x = structure.atom_coords.astype(np.float64).copy()
    centre = x[structure.atom_resolved].mean(axis=0)
    x[~structure.atom_resolved] = centre
    return x


def assert_perfect(figures):
    for name in PERFECT_1:
        if np.isfinite(figures.get(name, np.nan)):
            assert figures[name] == pytest.approx(1.0, abs=1e-6), name
    for name in PERFECT_0:
        if np.isfinite(figures.get(name, np.nan)):
            assert figures[name] == pytest.approx(0.0, abs=2e-3), name
    for name, value in figures.items():
        if name.startswith(("intra_", "interface_")):
            assert value == pytest.approx(1.0, abs=1e-6), name


@pytest.mark.parametrize("name", ["5pti", "1gbt", "1lcd", "1pfe", "1xjr", "2beg"])
def test_the_truth_is_perfect_wherever_it_lies(store, name):
    target, batch = prepared(store, name)
    x = truth_of(target)
    assert_perfect(score(target.entry, target.components, batch, x).figures)
    rng = np.random.default_rng(0)
    moved = x @ random_rotations(1, rng)[0].T + 30
    assert_perfect(score(target.entry, target.components, batch, moved).figures)


def test_swapped_chains_are_still_perfect(store):
    target, batch = prepared(store, "2beg")
    structure, x = target.structure, truth_of(target)
    molecules = find_molecules(structure)
    swapped = x.copy()
    order = [2, 0, 4, 1, 3]
    for place, source in enumerate(order):
        swapped[molecules[place].atoms] = x[molecules[source].atoms]
    assert_perfect(score(target.entry, target.components, batch, swapped).figures)


def test_atoms_that_were_not_predicted_count_for_nothing(store):
    target, batch = prepared(store, "2beg")
    structure, x = target.structure, truth_of(target)
    molecules = find_molecules(structure)
    swapped = x.copy()
    for place, source in enumerate([2, 0, 4, 1, 3]):
        swapped[molecules[place].atoms] = x[molecules[source].atoms]
    predicted = structure.atom_resolved.copy()
    predicted[molecules[0].atoms[-40:]] = False  # of one copy alone, whose truth the permutation brings back
    swapped[~predicted] = x.mean(axis=0)
    figures = score(target.entry, target.components, batch, swapped, predicted).figures
    assert_perfect(figures)
    for name in ("bad_bonds", "bad_angles", "wrong_hands", "broken_links", "clashes_per_1000_atoms"):
        assert figures[name] == 0, name
    assert "unresolved_rasa" not in figures  # residues that the prediction does not have either


def test_relabelled_rings_are_still_perfect_and_mirrors_are_not(store):
    target, batch = prepared(store, "5pti")
    structure, x = target.structure, truth_of(target)
    swapped = x.copy()
    for residue in np.flatnonzero(structure.residue_component == "PHE"):
        for pair in (("CD1", "CD2"), ("CE1", "CE2")):
            own = [
                np.flatnonzero((structure.atom_residue == residue) & (structure.atom_name == n))[0]
                for n in pair
            ]
            swapped[own] = x[own[::-1]]
    assert_perfect(score(target.entry, target.components, batch, swapped).figures)
    mirrored = score(target.entry, target.components, batch, x * [1, 1, -1]).figures
    assert mirrored["lddt"] > 0.95  # distances have no hand; rings are relabelled in vain
    assert mirrored["wrong_hands"] > 0.9
    assert mirrored["tm_score"] < 0.6


def test_true_structures_are_nearly_all_valid_and_noise_is_not(store):
    target, batch = prepared(store, "5pti")
    x = truth_of(target)
    true = score(target.entry, target.components, batch, x).figures
    assert true["bad_bonds"] < 0.01
    assert true["wrong_hands"] == true["broken_links"] == 0
    noisy = score(
        target.entry, target.components, batch, x + np.random.default_rng(0).normal(size=x.shape)
    ).figures
    assert noisy["bad_bonds"] > 0.3
    assert noisy["clashes_per_1000_atoms"] > 10
    assert noisy["lddt"] < 0.9
    assert noisy["is_valid"] == 0


def test_a_depsipeptide_has_no_broken_links(store):
    target, batch = prepared(store, "1pfe")
    figures = score(target.entry, target.components, batch, truth_of(target)).figures
    assert figures["broken_links"] == 0  # a C is bonded to a serine's O in place of the next N


def test_a_prediction_of_another_size_is_refused(store):
    target, batch = prepared(store, "5pti")
    with pytest.raises(ValueError, match="expected finite"):
        score(target.entry, target.components, batch, np.zeros((3, 3)))
    assert torch.is_tensor(batch.atom_coords)


@pytest.mark.corpus
@pytest.mark.parametrize("name", ["102m", "104d", "1gya", pytest.param("2d0f", marks=pytest.mark.thorough)])
def test_true_structures_of_the_corpus_are_perfect(name):
    path = Path(__file__).parents[2].parent / "shared" / "data" / "mmcif" / f"{name}.cif.gz"
    if not path.is_file():
        pytest.skip("../shared/data/mmcif is absent")
    dictionary = Dictionary.open(DEFAULT_CACHE)
    target = structure_target(read_structure(path, dictionary), Components(dictionary, 1))
    batch = collate([target.example(0, 1, 1, 0)], {})
    assert_perfect(score(target.entry, target.components, batch, truth_of(target)).figures)
