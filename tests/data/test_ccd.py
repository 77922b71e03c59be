# SPDX-License-Identifier: Apache-2.0
"""The component dictionary, against biotite's own accessors and a second reading by gemmi."""

import gzip
import pickle

import numpy as np
import pytest
from biotite.structure.info import residue
from handmade import CORPUS, dictionary

from foldwright.data.ccd import Dictionary, parent_residue, read_components
from foldwright.vocabulary import RESIDUE_ATOMS

COMPONENT = """data_LIG
_chem_comp.id LIG
_chem_comp.type non-polymer
_chem_comp.mon_nstd_parent_comp_id ?
loop_
_chem_comp_atom.comp_id
_chem_comp_atom.atom_id
_chem_comp_atom.type_symbol
_chem_comp_atom.charge
_chem_comp_atom.pdbx_leaving_atom_flag
_chem_comp_atom.pdbx_model_Cartn_x_ideal
_chem_comp_atom.pdbx_model_Cartn_y_ideal
_chem_comp_atom.pdbx_model_Cartn_z_ideal
LIG C1 C 0 N 0.0 0.0 0.0
LIG H1 H 0 N ? ? ?
LIG O1 O -1 Y 1.2 0.0 0.0
loop_
_chem_comp_bond.comp_id
_chem_comp_bond.atom_id_1
_chem_comp_bond.atom_id_2
_chem_comp_bond.value_order
_chem_comp_bond.pdbx_aromatic_flag
LIG C1 H1 SING N
LIG C1 O1 DOUB N
"""


@pytest.mark.parametrize("name", RESIDUE_ATOMS)
def test_standard_residues_follow_the_vocabulary(name):
    atoms = [atom for atom in dictionary()[name].atom_name.tolist() if atom != "OXT"]
    assert tuple(atoms[: len(RESIDUE_ATOMS[name])]) == RESIDUE_ATOMS[name]
    assert len(atoms) == len(RESIDUE_ATOMS[name]) or name == "UNK"


@pytest.mark.parametrize("code", ["HEM", "SEP", "NAG", "ATP", "5MC", "MG", "SF4", "CRO"])
def test_agrees_with_biotite(code):
    ours, theirs = dictionary()[code], residue(code)
    keep = np.flatnonzero(theirs.element != "H")
    assert ours.atom_name.tolist() == theirs.atom_name[keep].tolist()
    np.testing.assert_array_equal(ours.atom_charge, theirs.charge[keep])
    np.testing.assert_allclose(ours.ideal, theirs.coord[keep], atol=1e-3)
    place = {old: new for new, old in enumerate(keep)}
    bonds = {
        frozenset((place[i], place[j])) for i, j, _ in theirs.bonds.as_array() if i in place and j in place
    }
    assert {frozenset(pair) for pair in ours.bonds.tolist()} == bonds


@pytest.mark.parametrize(("code", "parent"), [
    ("SEP", "SER"), ("MSE", "MET"), ("PSU", "U"), ("5MC", "C"), ("DAL", "ALA"), ("BRU", "DT"), ("HEM", ""),
    ("CRO", ""),
])  # fmt: skip
def test_parents(code, parent):
    assert dictionary()[code].parent == parent


def test_parent_by_one_letter_code():
    assert parent_residue("?", "K", "L-PEPTIDE LINKING") == "LYS"
    assert parent_residue("?", "U", "DNA LINKING") == "DT"
    assert parent_residue("THR,TYR,GLY", "G", "L-PEPTIDE LINKING") == ""
    assert parent_residue("?", "K", "NON-POLYMER") == ""


def test_unknown_code():
    assert "$$$" not in dictionary()
    with pytest.raises(KeyError):
        dictionary()["$$$"]


def test_a_users_component_goes_first(tmp_path):
    path = tmp_path / "mine.cif.gz"
    path.write_bytes(gzip.compress(COMPONENT.replace("LIG", "ALA").encode()))
    mixed = Dictionary(dictionary().folder, read_components(path))
    assert mixed["ALA"].atom_name.tolist() == ["C1", "O1"]
    assert mixed["GLY"].atom_name.tolist() == dictionary()["GLY"].atom_name.tolist()
    again = pickle.loads(pickle.dumps(mixed))  # how a worker process gets it
    assert again["ALA"].atom_leaving.tolist() == [False, True]


def test_fields_of_a_users_component(tmp_path):
    path = tmp_path / "mine.cif"
    path.write_text(COMPONENT)
    whole = Dictionary.from_cif(path).with_hydrogens("LIG")
    assert whole.atom_element.tolist() == [6, 1, 8]
    assert np.isnan(whole.ideal[1]).all()
    assert np.isnan(whole.model).all()
    heavy = Dictionary.from_cif(path)["LIG"]
    assert heavy.bonds.tolist() == [[0, 1]]
    assert heavy.bond_order.tolist() == [2]
    assert heavy.atom_charge.tolist() == [0, -1]


def test_files_that_are_no_dictionary(tmp_path):
    with pytest.raises(ValueError, match="no component file"):
        read_components(tmp_path / "none.cif")
    path = tmp_path / "other.cif"
    path.write_text("data_x\n_entry.id x\n")
    with pytest.raises(ValueError, match="_chem_comp_atom"):
        read_components(path)


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.is_dir(), reason="../shared/data is absent")
def test_components_of_the_corpus_equal_biotites():
    """Two readers, BinaryCIF tables and gemmi, over 493 components: every field of every component."""
    subset = Dictionary.from_cif(CORPUS / "ccd" / "components_subset.cif.gz")
    for code in subset:
        ours, theirs = dictionary().with_hydrogens(code), subset.with_hydrogens(code)
        for name in ours.__dataclass_fields__:
            a, b = getattr(ours, name), getattr(theirs, name)
            same = a == b if isinstance(a, str) else np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
            assert same, (code, name)
