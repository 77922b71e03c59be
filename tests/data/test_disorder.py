# SPDX-License-Identifier: Apache-2.0
"""A prediction in the place of an entry's protein: where it comes to lie, what stays, what is refused."""

from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
from handmade import dictionary
from scipy.spatial.transform import Rotation

from foldwright.data.disorder import DisorderConfig, best_match, graft, main, unresolved_residues
from foldwright.data.filters import Rejection
from foldwright.data.mmcif import read_structure
from foldwright.data.prepare import main as prepare
from foldwright.data.sample import store_path as sample_path
from foldwright.data.store import Store
from foldwright.data.structure import keep_chains
from foldwright.data.write_mmcif import write_structure
from foldwright.vocabulary import MoleculeType

SHARED = Path(__file__).parents[3] / "shared" / "data"
LOOSE = DisorderConfig(min_unresolved=10)


def unresolve(structure, residues):
    gone = np.isin(structure.atom_residue, residues)
    coords = np.where(gone[:, None], 0, structure.atom_coords)
    return replace(structure, atom_coords=coords, atom_resolved=structure.atom_resolved & ~gone)


@pytest.fixture(scope="module")
def entry():
    """1lcd of the sample: protein on DNA."""
    return Store(sample_path()).entry("1lcd").structure


def prediction_of(structure, noise=0.0, seed=0):
    """Its proteins alone, moved and perturbed: a construction, for want of a predictor."""
    proteins = keep_chains(structure, structure.chain_type == MoleculeType.PROTEIN)
    rng = np.random.default_rng(seed)
    turned = proteins.atom_coords @ Rotation.random(random_state=seed).as_matrix() + 40
    turned = turned + rng.normal(size=turned.shape) * noise
    return replace(proteins, atom_coords=turned.astype(np.float32))


def flat_plddt(structure, value=80.0):
    return np.full(len(structure.residue_chain), value, np.float32)


def test_the_prediction_replaces_the_protein_and_nothing_else(entry):
    model = prediction_of(entry)
    proteins = np.flatnonzero(entry.chain_type[entry.residue_chain] == MoleculeType.PROTEIN)
    truth = unresolve(entry, proteins[:12])
    assert unresolved_residues(truth) == unresolved_residues(entry) + 12
    made = graft(truth, model, flat_plddt(model), LOOSE)
    assert made.gdt == pytest.approx(100.0)
    np.testing.assert_allclose(made.structure.atom_coords, entry.atom_coords, atol=2e-3)
    assert np.array_equal(made.structure.atom_resolved, entry.atom_resolved)
    is_protein = np.isin(entry.atom_residue, proteins)
    assert set(made.b_factors[is_protein & entry.atom_resolved]) == {80.0}
    assert set(made.b_factors[~is_protein]) == {100.0}


@pytest.mark.parametrize(
    ("change", "config", "reason"),
    [
        (lambda model: model, DisorderConfig(min_unresolved=4000), "few_unresolved"),
        (lambda model: replace(model, atom_coords=model.atom_coords * 1.6), LOOSE, "low_gdt"),
        (
            lambda model: replace(model, residue_restype=model.residue_restype[::-1].copy()),
            LOOSE,
            "no_prediction",
        ),
        (lambda model: model, DisorderConfig(10, clash_distance=8.0, clash_fraction=0.2), "clash"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(entry, change, config, reason):
    model = change(prediction_of(entry))
    proteins = np.flatnonzero(entry.chain_type[entry.residue_chain] == MoleculeType.PROTEIN)
    with pytest.raises(Rejection) as caught:
        graft(unresolve(entry, proteins[:12]), model, flat_plddt(model), config)
    assert caught.value.reason == reason


def test_copies_of_a_chain_are_told_apart():
    """1a7g's two equal chains, given in the other order."""
    entry = Store(sample_path()).entry("1a7g").structure
    proteins = np.flatnonzero(entry.chain_type == MoleculeType.PROTEIN)
    assert len(proteins) >= 2
    model = prediction_of(entry, noise=0.2)
    chains = [keep_chains(model, np.arange(len(proteins)) == i).atom_coords for i in range(len(proteins))]
    assert len({len(coords) for coords in chains}) == 1
    swapped = replace(model, atom_coords=np.concatenate(chains[::-1]))
    assert best_match(entry, swapped).fit.score > 95
    assert best_match(entry, model).fit.score > 95


@pytest.mark.corpus
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_a_real_pair_is_made_and_prepared(tmp_path):
    """1cbs (CRABP II with retinoic acid) and AlphaFold DB's model of it, which has the first residue too. All
    of 1cbs is resolved: forty residues are taken out.
    """
    (tmp_path / "pdb").mkdir()
    (tmp_path / "models").mkdir()
    truth = read_structure(SHARED / "mmcif" / "1cbs.cif.gz", dictionary())
    holed = unresolve(truth, np.arange(20, 60))
    path = tmp_path / "pdb" / "1cbs.cif"
    write_structure(holed, holed.atom_coords, path, mask=holed.atom_resolved)
    (tmp_path / "models" / "1cbs.cif.gz").symlink_to(SHARED / "afdb" / "AF-P29373-F1.cif.gz")
    arguments = ["--structures", tmp_path / "pdb", "--predictions", tmp_path / "models"]
    assert main([*map(str, arguments), "--out", str(tmp_path / "none"), "--min-unresolved", "41"]) == 1
    assert main([*map(str, arguments), "--out", str(tmp_path / "made")]) == 0
    made = read_structure(tmp_path / "made" / "1cbs.cif.gz", dictionary())
    assert unresolved_residues(made) == 0
    ligand = made.chain_type[made.residue_chain[made.atom_residue]] == MoleculeType.LIGAND
    theirs = truth.chain_type[truth.residue_chain[truth.atom_residue]] == MoleculeType.LIGAND
    np.testing.assert_allclose(made.atom_coords[ligand], truth.atom_coords[theirs], atol=2e-3)
    ca, true_ca = made.atom_name == "CA", truth.atom_name == "CA"
    off = np.linalg.norm(made.atom_coords[ca] - truth.atom_coords[true_ca], axis=1)
    assert np.median(off) < 1.0  # residues 20 to 60 came from the model alone
    block = gemmi.cif.read(str(tmp_path / "made" / "1cbs.cif.gz")).sole_block()
    b_factors = np.array([float(value) for value in block.find_values("_atom_site.B_iso_or_equiv")])
    assert b_factors.max() == 100.0
    assert np.median(b_factors) > 90
    arguments = ["--structures", tmp_path / "made", "--out", tmp_path / "store", "--workers", "1"]
    assert prepare([*map(str, arguments), "--predicted", "--n-conformers", "1"]) == 0
    store = Store(tmp_path / "store")
    assert store.plddt("1cbs").max() == 100
