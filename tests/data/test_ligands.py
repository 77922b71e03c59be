# SPDX-License-Identifier: Apache-2.0
"""Chemistry that survives: SMILES and SDF to components and to the store, by RDKit's InChI and CIP labels."""

import numpy as np
import pytest
from biotite.structure.info import residue
from handmade import dictionary
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom

from foldwright.data.conformers import build_molecule, make_component
from foldwright.data.ligands import (
    component_from_sdf,
    component_from_smiles,
    definition_from_sdf,
    definition_from_smiles,
    read_ligands,
)
from foldwright.data.prepare import main
from foldwright.data.store import Store

MOLECULES = {
    "alanine": "C[C@H](N)C(=O)O",
    "d-alanine, charged": "C[C@@H]([NH3+])C(=O)[O-]",
    "fumarate": r"OC(=O)/C=C/C(=O)O",
    "maleate": r"OC(=O)/C=C\C(=O)O",
    "ibuprofen": "CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O",
    "imidazole": "c1c[nH]cn1",
    "nitrile and nitro": "N#Cc1ccc([N+](=O)[O-])cc1",
    "penicillin": "CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)O",
    "sulfoxide": "C[S@](=O)c1ccccc1",
    "glucose": "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
    "chloride": "[Cl-]",
}


NAMES = ("C1", "C2", "N1", "C3", "O1", "O2")  # of alanine's atoms in the order of its SMILES


def inchi(molecule: Chem.Mol) -> str:
    return Chem.MolToInchi(molecule)


@pytest.mark.parametrize("smiles", MOLECULES.values(), ids=MOLECULES)
def test_a_smiles_reads_back_as_the_same_molecule(smiles):
    definition = definition_from_smiles("LIG", smiles)
    expected = Chem.MolFromSmiles(smiles)
    assert inchi(build_molecule(definition)) == inchi(expected)
    assert Chem.MolToSmiles(Chem.RemoveHs(build_molecule(definition))) == Chem.MolToSmiles(expected)
    assert len(set(definition.atom_name)) == len(definition.atom_name)


@pytest.mark.parametrize("smiles", MOLECULES.values(), ids=MOLECULES)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_an_sdf_reads_back_as_the_same_molecule(tmp_path, smiles, dimensions):
    molecule = Chem.MolFromSmiles(smiles)
    if dimensions == 3:
        molecule = Chem.AddHs(molecule)
        rdDistGeom.EmbedMolecule(molecule, randomSeed=7)
    else:
        rdDepictor.Compute2DCoords(molecule)
    path = tmp_path / "x.sdf"
    path.write_text(Chem.MolToMolBlock(molecule) + "$$$$\n" + Chem.MolToMolBlock(Chem.MolFromSmiles("CC")))
    definition = definition_from_sdf("LIG", path)
    assert inchi(build_molecule(definition)) == inchi(Chem.MolFromSmiles(smiles))
    if dimensions == 3:
        np.testing.assert_allclose(definition.ideal, molecule.GetConformer().GetPositions(), atol=1e-3)


def cip(molecule: Chem.Mol) -> dict[int, str]:
    Chem.AssignStereochemistry(molecule, cleanIt=True, force=True)
    return dict(Chem.FindMolChiralCenters(molecule, includeUnassigned=False, useLegacyImplementation=True))


def stereo_of_conformers(component, whole) -> list[dict[int, str]]:
    """CIP labels by heavy atom of every conformer of a component, told from its coordinates alone."""
    found = []
    for coords in component.conformers:
        molecule = Chem.RemoveHs(build_molecule(whole))
        for atom in molecule.GetAtoms():
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
        conformer = Chem.Conformer(len(coords))
        conformer.SetPositions(coords.astype(np.float64))
        molecule.AddConformer(conformer)
        Chem.AssignStereochemistryFrom3D(molecule)
        found.append(cip(molecule))
    return found


@pytest.mark.parametrize("name", ["alanine", "ibuprofen", "penicillin", "glucose"])
def test_every_conformer_has_the_handedness_given(name, tmp_path):
    expected = Chem.MolFromSmiles(MOLECULES[name])
    component = component_from_smiles("LIG", MOLECULES[name], n_conformers=3)
    assert component.conformer_source == "etkdg"
    assert len(component.conformers) == 3
    labels = cip(expected)
    assert labels
    definition = definition_from_smiles("LIG", MOLECULES[name])
    assert stereo_of_conformers(component, definition) == [labels] * 3
    (tmp_path / "x.sdf").write_text(Chem.MolToMolBlock(build_with_coords(expected)))
    again = component_from_sdf("LIG", tmp_path / "x.sdf", n_conformers=1)
    assert again.atom_element.tolist() == component.atom_element.tolist()
    assert {tuple(sorted(b)) for b in again.bonds.tolist()} == {
        tuple(sorted(b)) for b in component.bonds.tolist()
    }


