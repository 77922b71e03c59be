# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest

from foldwright.data.alignment_formats import Alignment
from foldwright.data.msa import Msa, assemble, make_msa
from foldwright.data.msa_blocks import BLOCK, decode_msa, encode_msa

LENGTH = 3 * BLOCK + 8


@pytest.fixture(scope="module")
def msa() -> Msa:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 22, (90, LENGTH)).astype(np.uint8)
    deletions = rng.integers(0, 4, rows.shape).astype(np.uint16)
    paired = (rng.integers(0, 22, (7, LENGTH)).astype(np.uint8), np.ones((7, LENGTH), np.uint8))
    return make_msa(Alignment(rows, deletions, ("",) * 90), rows[0], 1000, paired)


def test_all_columns_come_back(msa):
    head, blocks = encode_msa(msa)
    assert len(blocks) == 4
    again = decode_msa(head, blocks.__getitem__)
    for field in dataclasses.fields(Msa):
        one, two = getattr(msa, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(one, two, err_msg=field.name)
        assert one.dtype == two.dtype


def test_only_the_blocks_needed_are_read_and_a_crop_is_the_same(msa):
    head, blocks = encode_msa(msa)
    read = []
    columns = np.array([5, 6, BLOCK - 1, 3 * BLOCK + 7], np.int32)
    part = decode_msa(head, lambda number: (read.append(number), blocks[number])[1], columns)
    assert read == [0, 3]
    assert part.rows.shape == (90, BLOCK + 8)
    np.testing.assert_array_equal(part.profile, msa.profile[part.columns])
    drawn = [
        assemble([m], np.zeros(4, np.int32), m.find_columns(columns), 20, 3, np.random.default_rng(1), True)
        for m in (msa, part)
    ]
    for one, two in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, two)


def test_columns_must_exist(msa):
    head, blocks = encode_msa(msa)
    for columns in ([], [-1], [LENGTH]):
        with pytest.raises(ValueError, match="expected some of"):
            decode_msa(head, blocks.__getitem__, np.array(columns, np.int64))
    with pytest.raises(ValueError, match="expected"):
        decode_msa(head, lambda number: blocks[3], [0])
