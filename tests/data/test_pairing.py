# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from foldwright.data.pairing import MAX_PAIRED, pair_rows


def naive(species, max_rows, max_per_species):
    """Spec 2.6 (a)-(f) of unique sequences, species by species, with lists."""
    names = list(dict.fromkeys(name for protein in species for name in protein[1:] if name))
    rows = []
    for name in names:
        hits = [[row for row in range(1, len(protein)) if protein[row] == name] for protein in species]
        proteins = sum(bool(rows_) for rows_ in hits)
        if proteins < 2:
            continue
        for rank in range(min(max_per_species, *(len(rows_) for rows_ in hits if rows_), 10**9)):
            picked = [rows_[rank] if rows_ else -1 for rows_ in hits]
            product = 1
            for row in picked:
                product *= row if row > 0 else 1
            rows.append((-proteins, product, picked, name))
    rows.sort(key=lambda row: row[:2])  # stable
    return [row[2] for row in rows[:max_rows]], [row[3] for row in rows[:max_rows]]


_PROTEIN = st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=1, max_size=25)


@given(
    st.lists(_PROTEIN, min_size=2, max_size=4),
    st.integers(1, 40),
    st.integers(1, 5),
)
@settings(max_examples=300, deadline=None)
def test_pairing_is_the_specifications(species, max_rows, max_per_species):
    pairing = pair_rows(species, max_rows, max_per_species)
    rows, names = naive(species, max_rows, max_per_species)
    assert pairing.rows.tolist() == rows
    assert list(pairing.species) == names


@given(st.lists(_PROTEIN, min_size=2, max_size=4))
@settings(max_examples=300, deadline=None)
def test_rows_never_mix_species_and_none_is_used_twice(species):
    pairing = pair_rows(species, max_per_species=3)
    assert len(pairing.rows) == len(pairing.species)
    assert max(Counter(pairing.species).values(), default=0) <= 3
    for row, name in zip(pairing.rows, pairing.species, strict=True):
        assert {species[protein][hit] for protein, hit in enumerate(row) if hit >= 0} == {name}
        assert (row >= 0).sum() >= 2
        assert (row != 0).all()  # the query is no hit
    for protein in range(len(species)):
        used = pairing.rows[:, protein]
        used = used[used >= 0]
        assert len(set(used.tolist())) == len(used)


@given(st.permutations(range(3)), st.lists(_PROTEIN, min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_the_order_of_the_proteins_decides_nothing_but_ties(order, species):
    rows = {tuple(row) for row in pair_rows(species, 10**6).rows[:, order].tolist()}
    assert rows == {
        tuple(row) for row in pair_rows([species[protein] for protein in order], 10**6).rows.tolist()
    }


def test_a_case_by_hand():
    one = ["", "human", "mouse", "human", "yeast", "fly"]
    two = ["", "mouse", "human", "human", "human"]
    three = ["", "human", "fly", "worm"]
    pairing = pair_rows([one, two, three])
    # human is in three chains, once in the third; mouse (2 x 1) and fly (5 x 2) in two; yeast and worm in one
    assert pairing.rows.tolist() == [[1, 2, 1], [2, 1, -1], [5, -1, 2]]
    assert pairing.species == ("human", "mouse", "fly")


def test_nothing_is_paired_for_one_protein_or_without_species():
    assert pair_rows([["", "a", "a"]]).rows.shape == (0, 1)
    assert pair_rows([["", "a"], ["", "b"]]).rows.shape == (0, 2)
    assert pair_rows([["", ""], [""]]).rows.shape == (0, 2)
    assert pair_rows([]).rows.shape == (0, 0)


def test_caps_of_the_paper():
    many = ["", *("a" for _ in range(1000)), *(f"s{i}" for i in range(20_000))]
    pairing = pair_rows([many, many])
    assert len(pairing.rows) == MAX_PAIRED == 8191
    assert Counter(pairing.species)["a"] == 600
    product = pairing.rows.astype(np.int64).prod(axis=1)
    assert (np.diff(product) >= 0).all()
