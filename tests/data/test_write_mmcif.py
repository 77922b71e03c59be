# SPDX-License-Identifier: Apache-2.0
"""What is written is read back the same: by our reader, by gemmi and by biotite."""

from dataclasses import fields

import gemmi
import numpy as np
import pytest
from biotite.structure.io import pdbx
from handmade import CORPUS, dictionary, mmcif_text

from foldwright.data.mmcif import read_structure
from foldwright.data.write_mmcif import write_structure
from foldwright.vocabulary import ELEMENTS


@pytest.fixture(scope="module")
def hand(tmp_path_factory):
    path = tmp_path_factory.mktemp("hand") / "hand.cif"
    path.write_text(mmcif_text())
    return read_structure(path, dictionary())


def predicted(structure):
    """Coordinates for every atom, so that unresolved ones are written too; bonded atoms stay near."""
    rng = np.random.default_rng(0)
    coords = rng.uniform(-99, 99, size=structure.atom_coords.shape).astype(np.float32)
    coords[structure.bonds[:, 1]] = coords[structure.bonds[:, 0]] + 1
    return coords


def assert_equal(first, second, but=()):
    for field in fields(first):
        if field.name in but:
            continue
        a, b = getattr(first, field.name), getattr(second, field.name)
        if field.name == "atom_coords":
            np.testing.assert_allclose(a, b, atol=1e-3)
        else:
            np.testing.assert_array_equal(a, b, err_msg=field.name)


@pytest.mark.parametrize("ending", [".cif", ".cif.gz"])
def test_experimental_atoms_round_trip(hand, tmp_path, ending):
    path = tmp_path / f"out{ending}"
    write_structure(hand, hand.atom_coords, path, mask=hand.atom_resolved)
    assert_equal(hand, read_structure(path, dictionary()))


def test_prediction_round_trip(hand, tmp_path):
    path, coords = tmp_path / "out.cif", predicted(hand)
    write_structure(hand, coords, path, dictionary())
    back = read_structure(path, dictionary())
    assert_equal(hand, back, but=("atom_coords", "atom_resolved"))
    assert back.atom_resolved.all()
    # the reader calls the guanidinium nitrogen nearer to CD NH1, which random coordinates do not heed
    plain = ~np.isin(hand.atom_name, ("NH1", "NH2"))
    np.testing.assert_allclose(back.atom_coords[plain], coords[plain], atol=1e-3)


def test_gemmi_reads_names_sequences_and_bonds(hand, tmp_path):
    path, coords = tmp_path / "out.cif", predicted(hand)
    write_structure(hand, coords, path, b_factors=np.arange(len(coords), dtype=np.float32))
    model = gemmi.read_structure(str(path))
    atoms = [(c.name, r.name, a.name, a.element.name, a.pos.tolist(), a.b_iso)
             for c in model[0] for r in c for a in r]  # fmt: skip
    chain = hand.residue_chain[hand.atom_residue]
    assert [atom[0] for atom in atoms] == hand.chain_name[chain].tolist()
    assert [atom[1] for atom in atoms] == hand.residue_component[hand.atom_residue].tolist()
    assert [atom[2] for atom in atoms] == hand.atom_name.tolist()
    assert [atom[3] for atom in atoms] == [ELEMENTS[number] for number in hand.atom_element]
    np.testing.assert_allclose([atom[4] for atom in atoms], coords, atol=1e-3)
    assert [atom[5] for atom in atoms] == list(range(len(atoms)))
    protein = model.get_entity("1")
    assert protein.entity_type == gemmi.EntityType.Polymer
    assert protein.polymer_type == gemmi.PolymerType.PeptideL
    assert protein.full_sequence == ["GLY", "MET", "ARG", "SEP", "ASN", "ALA"]
    assert [e.entity_type for e in model.entities[1:3]] == [
        gemmi.EntityType.Branched,
        gemmi.EntityType.NonPolymer,
    ]
    assert len(model.connections) == len(hand.bonds)
    for connection, (i, j) in zip(model.connections, hand.bonds, strict=True):
        found = [model[0].find_cra(partner).atom for partner in (connection.partner1, connection.partner2)]
        np.testing.assert_allclose([atom.pos.tolist() for atom in found], coords[[i, j]], atol=1e-3)


def test_biotite_reads_atoms_and_sequence(hand, tmp_path):
    path, coords = tmp_path / "out.cif", predicted(hand)
    write_structure(hand, coords, path)
    file = pdbx.CIFFile.read(path)
    for author in (False, True):
        atoms = pdbx.get_structure(file, model=1, use_author_fields=author)
        assert atoms.atom_name.tolist() == hand.atom_name.tolist()
        assert atoms.res_name.tolist() == hand.residue_component[hand.atom_residue].tolist()
        np.testing.assert_allclose(atoms.coord, coords, atol=1e-3)
    sequences = pdbx.get_sequence(file)
    assert str(sequences["A"]) == "GMRSNA"
    assert str(sequences["A-2"]) == "GMRSNA"


def test_biotite_finds_the_bonds_within_standard_residues_beside_others(tmp_path):
    path, known = tmp_path / "out.cif", dictionary()
    (tmp_path / "hand.cif").write_text(mmcif_text())
    structure = read_structure(tmp_path / "hand.cif", known)
    assert structure.residue_atomised.any()
    write_structure(structure, predicted(structure), path, known)
    atoms = pdbx.get_structure(pdbx.CIFFile.read(path), model=1, use_author_fields=False, include_bonds=True)
    found = {
        (str(atoms.res_name[i]), *sorted((str(atoms.atom_name[i]), str(atoms.atom_name[j]))))
        for i, j, _ in atoms.bonds.as_array()
        if atoms.res_id[i] == atoms.res_id[j] and atoms.chain_id[i] == atoms.chain_id[j]
    }
    standard = structure.residue_component[~structure.residue_atomised]
    for code in sorted(set(standard.tolist())):
        definition = known[code]
        present = set(
            structure.atom_name[structure.residue_component[structure.atom_residue] == code].tolist()
        )
        for i, j in definition.bonds.tolist():
            names = sorted((str(definition.atom_name[i]), str(definition.atom_name[j])))
            if present.issuperset(names):
                assert (code, *names) in found


def test_wrong_sizes_and_nan(hand, tmp_path):
    with pytest.raises(ValueError, match="expected"):
        write_structure(hand, hand.atom_coords[:-1], tmp_path / "x.cif")
    coords = hand.atom_coords.copy()
    coords[0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        write_structure(hand, coords, tmp_path / "x.cif")
    write_structure(hand, coords, tmp_path / "x.cif", mask=np.arange(len(coords)) > 0)


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize("entry", ["1ehz", "1c4q", "1pfe", "6lu7", "104d", "1lcd", "1hho"])
def test_real_entries_round_trip(entry, tmp_path):
    path = CORPUS / "mmcif" / f"{entry}.cif.gz"
    if not path.exists():
        pytest.skip(f"{entry} is not in the corpus")
    structure = read_structure(path, dictionary())
    write_structure(structure, structure.atom_coords, tmp_path / "out.cif", mask=structure.atom_resolved)
    assert_equal(structure, read_structure(tmp_path / "out.cif", dictionary()))
