# SPDX-License-Identifier: Apache-2.0
"""Overlapping crops cover a target, and put together they are what they were cut from."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.inference.stitching import Window, atoms_of, cut_distance, stitch, windows


@pytest.fixture(scope="module")
def entry():
    return Store(store_path()).entry("1c4q")


def moved(x, rng):
    """The points after a random rigid motion."""
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return x @ (rotation * np.sign(np.linalg.det(rotation))) + 50 * rng.normal(size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=60), st.integers(4, 30), st.data())
def test_windows_cover_all_tokens_and_cut_no_residue(sizes, size, data):
    overlap = data.draw(st.integers(3, size - 1))
    unit = np.repeat(np.arange(len(sizes)), sizes)
    found = windows(unit, size, overlap)
    assert found[0].start == 0
    assert found[-1].stop == len(unit)
    for window in found:
        assert 0 < window.stop - window.start <= max(size, max(sizes))
        for end in window:
            assert end in (0, len(unit)) or unit[end - 1] != unit[end]
    for first, second in pairwise(found):
        assert first.start < second.start <= first.stop < second.stop
        if max(sizes) == 1:
            assert first.stop - second.start >= overlap


def test_windows_by_hand():
    assert windows(np.arange(10), 6, 3) == [(0, 6), (3, 9), (4, 10)]
    assert windows(np.arange(6), 6, 3) == [(0, 6)]
    assert windows(np.array([0, 1, 2, 3, 3, 3, 4, 5]), 5, 3) == [(0, 3), (1, 6), (3, 8)]
    with pytest.raises(ValueError, match="got an overlap of 6 tokens, expected 3 to 5"):
        windows(np.arange(10), 6, 6)


def test_distance_to_the_cut():
    assert cut_distance(Window(0, 4), 10).tolist() == [3, 2, 1, 0]
    assert cut_distance(Window(3, 8), 10).tolist() == [0, 1, 2, 1, 0]
    assert cut_distance(Window(7, 10), 10).tolist() == [0, 1, 2]
    assert cut_distance(Window(0, 3), 3).tolist() == [3, 3, 3]


def test_stitched_crops_are_the_structure_that_they_were_cut_from(entry):
    rng = np.random.default_rng(0)
    tokens, x = entry.tokens, entry.structure.atom_coords + rng.normal(size=entry.structure.atom_coords.shape)
    crops = windows(tokens.token_residue, 96, 32)
    assert len(crops) > 5
    pieces = [x[atoms_of(window, tokens)] for window in crops]
    together = stitch(crops, [pieces[0], *(moved(piece, rng) for piece in pieces[1:])], tokens)
    np.testing.assert_allclose(together, x, atol=1e-3)  # in the first crop's frame


def test_the_middle_of_a_crop_counts_more_than_its_edge(entry):
    tokens = entry.tokens
    crops = [Window(0, 60), Window(20, len(tokens.token_residue))]
    x = [entry.structure.atom_coords[atoms_of(window, tokens)].copy() for window in crops]
    # token 57 is two tokens from the cut of the first crop and 37 from that of the second
    beside = np.setdiff1d(np.flatnonzero(tokens.atom_token == 57), tokens.token_centre)[0]  # not superposed
    x[0][beside, 2] += 1.0
    difference = stitch(crops, x, tokens) - entry.structure.atom_coords
    assert difference[beside, 2] == pytest.approx(3 / (3 + 38), abs=1e-4)
