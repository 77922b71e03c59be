# SPDX-License-Identifier: Apache-2.0
import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldwright.data.alignment_formats import Alignment, parse_a3m
from foldwright.data.msa import Msa, assemble, check_query, make_msa, paired_block, profile, query_msa
from foldwright.vocabulary import GAP, MSA_LETTERS, RESTYPE_INDEX, MoleculeType

PROTEIN, RNA = MoleculeType.PROTEIN, MoleculeType.RNA


def codes(sequence: str, kind: MoleculeType = PROTEIN) -> np.ndarray:
    return np.array([MSA_LETTERS[kind][letter] for letter in sequence], np.uint8)


def test_query_must_be_the_chain():
    chain, modified = codes("MKVL"), np.array([False, False, True, False])
    check_query(codes("MKVL"), chain, modified, PROTEIN)
    check_query(codes("MKXL"), chain, modified, PROTEIN)
    with pytest.raises(ValueError, match="residue 2 is UNK in the alignment, LYS in the chain"):
        check_query(codes("MXVL"), chain, modified, PROTEIN)
    with pytest.raises(ValueError, match=r"5 residues, the chain has 4; first difference at residue 1 "):
        check_query(codes("AMKVL"), chain, modified, PROTEIN)
    with pytest.raises(ValueError, match="one is a prefix"):
        check_query(codes("MKV"), chain, modified, PROTEIN)


def test_duplicates_go_and_the_profile_counts_the_rest():
    alignment = parse_a3m(b">q\nMK\n>a\nM-\n>b\nMK\n>c\nMaaa-\n>d\nAK\n", PROTEIN)
    msa = make_msa(alignment, codes("MK"), max_rows=2)
    np.testing.assert_array_equal(msa.rows, [codes("MK"), codes("M-")])
    expected = np.zeros((2, 32))
    expected[0, RESTYPE_INDEX["MET"]], expected[0, RESTYPE_INDEX["ALA"]] = 2 / 3, 1 / 3
    expected[1, RESTYPE_INDEX["LYS"]], expected[1, GAP] = 2 / 3, 1 / 3
    np.testing.assert_allclose(msa.profile, expected, rtol=1e-6)
    np.testing.assert_array_equal(msa.deletion_mean, [0, 0])


def test_mean_deletions_are_raw_while_counts_are_clipped():
    msa = make_msa(parse_a3m(b">q\nMK\n>a\nM" + b"a" * 300 + b"A\n", PROTEIN), codes("MK"), 10)
    assert msa.deletions[1].tolist() == [0, 255]
    assert msa.deletion_mean.tolist() == [0, 150]


def random_msa(depth: int, length: int, seed: int) -> Msa:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 20, (depth, length)).astype(np.uint8)
    deletions = rng.integers(0, 5, (depth, length)).astype(np.uint8)
    mean = deletions.mean(0).astype(np.float32)
    alone = query_msa(rows[0])
    return dataclasses.replace(
        alone, rows=rows, deletions=deletions, profile=profile(rows), deletion_mean=mean
    )


def rows_as_set(rows: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in rows}


def test_assembly_puts_chains_side_by_side_and_pads_the_shorter_with_gaps():
    deep, shallow = random_msa(6, 8, 1), random_msa(3, 4, 2)
    token_msa = np.array([0, 0, 0, -1, -1, 1, 1, 0], np.int32)  # a copy of chain 0 at the end
    column = np.array([2, 3, 3, 0, 0, 0, 3, 2], np.int32)  # 3, 3: an atomised residue repeats its column
    rng = np.random.default_rng(0)
    rows, deletions = assemble([deep, shallow], token_msa, column, 100, 2, rng, random_depth=False)
    expected = np.full((6, 8), GAP, np.uint8)
    expected[:, [0, 1, 2, 7]] = deep.rows[:, [2, 3, 3, 2]]
    expected[:3, [5, 6]] = shallow.rows[:, [0, 3]]
    assert rows.shape == deletions.shape == (2, 6, 8)
    for cycle in range(2):
        np.testing.assert_array_equal(rows[cycle, 0], expected[0])
        assert rows_as_set(rows[cycle]) == rows_as_set(expected)
    np.testing.assert_array_equal(deletions[0][:, 0], deep.deletions[:, 2])
    assert (deletions[:, :, 3:5] == 0).all()
    assert (deletions[:, 3:, 5:7] == 0).all()


