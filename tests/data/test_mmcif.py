# SPDX-License-Identifier: Apache-2.0
"""Reading mmCIF, against a file written by hand and against biotite on real entries."""

import gzip
from collections import Counter

import numpy as np
import pytest
from handmade import CORPUS, dictionary, mmcif_text

from foldwright.data.filters import Rejection
from foldwright.data.mmcif import polymer_type, read_structure
from foldwright.vocabulary import RESIDUE_ATOMS, RESTYPE_INDEX, MoleculeType

needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="../shared/data is absent")


def read_text(text, folder, **options):
    path = folder / "hand.cif"
    path.write_text(text)
    return read_structure(path, dictionary(), **options)


@pytest.fixture(scope="module")
def hand(tmp_path_factory):
    counts = Counter()
    structure = read_text(mmcif_text(), tmp_path_factory.mktemp("hand"), counts=counts)
    return structure, counts


def atoms_of(structure, residue):
    return {str(structure.atom_name[i]): i for i in np.flatnonzero(structure.atom_residue == residue)}


def test_header_and_chains(hand):
    s, counts = hand
    assert (s.entry_id, s.method, s.resolution) == ("hand", "X-RAY DIFFRACTION", 1.75)
    assert s.release_date == "2011-02-03"
    assert s.chain_name.tolist() == ["A", "C", "D", "A-2", "C-2", "D-2", "B"]
    assert s.chain_entity.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert s.chain_sym.tolist() == [0, 0, 0, 1, 1, 1, 0]
    assert s.chain_type.tolist() == [0, 3, 3, 0, 3, 3, 1]
    assert counts == {"unknown_ligand": 1, "unknown_atom_name": 1, "long_bond": 1, "unmatched_bond": 1}


def test_sequence_gives_unresolved_residues(hand):
    s, _ = hand
    assert s.sequence(0) == ["GLY", "MET", "ARG", "SEP", "ASN", "ALA"]
    alanine = atoms_of(s, 5)
    assert list(alanine) == ["N", "CA", "C", "O", "CB", "OXT"]
    assert not s.atom_resolved[list(alanine.values())].any()
    assert not s.atom_coords[list(alanine.values())].any()
    assert s.atom_slot[list(alanine.values())].tolist() == [0, 1, 2, 3, 4, len(RESIDUE_ATOMS["ALA"])]
    assert "OXT" not in atoms_of(s, 0)


def test_one_altloc_of_highest_occupancy(hand):
    s, _ = hand
    glycine = atoms_of(s, 0)
    assert s.atom_coords[glycine["N"]].tolist() == [4.0, 0.0, 1.0]
    assert s.atom_coords[glycine["O"]].tolist() == [5.5, 2.5, 1.0]


def test_selenomethionine_and_arginine(hand):
    s, _ = hand
    methionine, arginine = atoms_of(s, 1), atoms_of(s, 2)
    assert s.atom_coords[methionine["SD"]].tolist() == [13.0, 5.0, 5.0]
    assert s.atom_element[methionine["SD"]] == 16
    assert s.atom_coords[arginine["NH1"], 1] == 5.0  # the nearer to CD, which the file calls NH2
    assert s.atom_coords[arginine["NH2"], 1] == 6.0
    assert not s.atom_resolved[arginine["NE"]]


def test_modified_residue(hand):
    s, _ = hand
    serine = atoms_of(s, 3)
    assert list(serine) == ["N", "CA", "CB", "OG", "C", "O", "P", "O1P", "O2P", "O3P"]  # no OXT: it left
    assert s.residue_atomised[3]
    assert s.residue_restype[3] == RESTYPE_INDEX["SER"]


def test_op3_only_at_the_start(hand):
    s, _ = hand
    first = np.flatnonzero(s.residue_chain == 6)
    assert list(atoms_of(s, first[0]))[:2] == ["OP3", "P"]
    assert list(atoms_of(s, first[1]))[:2] == ["P", "OP1"]
    assert s.atom_slot[atoms_of(s, first[1])["P"]] == 1


