# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldwright.data.pairing import MAX_PAIRED, pair_rows


def naive(species, copies, max_rows, max_per_species):
    """Spec 2.6 (a)-(f), species by species, with lists."""
    names = list(dict.fromkeys(name for protein in species for name in protein[1:] if name))
    rows = []
    for name in names:
        hits = [[row for row in range(1, len(protein)) if protein[row] == name] for protein in species]
        chains = sum(count for rows_, count in zip(hits, copies, strict=True) if rows_)
        if chains < 2:
            continue
        for rank in range(min(max_per_species, *(len(rows_) for rows_ in hits if rows_), 10**9)):
            picked = [rows_[rank] if rows_ else -1 for rows_ in hits]
            product = 1
            for row, count in zip(picked, copies, strict=True):
                product *= row**count if row > 0 else 1
            rows.append((-chains, product, picked, name))
    rows.sort(key=lambda row: row[:2])  # stable
    return [row[2] for row in rows[:max_rows]], [row[3] for row in rows[:max_rows]]


_PROTEIN = st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=1, max_size=25)


@given(
    st.lists(st.tuples(_PROTEIN, st.integers(1, 3)), min_size=2, max_size=4),
    st.integers(1, 40),
    st.integers(1, 5),
)
@settings(max_examples=300, deadline=None)
def test_pairing_is_the_specifications(proteins, max_rows, max_per_species):
    species, copies = [protein for protein, _ in proteins], [count for _, count in proteins]
    pairing = pair_rows(species, copies, max_rows, max_per_species)
    rows, names = naive(species, copies, max_rows, max_per_species)
    assert pairing.rows.tolist() == rows
    assert list(pairing.species) == names


@given(st.lists(_PROTEIN, min_size=2, max_size=4))
@settings(max_examples=300, deadline=None)
def test_rows_never_mix_species_and_none_is_used_twice(species):
    pairing = pair_rows(species, [1] * len(species), max_per_species=3)
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


def test_a_case_by_hand():
    one = ["", "human", "mouse", "human", "yeast", "fly"]
    two = ["", "mouse", "human", "human", "human"]
    three = ["", "human", "fly", "worm"]
    pairing = pair_rows([one, two, three], [1, 1, 1])
    # human is in three chains, once in the third; mouse (2 x 1) and fly (5 x 2) in two; yeast and worm in one
    assert pairing.rows.tolist() == [[1, 2, 1], [2, 1, -1], [5, -1, 2]]
    assert pairing.species == ("human", "mouse", "fly")


def test_copies_of_a_protein_count_as_chains():
    one, two = ["", "fly", "human"], ["", "human"]
    assert pair_rows([one, two], [1, 1]).rows.tolist() == [[2, 1]]
    assert pair_rows([one, two], [2, 1]).rows.tolist() == [[2, 1], [1, -1]]  # three chains, then two


def test_nothing_is_paired_for_one_protein_or_without_species():
    assert pair_rows([["", "a", "a"]], [2]).rows.shape == (0, 1)
    assert pair_rows([["", "a"], ["", "b"]], [1, 1]).rows.shape == (0, 2)
    assert pair_rows([["", ""], [""]], [1, 1]).rows.shape == (0, 2)
    assert pair_rows([], []).rows.shape == (0, 0)
    with pytest.raises(ValueError, match="numbers of copies"):
        pair_rows([[""]], [])


def test_caps_of_the_paper():
    many = ["", *("a" for _ in range(1000)), *(f"s{i}" for i in range(20_000))]
    pairing = pair_rows([many, many], [1, 1])
    assert len(pairing.rows) == MAX_PAIRED == 8191
    assert Counter(pairing.species)["a"] == 600
    product = pairing.rows.astype(np.int64).prod(axis=1)
    assert (np.diff(product) >= 0).all()