def test_each_cycle_draws_other_rows_without_replacement_and_keeps_the_query():
    msa = random_msa(200, 30, 3)
    token_msa, column = np.zeros(30, np.int32), np.arange(30, dtype=np.int32)
    rows, _ = assemble([msa], token_msa, column, 16, 8, np.random.default_rng(1), random_depth=False)
    assert rows.shape == (8, 16, 30)
    drawn = [rows_as_set(cycle) for cycle in rows]
    assert all(len(cycle) == 16 for cycle in drawn)
    assert all(cycle[0].tobytes() == msa.rows[0].tobytes() for cycle in rows)
    assert len(set.union(*drawn)) > 60
    assert set.union(*drawn) <= rows_as_set(msa.rows)


def test_rows_empty_in_the_crop_are_replaced_by_others():
    msa = random_msa(101, 10, 4)
    msa.rows[1:91, :5] = GAP  # ninety rows do not reach the crop
    rows, _ = assemble(
        [msa], np.zeros(5, np.int32), np.arange(5, dtype=np.int32), 8, 3, np.random.default_rng(2), False
    )
    assert rows.shape == (3, 8, 5)
    assert (rows != GAP).any(axis=-1).all()


def test_random_depth_is_uniform_over_the_alignment():
    msa = random_msa(50, 6, 5)
    token_msa, column = np.zeros(6, np.int32), np.arange(6, dtype=np.int32)
    depths = [
        assemble([msa], token_msa, column, 100, 1, np.random.default_rng(seed), True)[0].shape[1]
        for seed in range(2000)
    ]
    assert min(depths) == 1
    assert max(depths) == 50
    assert np.mean(depths) == pytest.approx(25.5, abs=1.2)  # 3.7 standard errors


def test_only_ligands_give_one_row_of_gaps():
    rows, deletions = assemble(
        [], np.full(3, -1, np.int32), np.zeros(3, np.int32), 8, 2, np.random.default_rng(0), True
    )
    assert rows.shape == (2, 1, 3)
    assert (rows == GAP).all()
    assert (deletions == 0).all()


def with_paired(msa: Msa, paired_rows: np.ndarray) -> Msa:
    return dataclasses.replace(
        msa, paired_rows=paired_rows, paired_deletions=np.full_like(paired_rows, 7), deletions=msa.deletions
    )


def test_paired_rows_stand_side_by_side_before_the_chains_own():
    one, two, rna = random_msa(4, 5, 1), random_msa(3, 4, 2), random_msa(6, 3, 3)
    paired = [np.full((2, 5), 1, np.uint8), np.full((2, 4), 2, np.uint8)]
    paired[1][1] = GAP  # the second paired row has no sequence of the second protein
    msas = [with_paired(one, paired[0]), with_paired(two, paired[1]), rna]
    token_msa = np.array([0, 0, 1, 1, -1, 2, 0], np.int32)
    column = np.array([0, 4, 1, 3, 0, 2, 2], np.int32)
    rows, deletions = assemble(msas, token_msa, column, 100, 1, np.random.default_rng(0), random_depth=False)
    expected = np.full((1 + 2 + 5, 7), GAP, np.uint8)
    expected[0, [0, 1, 6]], expected[0, [2, 3]], expected[0, 5] = (
        one.rows[0, [0, 4, 2]],
        two.rows[0, [1, 3]],
        rna.rows[0, 2],
    )
    expected[1:3, [0, 1, 6]], expected[1, [2, 3]] = 1, 2
    expected[3:6, [0, 1, 6]] = one.rows[1:][:, [0, 4, 2]]
    expected[3:5, [2, 3]] = two.rows[1:][:, [1, 3]]
    expected[3:8, 5] = rna.rows[1:, 2]
    np.testing.assert_array_equal(rows[0], expected)
    assert (deletions[0, 1:3, [0, 1, 6]] == 7).all()
    assert (deletions[0, 1:3, 4:6] == 0).all()


