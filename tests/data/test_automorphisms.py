# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from handmade import dictionary

from foldwright.data.automorphisms import automorphisms, conjugated_terminals
from foldwright.data.conformers import build_molecule
from foldwright.vocabulary import RESIDUE_ATOMS


def table(code: str, limit: int = 1000) -> np.ndarray:
    whole = dictionary().with_hydrogens(code)
    return automorphisms(whole, build_molecule(whole), limit)


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("BNZ", 12),  # the dihedral group of the hexagon
        ("BEN", 4),  # ring flip x amidine
        ("PO4", 24),
        ("SO4", 24),
        ("GTP", 24),  # 3! of the last phosphate, 2 of each of the others
        ("ACT", 2),
        ("GOL", 2),
        ("NAG", 1),
        ("TLA", 8),  # R,R-tartaric acid: 2 x 2 carboxylates, and end for end
        ("SRT", 4),  # the meso form: its ends are mirror images
        ("ZN", 1),
        ("HEM", 4),  # the carboxylates of two propionates
    ],
)
def test_orders_of_known_groups(code, count):
    assert len(table(code)) == count


@pytest.mark.parametrize("code", ["ASP", "GLU", "PHE", "TYR"])
def test_four_standard_residues_have_a_swap(code):
    names = dictionary()[code].atom_name
    rows = table(code)
    assert rows[0].tolist() == list(range(len(names)))
    swaps = {(str(a), str(b)) for a, b in zip(names, names[rows[1]], strict=True) if a != b}
    expected = {"ASP": "OD1 OD2", "GLU": "OE1 OE2", "PHE": "CD1 CD2 CE1 CE2", "TYR": "CD1 CD2 CE1 CE2"}[code]
    first = expected.split()
    pairs = set(zip(first[::2], first[1::2], strict=True))
    assert swaps == pairs | {(b, a) for a, b in pairs}


def test_no_other_standard_residue_has_one():
    others = [code for code in RESIDUE_ATOMS if code not in ("ASP", "GLU", "PHE", "TYR")]
    assert all(len(table(code)) == 1 for code in others if code in dictionary())


@pytest.mark.parametrize("code", ["BEN", "GTP", "SRT", "HEM", "ATP", "SEP", "BGC", "TRS"])
def test_they_form_a_group_that_keeps_elements_and_bonds(code):
    whole = dictionary()[code]
    rows = table(code)
    known = {tuple(row) for row in rows.tolist()}
    assert rows[0].tolist() == list(range(rows.shape[1]))
    assert len(known) == len(rows)
    bonds = {frozenset(pair) for pair in whole.bonds.tolist()}
    for row in rows:
        assert (whole.atom_element[row] == whole.atom_element).all()
        assert {frozenset((int(row[a]), int(row[b]))) for a, b in whole.bonds.tolist()} == bonds
    for one in rows[:6]:
        assert {tuple(one[other].tolist()) for other in rows} == known


def test_a_limit_keeps_the_identity():
    rows = table("PO4", limit=5)
    assert rows.shape == (5, 5)
    assert rows[0].tolist() == [0, 1, 2, 3, 4]


def test_conjugated_terminals_are_those_with_a_double_bond_among_them():
    for code, expected in (
        ("BEN", "N1 N2"),
        ("GLU", "O"),
        ("ASP", "OD1 OD2"),
        ("GOL", ""),
        ("ARG", "NH1 NH2"),
    ):
        heavy = dictionary()[code]
        found = set(heavy.atom_name[conjugated_terminals(heavy)].tolist())
        assert set(expected.split()) <= found, code
        assert (not found) == (not expected)
