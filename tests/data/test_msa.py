# SPDX-License-Identifier: Apache-2.0
import gzip
import time

import numpy as np
import pytest

from foldwright.data.msa import Msa, assemble, check_query, make_msa, parse_a3m, profile, query_msa, read_a3m
from foldwright.vocabulary import GAP, MSA_LETTERS, RESTYPE_INDEX, MoleculeType

PROTEIN, RNA = MoleculeType.PROTEIN, MoleculeType.RNA


def codes(sequence: str, kind: MoleculeType = PROTEIN) -> np.ndarray:
    return np.array([MSA_LETTERS[kind][letter] for letter in sequence], np.uint8)


def parse_by_hand(text: str) -> tuple[list[str], list[list[int]]]:
    """The plainest a3m reader: letter by letter."""
    rows, deletions = [], []
    for record in text.split(">")[1:]:
        row, counts, pending = "", [], 0
        for letter in "".join(record.split("\n")[1:]):
            if letter.islower():
                pending += 1
            elif letter != ".":
                row, pending = row + letter, (counts.append(pending), 0)[1]
        rows.append(row)
        deletions.append(counts)
    return rows, deletions


TEXT = "# a comment\n>query\nMKVL\n>a b c\nM-VL\n>b\nmmMKaaaVLll\n>c\n.-k\n.KV-\n"


def test_parse_agrees_with_a_reader_by_hand():
    rows, deletions = parse_a3m(TEXT.encode(), PROTEIN)
    by_hand, counts = parse_by_hand(TEXT.replace("# a comment\n", ""))
    np.testing.assert_array_equal(rows, [codes(row) for row in by_hand])
    np.testing.assert_array_equal(deletions, counts)
    assert deletions[2].tolist() == [2, 0, 3, 0]
    assert deletions[3].tolist() == [0, 1, 0, 0]


def test_letters_of_af3():
    rows, _ = parse_a3m(b">q\nBZUJOX-A\n", PROTEIN)
    names = ["ASP", "GLU", "CYS", "UNK", "UNK", "UNK", "-", "ALA"]
    assert rows[0].tolist() == [RESTYPE_INDEX[name] for name in names]
    rows, _ = parse_a3m(b">q\nACGTUN\n", RNA)
    assert rows[0].tolist() == [RESTYPE_INDEX[name] for name in ["A", "C", "G", "U", "U", "N"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no sequence"),
        (">q\n\n>a\nMK\n", "no sequence"),
        (">q\nMKV\n>a\nMK\n", "got 2 aligned columns in sequence 2"),
        (">q\nMK1\n", "'1' in sequence 1"),
        (">q\nMKV\n>a\n", "got 0 aligned columns in sequence 2"),
    ],
)
def test_malformed_alignments_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_a3m(text.encode(), PROTEIN)


def test_read_plain_gzip_and_damaged_files(tmp_path):
    plain, packed, cut = tmp_path / "a.a3m", tmp_path / "a.a3m.gz", tmp_path / "cut.a3m.gz"
    plain.write_text(TEXT)
    packed.write_bytes(gzip.compress(TEXT.encode()))
    cut.write_bytes(packed.read_bytes()[:-20])
    np.testing.assert_array_equal(read_a3m(plain, PROTEIN)[0], read_a3m(packed, PROTEIN)[0])
    with pytest.raises(ValueError, match=r"cut\.a3m\.gz"):
        read_a3m(cut, PROTEIN)


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
    rows, deletions = parse_a3m(b">q\nMK\n>a\nM-\n>b\nMK\n>c\nMaaa-\n>d\nAK\n", PROTEIN)
    msa = make_msa(rows, deletions, codes("MK"), max_rows=2)
    np.testing.assert_array_equal(msa.rows, [codes("MK"), codes("M-")])
    expected = np.zeros((2, 32))
    expected[0, RESTYPE_INDEX["MET"]], expected[0, RESTYPE_INDEX["ALA"]] = 2 / 3, 1 / 3
    expected[1, RESTYPE_INDEX["LYS"]], expected[1, GAP] = 2 / 3, 1 / 3
    np.testing.assert_allclose(msa.profile, expected, rtol=1e-6)
    np.testing.assert_array_equal(msa.deletion_mean, [0, 0])


def test_mean_deletions_are_raw_while_counts_are_clipped():
    rows, deletions = parse_a3m(b">q\nMK\n>a\nM" + b"a" * 300 + b"A\n", PROTEIN)
    msa = make_msa(rows, deletions, codes("MK"), 10)
    assert msa.deletions[1].tolist() == [0, 255]
    assert msa.deletion_mean.tolist() == [0, 150]


def random_msa(depth: int, length: int, seed: int) -> Msa:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 20, (depth, length)).astype(np.uint8)
    deletions = rng.integers(0, 5, (depth, length)).astype(np.uint8)
    return Msa(rows, deletions, profile(rows), deletions.mean(0).astype(np.float32))


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
