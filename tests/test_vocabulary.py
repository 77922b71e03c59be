# SPDX-License-Identifier: Apache-2.0
import pytest

from foldwright.vocabulary import (
    ELEMENTS,
    GAP,
    MAX_ATOMS_PER_TOKEN,
    MSA_LETTERS,
    RESIDUE_ATOMS,
    RESTYPE_INDEX,
    RESTYPES,
    MoleculeType,
    encode_atom_name,
    representative_atom,
)


def test_classes_stand_where_the_spec_says():
    assert len(RESTYPES) == 32
    assert [RESTYPE_INDEX[n] for n in ("ALA", "VAL", "UNK", "A", "N", "DA", "DN", "-")] == [
        0,
        19,
        20,
        21,
        25,
        26,
        30,
        31,
    ]
    assert GAP == 31


@pytest.mark.parametrize("name", [n for n in RESTYPES if n not in ("UNK", "N", "DN", "-")])
def test_atoms_are_the_dictionarys_heavy_atoms_in_its_order(name):
    """Referee: the Chemical Component Dictionary as biotite ships it."""
    info = pytest.importorskip("biotite.structure.info")
    atoms = info.residue(name)
    heavy = [str(a) for a, element in zip(atoms.atom_name, atoms.element, strict=True) if element != "H"]
    assert [a for a in heavy if a != "OXT"] == list(RESIDUE_ATOMS[name])


def test_counts_and_special_atoms():
    assert max(map(len, RESIDUE_ATOMS.values())) == MAX_ATOMS_PER_TOKEN == len(RESIDUE_ATOMS["G"])
    assert [representative_atom(n) for n in ("ALA", "GLY", "UNK", "DG", "U", "N")] == [
        "CB",
        "CA",
        "CA",
        "C4",
        "C2",
        "C1'",
    ]


def test_alignment_letters():
    protein = MSA_LETTERS[MoleculeType.PROTEIN]
    assert protein["B"] == RESTYPE_INDEX["ASP"]
    assert protein["Z"] == RESTYPE_INDEX["GLU"]
    assert protein["U"] == RESTYPE_INDEX["CYS"]
    assert protein["J"] == RESTYPE_INDEX["UNK"]
    assert MSA_LETTERS[MoleculeType.RNA]["T"] == RESTYPE_INDEX["U"]
    assert ELEMENTS.index("Fe") == 26


def test_atom_names_encode_as_the_spec_says():
    assert encode_atom_name("CA") == (35, 33, 0, 0)
    assert encode_atom_name("O5'") == (47, 21, 7, 0)