def test_symmetry_copy_is_moved(hand):
    s, _ = hand
    first, second = (np.isin(s.residue_chain, c)[s.atom_residue] for c in (0, 3))
    shift = (s.atom_coords[second] - s.atom_coords[first])[s.atom_resolved[first]]
    np.testing.assert_allclose(shift, np.broadcast_to([50.0, 0, 0], shift.shape))


def test_rotated_copy(tmp_path):
    """A quarter turn about z takes (x, y, z) to (-y, x, z)."""
    quarter = "\n2 0 -1 0 1 0 0 0 0 1 50 0 0\n"
    s = read_text(mmcif_text().replace("\n2 1 0 0 0 1 0 0 0 1 50 0 0\n", quarter), tmp_path)
    first, second = (s.atom_coords[(s.residue_chain == c)[s.atom_residue] & s.atom_resolved] for c in (0, 3))
    turned = np.stack([50 - first[:, 1], first[:, 0], first[:, 2]], axis=1)
    np.testing.assert_allclose(second, turned, atol=1e-4)


def test_only_true_bonds_in_every_copy(hand):
    s, _ = hand
    named = [tuple((str(s.chain_name[s.residue_chain[s.atom_residue[i]]]), str(s.atom_name[i])) for i in pair)
             for pair in s.bonds]  # fmt: skip
    assert named == [(("A", "ND2"), ("C", "C1")), (("A-2", "ND2"), ("C-2", "C1"))]


def test_leaving_atoms(hand):
    s, _ = hand
    glycan = np.flatnonzero(s.residue_chain == 1)
    assert len(glycan) == 2
    assert "O1" not in atoms_of(s, glycan[0])
    assert {"C7", "O7", "N2"} <= atoms_of(s, glycan[0]).keys()


def test_hybrid_goes_to_the_majority():
    assert (
        polymer_type("polydeoxyribonucleotide/polyribonucleotide hybrid", ["DA", "DG", "C"])
        == MoleculeType.DNA
    )
    assert polymer_type("other", ["A", "DG", "C"]) == MoleculeType.RNA


def test_unusual_polymers_are_kept_and_counted(tmp_path):
    counts = Counter()
    text = mmcif_text().replace("'polypeptide(L)'", "'polypeptide(D)'")
    text = text.replace("2 polyribonucleotide", "2 'polydeoxyribonucleotide/polyribonucleotide hybrid'")
    s = read_text(text, tmp_path, counts=counts)
    assert (counts["d_peptide"], counts["hybrid_polymer"]) == (1, 1)
    assert s.chain_type.tolist() == [0, 3, 3, 0, 3, 3, 1]


def test_the_first_residue_of_a_polymer_of_no_known_type_is_bonded(tmp_path):
    s = read_text(mmcif_text().replace("'polypeptide(L)'", "'polysaccharide(D)'"), tmp_path)
    assert s.chain_type[0] == MoleculeType.LIGAND
    first = s.atom_name[s.atom_residue == 0]
    assert "C" in first
    assert "OXT" not in first  # it leaves on bonding, and is not seen


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.cif: no such file"):
        read_structure(tmp_path / "nothing.cif", dictionary())


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_text_names_the_file(tmp_path, share):
    text = mmcif_text()
    with pytest.raises(ValueError, match=r"hand\.cif"):
        read_text(text[: int(len(text) * share)] + " 'cut", tmp_path)


def test_truncated_gzip(tmp_path):
    path = tmp_path / "cut.cif.gz"
    packed = gzip.compress(mmcif_text().encode())
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"cut\.cif\.gz.*cut short"):
        read_structure(path, dictionary())


def test_coordinates_that_are_no_numbers(tmp_path):
    with pytest.raises(ValueError, match=r"Cartn_x holds 'abc'"):
        read_text(mmcif_text().replace(" 30.000 30.000 30.000", " abc 30.000 30.000"), tmp_path)


def test_unknown_operator(tmp_path):
    with pytest.raises(ValueError, match="operator '7'"):
        read_text(mmcif_text().replace("1 1,2 A,C,D,E,F", "1 1,7 A,C,D,E,F"), tmp_path)


