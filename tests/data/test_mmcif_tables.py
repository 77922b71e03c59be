# SPDX-License-Identifier: Apache-2.0
"""The tables read from one mmCIF file: assembly operators, header fallbacks, files without sequences."""

import re

import numpy as np
import pytest
from handmade import PROTEIN, dictionary, mmcif_text

from foldwright.data.mmcif import read_structure
from foldwright.data.mmcif_tables import operator_products, read_entry


def read_text(text, folder):
    path = folder / "hand.cif"
    path.write_text(text)
    return read_entry(path)


@pytest.mark.parametrize(("expression", "products"), [
    ("1", [("1",)]),
    ("1,3", [("1",), ("3",)]),
    ("(1-3)", [("1",), ("2",), ("3",)]),
    ("P", [("P",)]),
    ("(1,2)(X0)", [("1", "X0"), ("2", "X0")]),
    ("(1-2,5)(P,Q)", [(a, b) for a in ("1", "2", "5") for b in ("P", "Q")]),
])  # fmt: skip
def test_operator_products(expression, products):
    assert operator_products(expression) == products


def test_rightmost_operator_acts_first(tmp_path):
    """Operator 1 turned into a quarter turn about z; (1)(2) moves by 50 along x, then turns: x -> y."""
    text = mmcif_text().replace("\n1 1 0 0 0 1 0 0 0 1 0 0 0\n", "\n1 0 -1 0 1 0 0 0 0 1 0 0 0\n")
    entry = read_text(text.replace("1 1,2 A,C,D,E,F", "1 (1)(2) A"), tmp_path)
    (copy, _) = entry.placements
    np.testing.assert_allclose(copy.rotation @ [0, 0, 0] + copy.translation, [0, 50, 0])
    np.testing.assert_allclose(copy.rotation @ [3, 0, 0] + copy.translation, [0, 53, 0])


def test_identity_operator_without_numbers(tmp_path):
    item = "_pdbx_struct_oper_list"
    text = mmcif_text().replace(f"{item}.id\n", f"{item}.id\n{item}.type\n")
    text = text.replace("\n1 1 0 0 0 1 0 0 0 1 0 0 0\n", "\n1 'identity operation' ? ? ? ? ? ? ? ? ? ? ? ?\n")
    text = text.replace("\n2 1 0 0 0 1 0 0 0 1 50 0 0\n", "\n2 ? 1 0 0 0 1 0 0 0 1 50 0 0\n")
    assert len(read_text(text, tmp_path).placements) == 11
    with pytest.raises(ValueError, match="assembly operator 1"):
        read_text(text.replace("'identity operation'", "?"), tmp_path)


def test_older_header_items(tmp_path):
    text = mmcif_text().replace(
        "_pdbx_audit_revision_history.revision_date", "_pdbx_audit_revision_history.other"
    )
    text = text.replace("_refine.ls_d_res_high 1.75", "_em_3d_reconstruction.resolution 3.2\n"
                        "_database_PDB_rev.date 1997-05-06")  # fmt: skip
    entry = read_text(text, tmp_path)
    assert (entry.resolution, entry.release_date) == (3.2, "1997-05-06")
    bare = text.replace("_em_3d_reconstruction.resolution 3.2", "").replace("1997-05-06", "?")
    assert (read_text(bare, tmp_path).resolution, read_text(bare, tmp_path).release_date) == (0.0, "")


def test_hydrogens_waters_and_second_model_are_out(tmp_path):
    atoms = read_text(mmcif_text(), tmp_path).atoms
    assert "HOH" not in atoms.component
    assert "HA" not in atoms.name
    assert (atoms.asym == "A").sum() == mmcif_text().count(" A 1 ") - 2  # one hydrogen, one atom of model 2


def test_a_sequence_with_a_gap_in_its_numbers(tmp_path):
    with pytest.raises(ValueError, match="entity 1 is not numbered"):
        read_text(mmcif_text().replace("\n1 6 ALA\n", "\n1 8 ALA\n"), tmp_path)


def test_coordinates_alone_are_completed(tmp_path):
    """Without entities and sequences gemmi infers them from the residues present."""
    text = mmcif_text()
    atoms = text[text.index("loop_\n_atom_site.") :]
    atoms = re.sub(r"_atom_site\.label_entity_id", "_atom_site.auth_asym_id", atoms)
    path = tmp_path / "bare.cif"
    path.write_text(f"data_bare\n{atoms}")
    structure = read_structure(path, dictionary())
    expected = ["MET" if code == "MSE" else code for code in PROTEIN[:5]]
    assert expected in [structure.sequence(chain) for chain in range(len(structure.chain_name))]
