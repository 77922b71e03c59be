# SPDX-License-Identifier: Apache-2.0
"""Filters on small structures made to trip one rule each."""

from dataclasses import replace

import numpy as np
import pytest
from handmade import CORPUS, dictionary

from foldwright.data.filters import CRYSTALLISATION_AIDS, FilterConfig, Rejection, clean, token_centres
from foldwright.data.mmcif import read_structure
from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.data.structure import Structure
from foldwright.data.truth import find_molecules
from foldwright.vocabulary import RESTYPE_INDEX, MoleculeType


def line(origin, count, step=3.8):
    return np.asarray(origin, np.float32) + step * np.arange(count)[:, None] * np.array([1, 0, 0], np.float32)


def build(chains, **header) -> Structure:
    """chains: (type, component, coordinates of one atom a residue)."""
    lengths = [len(xyz) for _, _, xyz in chains]
    total = sum(lengths)
    names = [chr(65 + i % 26) + str(i // 26) for i in range(len(chains))]
    chain = np.repeat(np.arange(len(chains)), lengths).astype(np.int32)
    kinds = np.array([kind for kind, _, _ in chains], np.uint8)
    components = np.repeat([code for _, code, _ in chains], lengths)
    atomised = kinds[chain] == MoleculeType.LIGAND
    fields = {
        "entry_id": "test", "release_date": "2000-01-01", "method": "X-RAY DIFFRACTION", "resolution": 2.0,
        "chain_name": np.array(names), "chain_entity": np.arange(len(chains), dtype=np.int32),
        "chain_sym": np.zeros(len(chains), np.int32), "chain_type": kinds, "residue_chain": chain,
        "residue_index": np.concatenate([np.arange(1, n + 1) for n in lengths]).astype(np.int32),
        "residue_component": components,
        "residue_restype": np.array([RESTYPE_INDEX.get(code, 20) for code in components], np.uint8),
        "residue_atomised": atomised, "atom_residue": np.arange(total, dtype=np.int32),
        "atom_name": np.where(atomised, "X1", "CA"), "atom_slot": np.where(atomised, 0, 1).astype(np.uint8),
        "atom_element": np.full(total, 6, np.uint8), "atom_charge": np.zeros(total, np.int8),
        "atom_coords": np.concatenate([xyz for _, _, xyz in chains]).astype(np.float32),
        "atom_resolved": np.ones(total, np.bool_), "bonds": np.zeros((0, 2), np.int32),
    }  # fmt: skip
    return Structure(**(fields | header))


PROTEIN, LIGAND = MoleculeType.PROTEIN, MoleculeType.LIGAND
GOOD = (PROTEIN, "ALA", line((0, 0, 0), 6))


def kept(structure, **options):
    cleaned, counts = clean(structure, FilterConfig(**options))
    return cleaned.chain_name.tolist(), counts


def test_nothing_to_drop():
    assert kept(build([GOOD, (PROTEIN, "GLY", line((0, 20, 0), 4))])) == (["A0", "B0"], {})


def test_unknown_chain():
    assert kept(build([GOOD, (PROTEIN, "UNK", line((0, 20, 0), 6))])) == (["A0"], {"unknown_chain": 1})


def test_fewer_than_four_resolved_residues():
    s = build([GOOD, (PROTEIN, "GLY", line((0, 20, 0), 5)), (LIGAND, "ZN", line((0, 40, 0), 1))])
    s.atom_resolved[6:8] = False
    assert kept(s) == (["A0", "C0"], {"short_chain": 1})


def test_break_of_more_than_ten_angstrom():
    broken = np.concatenate([line((0, 20, 0), 3), line((18, 20, 0), 3)])  # 7.6 to 18
    assert kept(build([GOOD, (PROTEIN, "GLY", broken)])) == (["A0"], {"chain_break": 1})
    gap = build([GOOD, (PROTEIN, "GLY", broken)])
    gap.residue_index[9:] += 1  # no longer consecutive
    assert kept(gap)[1] == {}


def test_of_clashing_chains_the_one_with_more_of_it_goes():
    near = (PROTEIN, "GLY", np.concatenate([line((0, 1, 0), 4), line((0, 9, 0), 0)]))
    assert kept(build([GOOD, near])) == (["A0"], {"clash": 1})  # 4 of 4 against 4 of 6
    assert kept(build([near, GOOD])) == (["B0"], {"clash": 1})
    assert kept(build([GOOD, GOOD])) == (["A0"], {"clash": 1})  # equal: the later one
    far = (PROTEIN, "GLY", line((0, 1.8, 0), 4))
    assert kept(build([GOOD, far]))[1] == {}


def test_bonded_atoms_do_not_clash():
    s = build([GOOD, (LIGAND, "ZN", line((0, 1.4, 0), 1))])
    assert kept(s)[1] == {"clash": 1}
    bonded = replace(s, bonds=np.array([[0, 6]], np.int32))
    cleaned, counts = clean(bonded, FilterConfig())
    assert counts == {}
    assert cleaned.bonds.tolist() == [[0, 6]]


def test_a_ligand_is_bonded_to_all_copies_of_a_polymer_or_to_none():
    away = (PROTEIN, "ALA", line((0, 30, 0), 6))
    ligands = [(LIGAND, "NAG", line((0, y, 0), 1)) for y in (1.9, 31.9)]
    dimer = build([GOOD, away, *ligands], chain_entity=np.array([0, 0, 1, 1], np.int32))

    def left(pairs, structure=dimer):
        cleaned, counts = clean(replace(structure, bonds=np.array(pairs, np.int32)), FilterConfig())
        assert sum(counts.values()) == counts.get("asymmetric_bond", 0) == len(pairs) - len(cleaned.bonds)
        return cleaned.bonds.tolist()

    assert left([[0, 12], [6, 13], [12, 13]]) == [[0, 12], [6, 13], [12, 13]]
    assert left([[0, 12], [12, 13]]) == [[12, 13]]
    assert left([[0, 12], [7, 13]]) == []  # at another residue of the copy
    different = replace(dimer, chain_entity=np.array([0, 2, 1, 1], np.int32))
    assert left([[0, 12]], different) == [[0, 12]]


def test_copies_with_unequal_glycans_are_interchangeable_once_cleaned():
    homodimer = Store(store_path()).entry("3o21").structure
    chain = homodimer.residue_chain[homodimer.atom_residue]
    of_one = homodimer.bonds[(chain[homodimer.bonds] == 0).any(axis=1)]
    assert 0 < len(of_one) < len(homodimer.bonds)
    glycosylated_once = replace(homodimer, bonds=of_one)

    def polymers(structure):
        return [molecule.signature for molecule in find_molecules(structure) if molecule.is_polymer]

    before = polymers(glycosylated_once)
    assert before[0] != before[1]
    cleaned, counts = clean(glycosylated_once, FilterConfig(clash_fraction=1.0))
    assert counts == {"asymmetric_bond": len(of_one)}
    after = polymers(cleaned)
    assert after[0] == after[1]


def test_crystallisation_aids_only_in_crystals():
    s = build([GOOD, (LIGAND, "GOL", line((0, 20, 0), 1)), (LIGAND, "ZN", line((0, 30, 0), 1))])
    assert kept(s) == (["A0", "C0"], {"crystallisation_aid": 1})
    for method in ("NEUTRON DIFFRACTION", "ELECTRON CRYSTALLOGRAPHY", "FIBER DIFFRACTION"):
        assert kept(replace(s, method=method))[1] == {"crystallisation_aid": 1}, method
    for method in ("SOLUTION NMR", "ELECTRON MICROSCOPY"):
        assert kept(replace(s, method=method))[1] == {}, method
    assert len(CRYSTALLISATION_AIDS) == 16


def test_the_nearest_chains_of_a_large_assembly():
    s = build([(PROTEIN, "ALA", line((0, 9 * i, 0), 5)) for i in range(30)])
    names, counts = kept(s, max_chains=8)
    assert counts == {"distant_chain": 22}
    rows = sorted(s.chain_name.tolist().index(name) for name in names)
    assert rows == list(range(rows[0], rows[0] + 8))  # a contiguous patch of the row of chains
    assert kept(s, max_chains=8)[0] == names
    assert any(kept(s, max_chains=8, seed=seed)[0] != names for seed in range(1, 5))


def test_copies_are_numbered_anew():
    labels = {"chain_entity": np.array([0, 1, 1], np.int32), "chain_sym": np.array([0, 0, 1], np.int32)}
    s = build([(PROTEIN, "UNK", line((0, 20, 0), 6)), GOOD, (PROTEIN, "ALA", line((0, 40, 0), 6))], **labels)
    cleaned, _ = clean(s, FilterConfig())
    assert cleaned.chain_entity.tolist() == [0, 0]
    assert cleaned.chain_sym.tolist() == [0, 1]
    assert cleaned.residue_chain.tolist() == [0] * 6 + [1] * 6
    assert cleaned.atom_residue.tolist() == list(range(12))


@pytest.mark.parametrize(("header", "options", "reason"), [
    ({"resolution": 9.5}, {}, "resolution"),
    ({"resolution": 0.0}, {"require_resolution": True}, "resolution"),
    ({}, {"released_before": "2000-01-01"}, "release_date"),
    ({"release_date": ""}, {"released_before": "2021-09-30"}, "release_date"),
    ({}, {"max_polymer_chains": 0}, "too_many_chains"),
    ({}, {"min_resolved_residues": 7}, "no_chains"),
])  # fmt: skip
def test_rejections(header, options, reason):
    with pytest.raises(Rejection) as caught:
        clean(build([GOOD], **header), FilterConfig(**options))
    assert caught.value.reason == reason


def test_token_centres_are_resolved_ones():
    s = build([GOOD, (LIGAND, "ZN", line((0, 20, 0), 1))])
    s.atom_resolved[0] = False
    centres, chain = token_centres(s)
    assert chain.tolist() == [0] * 5 + [1]
    np.testing.assert_array_equal(centres, s.atom_coords[1:])


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.is_dir(), reason="../shared/data is absent")
def test_cleaning_is_idempotent():
    for entry in ("1hho", "488d", "5g35", "1uw6"):
        structure = read_structure(CORPUS / "mmcif" / f"{entry}.cif.gz", dictionary())
        once, _ = clean(structure, FilterConfig())
        twice, counts = clean(once, FilterConfig())
        assert counts == {}
        assert twice.chain_name.tolist() == once.chain_name.tolist()
