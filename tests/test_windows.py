# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.windows import key_mask, key_windows, query_windows


def test_windows_hold_the_atoms_the_paper_says():
    atoms = torch.arange(1, 161)[None, :, None]
    queries, keys = query_windows(atoms), key_windows(atoms)
    assert queries.shape == (1, 5, 32, 1)
    assert keys.shape == (1, 5, 128, 1)
    for w in range(5):
        assert queries[0, w, :, 0].tolist() == list(range(32 * w + 1, 32 * w + 33))
        expected = [i + 1 if 0 <= i < 160 else 0 for i in range(32 * w - 48, 32 * w + 80)]
        assert keys[0, w, :, 0].tolist() == expected


def test_keys_beyond_the_ends_and_padding_atoms_are_masked():
    mask = torch.arange(96)[None] < 70
    expected = [sum(0 <= i < 70 for i in range(32 * w - 48, 32 * w + 80)) for w in range(3)]
    assert key_mask(mask).sum(-1)[0].tolist() == expected


def test_an_atom_axis_off_the_window_is_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        query_windows(torch.zeros(1, 40, 2))