def test_random_depth_cuts_the_chains_own_rows_alone():
    msa = with_paired(random_msa(50, 6, 5), np.ones((10, 6), np.uint8))
    token_msa, column = np.zeros(6, np.int32), np.arange(6, dtype=np.int32)
    for seed in range(50):
        rows, _ = assemble([msa], token_msa, column, 100, 1, np.random.default_rng(seed), random_depth=True)
        assert (rows[0] == 1).all(axis=1).sum() == 10
        assert (rows[0, 1:11] == 1).all()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_no_row_of_a_chains_own_repeats_another_or_a_paired_one(seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 3, (rng.integers(1, 60), 4)).astype(np.uint8)
    alignment = Alignment(rows, np.zeros(rows.shape, np.uint16), ("",) * len(rows))
    paired = paired_block(alignment, rng.integers(-1, len(rows), 10).astype(np.int32))
    limit = int(rng.integers(12, 40))
    msa = make_msa(alignment, rows[0], limit, paired)
    own = [row.tobytes() for row in msa.rows]
    assert own[0] == rows[0].tobytes()
    assert len(set(own)) == len(own)
    assert not set(own[1:]) & rows_as_set(msa.paired_rows)
    assert len(own) + len(msa.paired_rows) <= limit
    if len(own) + len(msa.paired_rows) < limit:
        assert set(own) | rows_as_set(msa.paired_rows) >= rows_as_set(rows)
    order = [np.flatnonzero((rows == row).all(axis=1))[0] for row in msa.rows]
    assert order == sorted(order)  # first ones kept, in the file's order
    unique = np.unique(rows, axis=0)
    np.testing.assert_allclose(msa.profile, profile(unique), rtol=1e-6)  # before pairing and truncation


def test_paired_blocks_are_gaps_where_a_species_is_missing():
    alignment = parse_a3m(b">q\nMK\n>a\nM" + b"a" * 300 + b"A\n", PROTEIN)
    rows, deletions = paired_block(alignment, np.array([1, -1], np.int32))
    np.testing.assert_array_equal(rows, [codes("MA"), codes("--")])
    assert deletions.tolist() == [[0, 255], [0, 0]]


def test_columns_that_were_not_read_are_refused():
    msa = dataclasses.replace(random_msa(3, 4, 0), columns=np.array([2, 3, 7, 8], np.int32))
    assert msa.find_columns(np.array([7, 2], np.int32)).tolist() == [2, 0]
    for missing in (0, 5, 9):
        with pytest.raises(ValueError, match="not among the 4 columns"):
            msa.find_columns(np.array([2, missing], np.int32))


def test_the_query_alone_is_its_own_profile():
    msa = query_msa(codes("MKM"))
    assert msa.rows.tolist() == [codes("MKM").tolist()]
    np.testing.assert_array_equal(msa.profile.argmax(1), codes("MKM"))
    assert (msa.profile.sum(1) == 1).all()


def test_assembly_takes_milliseconds():
    msa = random_msa(10_000, 500, 6)
    token_msa = np.repeat(np.array([0, 0], np.int32), 192)
    column = np.concatenate([np.arange(100, 292), np.arange(192)]).astype(np.int32)
    rng = np.random.default_rng(0)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assemble([msa], token_msa, column, 1024, 4, rng, True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1  # about 0.01 s on an idle core
