# SPDX-License-Identifier: Apache-2.0
"""Tokens of a hand-written entry, and invariants over real ones."""

from dataclasses import replace

import numpy as np
import pytest
from handmade import CORPUS, components_of, dictionary, mmcif_text

from foldwright.data.mmcif import read_structure
from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.data.structure import keep_chains
from foldwright.data.tokenize import tokenize
from foldwright.vocabulary import MoleculeType


@pytest.fixture(scope="module")
def hand(tmp_path_factory):
    path = tmp_path_factory.mktemp("hand") / "hand.cif"
    path.write_text(mmcif_text())
    structure = read_structure(path, dictionary())
    return structure, tokenize(structure, components_of(structure))


def named(structure, tokens, token):
    """(component, atom name or "") of a token."""
    residue = tokens.token_residue[token]
    atom = structure.atom_name[tokens.token_first_atom[token]] if tokens.token_atomised[token] else ""
    return str(structure.residue_component[residue]), str(atom)


def test_one_token_a_residue_or_an_atom(hand):
    s, t = hand
    first_chain = np.flatnonzero(t.token_chain == 0)
    # GLY MET ARG, the ten atoms of SEP, ASN ALA
    assert len(first_chain) == 3 + 10 + 2
    assert named(s, t, 3) == ("SEP", "N")
    sizes = np.diff(t.token_first_atom)
    assert (sizes[t.token_atomised] == 1).all()
    assert sizes.sum() == len(s.atom_name)
    assert (t.atom_token[t.token_first_atom[:-1]] == np.arange(len(sizes))).all()


def test_centre_and_representative(hand):
    s, t = hand
    special = {}
    for token in np.flatnonzero(~t.token_atomised):
        atoms = t.token_centre[token], t.token_representative[token]
        special[named(s, t, token)[0]] = tuple(s.atom_name[list(atoms)].tolist())
    assert special == {
        **dict.fromkeys(["MET", "ARG", "ASN", "ALA"], ("CA", "CB")),
        "GLY": ("CA", "CA"),
        **dict.fromkeys("GA", ("C1'", "C4")),
        "C": ("C1'", "C2"),
    }
    atomised = np.flatnonzero(t.token_atomised)
    assert (t.token_centre[atomised] == t.token_first_atom[atomised]).all()


def test_bonds_of_a_modified_residue(hand):
    s, t = hand
    pairs = {frozenset((named(s, t, i), named(s, t, j))) for i, j in t.token_bonds if max(i, j) < 15}
    serine = [("N", "CA"), ("CA", "CB"), ("CB", "OG"), ("CA", "C"), ("C", "O"), ("OG", "P"), ("P", "O1P"),
              ("P", "O2P"), ("P", "O3P")]  # fmt: skip
    expected = {frozenset((("SEP", a), ("SEP", b))) for a, b in serine}
    expected |= {frozenset((("ARG", ""), ("SEP", "N"))), frozenset((("SEP", "C"), ("ASN", "")))}
    assert pairs == expected


def test_glycosidic_bond(hand):
    s, t = hand
    crossing = [
        (named(s, t, i), named(s, t, j)) for i, j in t.token_bonds if t.token_chain[i] != t.token_chain[j]
    ]
    assert crossing == [(("ASN", ""), ("NAG", "C1"))] * 2
    for polymer, ligand in t.polymer_ligand_bonds:
        assert (s.atom_name[polymer], s.atom_name[ligand]) == ("ND2", "C1")
        assert s.chain_type[s.residue_chain[s.atom_residue[ligand]]] == MoleculeType.LIGAND


@pytest.mark.parametrize("name", ["1pfe", "1as5", "1ehz"])
def test_bonds_are_the_same_without_coordinates(name):
    """As in prediction; in 1pfe, a depsipeptide, a C is bonded to a serine's O in place of the next N."""
    store = Store(store_path())
    structure = store.entry(name).structure
    nothing = replace(
        structure,
        atom_coords=np.zeros_like(structure.atom_coords),
        atom_resolved=np.zeros_like(structure.atom_resolved),
    )
    shown, unseen = (tokenize(s, store.components).token_bonds for s in (structure, nothing))
    assert len(shown)
    np.testing.assert_array_equal(unseen, shown)


def test_missing_component(hand):
    s, _ = hand
    with pytest.raises(ValueError, match="'NAG'"):
        tokenize(s, {"SEP": components_of(s)["SEP"]})


def test_dropping_a_chain_drops_its_tokens(hand):
    s, t = hand
    keep = np.array([name != "A" for name in s.chain_name])
    fewer = tokenize(keep_chains(s, keep), components_of(s))
    kept = keep[t.token_chain]
    assert fewer.token_restype.tolist() == t.token_restype[kept].tolist()
    both = kept[t.token_bonds].all(axis=1)
    assert len(fewer.token_bonds) == both.sum()


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize("entry", ["1ehz", "1c4q", "1pfe", "4cup"])
def test_bonded_tokens_are_near(entry):
    """Every token bond between resolved atomised tokens is of covalent length in the experiment."""
    path = CORPUS / "mmcif" / f"{entry}.cif.gz"
    if not path.exists():
        pytest.skip(f"{entry} is not in the corpus")
    s = read_structure(path, dictionary())
    t = tokenize(s, components_of(s))
    ends = t.token_bonds[t.token_atomised[t.token_bonds].all(axis=1)]
    atoms = t.token_centre[ends]
    atoms = atoms[s.atom_resolved[atoms].all(axis=1)]
    distance = np.linalg.norm(s.atom_coords[atoms[:, 0]] - s.atom_coords[atoms[:, 1]], axis=1)
    assert len(distance) > 20
    assert distance.max() < 2.2
