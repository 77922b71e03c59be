# SPDX-License-Identifier: Apache-2.0
"""A true conformer written as a prediction reads back, in other programs, as the molecule that was given."""

from collections import Counter

import biotite.interface.rdkit as rdkit_interface
import biotite.structure as struc
import biotite.structure.io.pdbx as pdbx
import gemmi
import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from foldwright.data.ccd import DEFAULT_CACHE, Dictionary, described_components
from foldwright.data.conformers import build_molecule
from foldwright.data.ligands import definition_from_sdf, definition_from_smiles
from foldwright.data.query import BondEnd, ChainInput, Query
from foldwright.data.query_example import Components, query_target
from foldwright.data.write_mmcif import write_structure
from foldwright.vocabulary import MoleculeType

CHIRAL = [
    "C[C@H](N)C(=O)O",
    "C[C@@H](N)C(=O)O",
    "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O",
    "C/C=C/[C@H](O)c1ccc(Cl)cc1",
    r"C[N+](C)(C)C/C=C\[C@@H](F)C#N",
]


def written(tmp_path, query):
    components = Components(Dictionary.open(DEFAULT_CACHE), 1)
    target = query_target(query, components)
    structure = target.structure
    coords = np.zeros((len(structure.atom_name), 3), np.float32)
    for residue in range(len(structure.residue_chain)):
        own = structure.atom_residue == residue
        component = target.components[str(structure.residue_component[residue])]
        coords[own] = component.conformers[0][target.entry.atom_reference[own]] + 20.0 * residue
    plddt = np.linspace(20, 90, len(coords)).astype(np.float32)
    path = tmp_path / "model.cif"
    write_structure(structure, coords, path, components.with_own(query).dictionary, plddt)
    return path, structure


def ligand_smiles(path):
    block = pdbx.CIFFile.read(path)
    atoms = pdbx.get_structure(block, model=1, include_bonds=True, extra_fields=["charge"])
    molecule = rdkit_interface.to_mol(atoms[atoms.hetero], explicit_hydrogen=False)
    Chem.SanitizeMol(molecule)
    Chem.AssignStereochemistryFrom3D(molecule)
    return Chem.MolToSmiles(Chem.RemoveHs(molecule))


@pytest.mark.parametrize("smiles", CHIRAL)
def test_biotite_and_rdkit_read_the_molecule_given(tmp_path, smiles):
    ligand = ChainInput(("L",), MoleculeType.LIGAND, ("LIG_L",))
    query = Query("q", chains=(ligand,), definitions={"LIG_L": definition_from_smiles("LIG_L", smiles)})
    path, _ = written(tmp_path, query)
    given = Chem.MolFromSmiles(smiles)
    centres = Chem.FindMolChiralCenters(given, includeUnassigned=True)
    if all(label != "?" for _, label in centres):
        assert ligand_smiles(path) == Chem.MolToSmiles(given)
    else:  # a centre left open is drawn one way or the other
        read = Chem.MolFromSmiles(ligand_smiles(path))
        assert read.HasSubstructMatch(given, useChirality=True)


def test_a_file_describes_the_molecule_of_an_sdf(tmp_path):
    """Chirality from the coordinates (RDKit), orders and charges as gemmi reads them, whole as we do."""
    given = Chem.MolFromSmiles("C[N+](C)(C)C/C=C\\[C@@H](F)C#N")
    placed = Chem.AddHs(given)
    assert rdDistGeom.EmbedMolecule(placed, randomSeed=3) == 0
    Chem.MolToMolFile(placed, str(tmp_path / "ligand.sdf"))
    ligand = ChainInput(("L",), MoleculeType.LIGAND, ("LIG_L",))
    definition = definition_from_sdf("LIG_L", tmp_path / "ligand.sdf")
    path, _ = written(tmp_path, Query("q", chains=(ligand,), definitions={"LIG_L": definition}))
    assert ligand_smiles(path) == Chem.MolToSmiles(given)
    block = gemmi.cif.read(str(path)).sole_block()
    orders = Counter(row.str(0) for row in block.find("_chem_comp_bond.", ["value_order"]))
    kinds = Counter(str(bond.GetBondType())[:4] for bond in placed.GetBonds())
    assert orders == {"SING": kinds["SING"], "DOUB": kinds["DOUB"], "TRIP": kinds["TRIP"]}
    charges = {row.str(0): int(row.str(1)) for row in block.find("_chem_comp_atom.", ["atom_id", "charge"])}
    assert {name: charge for name, charge in charges.items() if charge} == {"N1": 1}
    again = described_components(path)["LIG_L"]
    for name in ("atom_name", "atom_element", "atom_charge", "bonds", "bond_order", "bond_aromatic"):
        np.testing.assert_array_equal(getattr(again, name), getattr(definition, name))
    np.testing.assert_allclose(again.ideal, definition.ideal, atol=6e-4)
    molecule = Chem.RemoveHs(build_molecule(again))
    assert Chem.MolToSmiles(molecule) == Chem.MolToSmiles(given)


def test_entities_bonds_and_confidence_read_back(tmp_path):
    protein = ChainInput(("A", "B"), MoleculeType.PROTEIN, ("GLY", "ASN", "SEP"))
    glycan = ChainInput(("G",), MoleculeType.LIGAND, ("NAG",))
    bond = (BondEnd("A", 2, "ND2"), BondEnd("G", 1, "C1"))
    rna = ChainInput(("R",), MoleculeType.RNA, ("G", "A"))
    path, structure = written(tmp_path, Query("q", chains=(protein, glycan, rna), bonds=(bond,)))
    model = gemmi.read_structure(str(path))
    assert [entity.entity_type.name for entity in model.entities] == ["Polymer", "NonPolymer", "Polymer"]
    assert [entity.polymer_type.name for entity in model.entities] == ["PeptideL", "Unknown", "Rna"]
    assert model.entities[0].full_sequence == ["GLY", "ASN", "SEP"]
    connection = model.connections[0]
    assert {connection.partner1.atom_name, connection.partner2.atom_name} == {"ND2", "C1"}
    shown = np.array([atom.b_iso for chain in model[0] for residue in chain for atom in residue])
    np.testing.assert_allclose(shown, np.linspace(20, 90, len(shown)), atol=0.01)
    atoms = pdbx.get_structure(pdbx.CIFFile.read(path), model=1, include_bonds=True)
    pairs = {
        tuple(sorted((atoms.atom_name[i], atoms.atom_name[j])))
        for i, j, _ in atoms.bonds.as_array()
        if atoms.chain_id[i] != atoms.chain_id[j]
    }
    assert pairs == {("C1", "ND2")}
    phosphate = atoms[(atoms.res_name == "SEP") & (atoms.chain_id == "A")]
    kinds = phosphate.bonds.as_array()
    double = [set(phosphate.atom_name[list(b[:2])]) for b in kinds if b[2] == struc.BondType.DOUBLE]
    assert {"P", "O1P"} in double
    assert len(structure.chain_name) == 4