def build_with_coords(molecule: Chem.Mol) -> Chem.Mol:
    molecule = Chem.AddHs(molecule)
    rdDistGeom.EmbedMolecule(molecule, randomSeed=3)
    return molecule


@pytest.mark.parametrize("code", ["NAG", "MAN", "BGC", "ATP", "SEP", "PLP", "BTN", "RET", "DAL"])
def test_chirality_and_bond_orders_of_the_dictionarys_ligands(code):
    """CIP labels of all conformers against the molecule's, bond orders against biotite's table."""
    component, whole = make_component(code, dictionary(), n_conformers=2), dictionary().with_hydrogens(code)
    expected = cip(Chem.RemoveHs(build_molecule(whole)))
    assert stereo_of_conformers(component, whole) == [expected] * len(component.conformers)
    theirs = residue(code)
    orders = {1: 1, 2: 2, 3: 3, 5: 4, 6: 4, 7: 4, 9: 4}  # biotite's types; 5 to 9 are aromatic
    names = theirs.atom_name
    wanted = {
        frozenset((names[i], names[j])): orders[kind]
        for i, j, kind in theirs.bonds.as_array()
        if "H" not in (theirs.element[i], theirs.element[j])
    }
    ours = component.atom_name
    found = {
        frozenset(ours[pair]): order
        for pair, order in zip(component.bonds, component.bond_order, strict=True)
    }
    assert found == wanted


def test_a_store_holds_the_ligands_given(tmp_path, writer_of):
    """A structure with a code of nobody's: left out and counted without --ligands, read with it."""
    structures = tmp_path / "mmcif"
    writer_of["new"]("lign").protein("A", ["ALA"] * 6, 0.0).ligand("B", "XL1", (9.0, 9.0, 0.0), NAMES).write(
        structures
    )
    (tmp_path / "ligands.csv").write_text(f"code,smiles\nXL1,{MOLECULES['alanine']}\n")
    arguments = ["--structures", structures, "--out", tmp_path / "store", "--workers", 1, "--n-conformers", 1]
    assert main([str(argument) for argument in arguments]) == 0
    assert "XL1" not in Store(tmp_path / "store").components
    assert main([str(argument) for argument in (*arguments, "--ligands", tmp_path / "ligands.csv")]) == 0
    component = Store(tmp_path / "store").components["XL1"]
    assert component.atom_name.tolist() == list(NAMES)
    assert component.bond_order.tolist() == [1, 1, 1, 2, 1]
    definition = definition_from_smiles("XL1", MOLECULES["alanine"])
    assert stereo_of_conformers(component, definition) == [cip(Chem.MolFromSmiles(MOLECULES["alanine"]))]
    structure = Store(tmp_path / "store").entry("lign").structure
    assert structure.atom_resolved[structure.residue_component[structure.atom_residue] == "XL1"].all()


def test_folders_of_ligands(tmp_path):
    (tmp_path / "AA1.smi").write_text("CCO ethanol\n")
    (tmp_path / "AA2.sdf").write_text(Chem.MolToMolBlock(build_with_coords(Chem.MolFromSmiles("CCN"))))
    found = read_ligands(tmp_path)
    assert {code: d.heavy().atom_element.tolist() for code, d in found.items()} == {
        "AA1": [6, 6, 8],
        "AA2": [6, 6, 7],
    }


@pytest.mark.parametrize(("text", "message"), [
    ("code,smiles\nX1,not a smiles\n", "X1: got 'not a smiles'"),
    ("code,smiles\nX1,CCO.[Na+]\n", "more than one molecule"),
    ("code,smiles\nX1,CCO\nX1,CC\n", "each once"),
    ("code,smiles\nX1,*C\n", "X1"),
    ("name,smiles\nX1,CC\n", "expected code,smiles"),
    ("code,smiles\nX1,none.sdf\n", "no SDF file"),
    ("code,smiles\n", "found none"),
])  # fmt: skip
def test_what_cannot_be_read_is_said(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_ligands(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        read_ligands(tmp_path / "none")


def test_a_centre_left_open_is_settled_and_one_given_is_kept():
    component = component_from_smiles("GLC9", "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O", n_conformers=1)
    assert component.conformer_source == "etkdg"
    definition = definition_from_smiles("X", "C[C@H](F)C(Cl)Br")
    kept = Chem.RemoveHs(build_molecule(definition))
    assert kept.HasSubstructMatch(Chem.MolFromSmiles("C[C@H](F)C(Cl)Br"), useChirality=True)
    assert not kept.HasSubstructMatch(Chem.MolFromSmiles("C[C@@H](F)C(Cl)Br"), useChirality=True)
    assert len(Chem.FindMolChiralCenters(kept)) == 2
