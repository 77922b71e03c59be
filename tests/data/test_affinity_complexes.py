# SPDX-License-Identifier: Apache-2.0
"""Complexes of a protein from a PDB file and a ligand: made here, read back from their store."""

import gemmi
import numpy as np
import pytest

from foldwright.data.affinity_complexes import ligand_chain, read_protein, with_ligand, write_store
from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.ligands import component_from_smiles
from foldwright.data.molecules import describe, read_sdf, read_smiles
from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.data.structure import keep_chains

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


@pytest.fixture(scope="module")
def protein():
    structure = Store(store_path()).entry("5pti").structure
    return keep_chains(structure, structure.chain_name == "A")


def test_a_component_from_smiles_is_the_molecule():
    component = component_from_smiles("asp", ASPIRIN, n_conformers=1)
    assert component.atom_element.tolist().count(6) == 9
    assert component.atom_element.tolist().count(8) == 4
    assert len(component.bonds) == 13
    assert len(set(component.atom_name.tolist())) == 13
    assert component.conformer_source == "etkdg"
    lengths = np.linalg.norm(np.diff(component.conformers[0][component.bonds], axis=1)[:, 0], axis=1)
    assert lengths.min() > 1.1
    assert lengths.max() < 1.7


def test_descriptors_of_aspirin():
    found = describe(read_smiles(ASPIRIN))
    assert found.weight == pytest.approx(180.16, abs=0.01)
    assert len(found.bits) == 256
    with pytest.raises(ValueError, match="RDKit cannot read"):
        read_smiles("C1CC")


def test_poses_keep_their_coordinates(tmp_path):
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    molecule = Chem.AddHs(Chem.MolFromSmiles(ASPIRIN))
    rdDistGeom.EmbedMolecule(molecule, randomSeed=1)
    molecule.SetProp("_Name", "lig 1")
    with Chem.SDWriter(str(tmp_path / "ligands.sdf")) as writer:
        writer.write(molecule)
    (pose,) = read_sdf(tmp_path / "ligands.sdf")
    assert pose.name == "lig 1"
    heavy = molecule.GetConformer().GetPositions()[:13]
    np.testing.assert_allclose(pose.coords, heavy, atol=1e-3)


def test_a_complex_is_an_entry_of_its_store(protein, tmp_path):
    component = component_from_smiles("T:asp", ASPIRIN, n_conformers=1)
    coords = np.ones((13, 3), np.float32)
    items = [with_ligand(protein, component, "T:asp"), with_ligand(protein, component, "posed", coords)]
    write_store(tmp_path / "store", items, Store(store_path()).components)
    store = Store(tmp_path / "store")
    bare, posed = store.entry("T:asp"), store.entry("posed")
    assert len(bare.tokens.token_chain) == 58 + 13
    assert not bare.structure.atom_resolved[-13:].any()
    assert posed.structure.atom_resolved[-13:].all()
    assert ligand_chain(posed.structure, "T:asp") == "LIG"
    assert ligand_chain(posed.structure, "other") is None
    assert len(bare.tokens.token_bonds) == 13
    with pytest.raises(ValueError, match="exists"):
        write_store(tmp_path / "store", items, store.components)


@pytest.mark.skipif(not DEFAULT_CACHE.is_dir(), reason="the component dictionary has not been cached yet")
def test_a_pdb_file_with_caps_water_and_a_gap(tmp_path):
    """Residues 3 to 5 of a chain are missing: they are there as unknown, unresolved ones."""
    source = gemmi.Structure()
    source.add_model(gemmi.Model("1"))
    chain = source[0].add_chain(gemmi.Chain("A"))
    numbers = [
        ("ACE", 0),
        ("HID", 1),
        ("GLY", 2),
        ("CYX", 6),
        ("ALA", 7),
        ("SER", 8),
        ("NME", 9),
        ("HOH", 90),
    ]
    for name, number in numbers:
        residue = gemmi.Residue()
        residue.name, residue.seqid = name, gemmi.SeqId(str(number))
        for offset, atom_name in enumerate(
            ("N", "CA", "C", "O")[: 1 if name in ("HOH", "ACE", "NME") else 4]
        ):
            atom = gemmi.Atom()
            atom.name, atom.element = atom_name, gemmi.Element(atom_name[0])
            atom.pos = gemmi.Position(3.8 * number + 1.25 * offset, 0.3 * offset, 0)
            residue.add_atom(atom)
        chain.add_residue(residue)
    source.write_pdb(str(tmp_path / "protein.pdb"))
    protein = read_protein(tmp_path / "protein.pdb", Dictionary.open())
    assert protein.sequence(0) == ["HIS", "GLY", "UNK", "UNK", "UNK", "CYS", "ALA", "SER"]
    assert protein.residue_index.tolist() == list(range(1, 9))
    centre = protein.atom_resolved[protein.atom_name == "CA"]
    assert centre.tolist() == [True, True, False, False, False, True, True, True]
