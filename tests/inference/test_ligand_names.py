# SPDX-License-Identifier: Apache-2.0
"""Ligands given as SMILES or SDF are found again in a truth that names them by a code, and scored alike."""

import json

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.conformers import build_molecule
from foldwright.data.ligands import component_from_smiles, definition_from_sdf, definition_from_smiles
from foldwright.data.query import ChainInput, Query
from foldwright.data.query_example import Components, query_target
from foldwright.data.reference import random_rotations
from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.data.structure import keep_chains
from foldwright.data.tables import read_table
from foldwright.data.write_mmcif import write_structure
from foldwright.inference import evaluate
from foldwright.inference.ligand_names import lay
from foldwright.vocabulary import MoleculeType


@pytest.fixture(scope="module")
def components():
    return Components(Dictionary.open(DEFAULT_CACHE), 1)


@pytest.mark.parametrize(
    ("smiles", "same", "other"),
    [
        ("OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O", "BGC", "GLC"),  # beta-D-glucose
        ("OC[C@H]1O[C@H](O)[C@H](O)[C@@H](O)[C@@H]1O", "GLC", "BGC"),  # alpha
        ("C[C@H](N)C(=O)O", "ALA", "DAL"),
    ],
)
def test_of_equal_graphs_the_hands_decide(components, smiles, same, other):
    own = component_from_smiles("LIG", smiles, n_conformers=1)
    right, wrong = lay(own, components[same]), lay(own, components[other])
    assert right.agreement > wrong.agreement
    assert right.agreement[0] == wrong.agreement[0] + 1, "anomers and enantiomers differ in one centre"
    elements = components[same].atom_element[right.order]
    np.testing.assert_array_equal(elements, own.atom_element)
    assert sorted(right.order) == list(range(len(own.atom_name)))


@pytest.mark.parametrize("smiles", ["O[C@H](C(=O)O)[C@@H](O)C(=O)O", "O[C@@H](C(=O)O)[C@H](O)C(=O)O"])
def test_a_meso_compound_is_laid_on_itself_by_its_hands(components, smiles):
    """From either end: the first way that is found is right for one of them alone."""
    own = component_from_smiles("LIG", smiles, n_conformers=1)
    labels = dict(Chem.FindMolChiralCenters(Chem.MolFromSmiles(smiles)))
    assert set(labels.values()) == {"R", "S"}
    assert lay(own, components["SRT"]).agreement[0] == 2
    assert lay(own, components["TLA"]).agreement[0] == 1, "the chiral one has two equal hands"


def test_other_molecules_are_not_laid_on_each_other(components):
    own = component_from_smiles("LIG", "CCCO", n_conformers=1)
    assert lay(own, components["IPA"]) is None, "isopropanol"
    assert lay(own, components["EOH"]) is None, "ethanol"


def in_another_order(dictionary):
    """SMILES of ZYB that begins at its end, and for each of its atoms its number in the dictionary."""
    named = Chem.RemoveHs(build_molecule(dictionary.with_hydrogens("ZYB")))
    smiles = Chem.MolToSmiles(named, rootedAtAtom=named.GetNumAtoms() - 1, canonical=False)
    return smiles, np.array(named.GetSubstructMatch(Chem.MolFromSmiles(smiles)))


def in_order(table, order):
    """The last rows, those of the ligand, in another order."""
    rest = len(table) - len(order)
    return table[np.concatenate([np.arange(rest), rest + order])]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Records of the ligand of one wrong pose, named by its code, as SMILES and as SDF."""
    folder = tmp_path_factory.mktemp("ligands")
    dictionary, rng = Dictionary.open(DEFAULT_CACHE), np.random.default_rng(0)
    whole = Store(store_path()).entry("4cup").structure
    truth = keep_chains(whole, np.isin(whole.chain_name, ["A", "B"]))
    (folder / "truth").mkdir()
    shown = truth.atom_resolved
    write_structure(truth, truth.atom_coords, folder / "truth" / "4cup.cif", dictionary, mask=shown)
    ligand = truth.residue_component[truth.atom_residue] == "ZYB"
    smiles, place = in_another_order(dictionary)
    x = truth.atom_coords + rng.normal(scale=0.1, size=truth.atom_coords.shape)
    x[ligand] = (x[ligand] - x[ligand].mean(0)) @ random_rotations(1, rng)[0] + x[ligand].mean(0) + 1.0
    x = (x @ random_rotations(1, rng)[0].T + 30).astype(np.float32)
    sdf = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(sdf, randomSeed=1)
    Chem.MolToMolFile(sdf, str(folder / "ligand.sdf"))
    definitions = {
        "smiles": definition_from_smiles("LIG_L", smiles),
        "sdf": definition_from_sdf("LIG_L", folder / "ligand.sdf"),
    }
    found = {"code": (truth, x, dictionary)}
    protein = ChainInput(("P",), MoleculeType.PROTEIN, tuple(truth.sequence(0)))
    for kind, definition in definitions.items():
        chain = ChainInput(("L",), MoleculeType.LIGAND, ("LIG_L",))
        query = Query("4cup", chains=(protein, chain), definitions={"LIG_L": definition})
        components = Components(dictionary, 1)
        structure = query_target(query, components).structure
        coords = np.concatenate([x[~ligand], x[ligand][place]])
        found[kind] = structure, coords, components.with_own(query).dictionary
    records = {}
    plddt, pae = rng.uniform(0, 100, len(x)), rng.uniform(0, 32, (128, 128))
    for kind, (structure, coords, known) in found.items():
        (folder / kind).mkdir()
        write_structure(structure, coords, folder / kind / "4cup.cif", known)
        order = np.arange(11) if kind == "code" else place
        said = {"plddt": in_order(plddt, order), "pae": in_order(in_order(pae, order).T, order).T}
        (folder / kind / "4cup.json").write_text(
            json.dumps({name: table.tolist() for name, table in said.items()})
        )
        out = folder / f"{kind}_out"
        assert evaluate.main([str(folder / kind), f"--truth={folder / 'truth'}", f"--out={out}"]) == 0
        records[kind] = (
            read_table(out / "ligands.parquet").to_pylist()[0],
            read_table(out / "examples.parquet").to_pylist()[0],
        )
    return records


@pytest.mark.parametrize("kind", ["smiles", "sdf"])
def test_a_pose_scores_the_same_whatever_names_its_ligand(scored, kind):
    ligand, figures = scored[kind]
    expected, all_expected = scored["code"]
    assert ligand["ligand_rmsd"] == pytest.approx(expected["ligand_rmsd"], abs=1e-3)
    assert 1.5 < ligand["ligand_rmsd"] < 6
    assert (ligand["component"], ligand["atoms"]) == ("ZYB", 11)
    assert figures["missing_chains"] == 0
    assert figures.keys() == all_expected.keys()
    assert {"interface_ligand_protein", "plddt_correlation", "pae_calibration_error"} <= figures.keys()
    for name in figures.keys() - {"target"}:
        assert figures[name] == pytest.approx(all_expected[name], abs=1e-3, nan_ok=True), name