def test_rejections(tmp_path):
    with pytest.raises(Rejection) as caught:
        read_text(mmcif_text(), tmp_path, max_polymer_chains=2)
    assert caught.value.reason == "too_many_chains"
    with pytest.raises(Rejection) as caught:
        read_text(mmcif_text().replace("SEP", "UNL"), tmp_path)
    assert caught.value.reason == "unknown_component"


def test_without_assembly_the_file_as_it_is(tmp_path):
    text = mmcif_text().replace("_pdbx_struct_assembly_gen", "_other_category")
    assert read_text(text, tmp_path).chain_name.tolist() == ["A", "B", "C", "D"]


@pytest.mark.corpus
@needs_corpus
@pytest.mark.parametrize("entry", "102m 1a8o 1gbt 1lcd 1ehz 4zhl 1c4q 4cup 1tqh 5pti 1ake 1a7g".split())
def test_counts_agree_with_biotite(entry):
    """Resolved heavy atoms of the assembly, chain by chain, among atoms the dictionary knows."""
    import biotite.structure as struc
    from biotite.structure.io import pdbx

    path = CORPUS / "mmcif" / f"{entry}.cif.gz"
    if not path.exists():
        pytest.skip(f"{entry} is not in the corpus")
    counts = Counter()
    ours = read_structure(path, dictionary(), counts=counts)
    with gzip.open(path, "rt") as file:
        cif = pdbx.CIFFile.read(file)
    try:
        atoms = pdbx.get_assembly(cif, model=1, use_author_fields=False, altloc="occupancy")
    except struc.BadStructureError:
        atoms = pdbx.get_structure(cif, model=1, use_author_fields=False, altloc="occupancy")
    keep = ~np.isin(atoms.res_name, ("HOH", "DOD")) & ~np.isin(atoms.element, ("H", "D"))
    names = np.array([name.split("-")[0] for name in ours.chain_name])[ours.residue_chain][ours.atom_residue]
    unread = set(atoms.chain_id[keep]) - set(names)
    keep &= ~np.isin(atoms.chain_id, list(unread))
    assert len(unread) == counts["unknown_ligand"]
    expected = Counter(atoms.chain_id[keep].tolist())
    found = Counter(names[ours.atom_resolved].tolist())
    difference = sum(abs(expected[c] - found[c]) for c in expected | found)
    assert difference <= counts["unknown_atom_name"]


@pytest.mark.corpus
@needs_corpus
@pytest.mark.parametrize("entry", ["1a7g", "1hho", "2hhb"])
def test_assembly_coordinates_agree_with_gemmi(entry):
    """Every atom of the assembly that gemmi makes lies where one of ours does."""
    import gemmi

    from foldwright.data.neighbours import pairs_within

    path = CORPUS / "mmcif" / f"{entry}.cif.gz"
    if not path.exists():
        pytest.skip(f"{entry} is not in the corpus")
    model = gemmi.read_structure(str(path))
    model.transform_to_assembly("1", gemmi.HowToNameCopiedChain.AddNumber, merge_dist=0)
    model.remove_hydrogens()
    model.remove_waters()
    model.remove_alternative_conformations()
    theirs = np.array([a.pos.tolist() for c in model[0] for r in c for a in r], np.float32)
    ours = read_structure(path, dictionary())
    rows, _, _ = pairs_within(theirs, ours.atom_coords[ours.atom_resolved], 0.01)
    assert len(theirs) == ours.atom_resolved.sum()
    assert set(rows.tolist()) == set(range(len(theirs)))


@pytest.mark.corpus
@needs_corpus
def test_edge_files_never_crash():
    outcomes = Counter()
    for path in sorted((CORPUS / "mmcif_edge").glob("*.cif.gz")):
        try:
            read_structure(path, dictionary())
            outcomes["read"] += 1
        except (Rejection, ValueError) as error:
            outcomes[type(error).__name__] += 1
    assert outcomes["read"] >= 8
    assert outcomes["ValueError"] >= 3  # an empty file and two broken ones
