# SPDX-License-Identifier: Apache-2.0
"""A target as overlapping crops, and the crops' predictions put together to one structure.

The crops are stretches in the order of the tokens: unlike the spatial crops of training they need no
coordinates, so a structure of any size can be predicted in this way. Each is laid on what is there already by
the token centres that both have, and blended with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foldwright.data.structure import Floats, Ints, Tokens
from foldwright.data.superpose import superpose


class Window(NamedTuple):
    """Tokens `start` to `stop`, without it."""

    start: int
    stop: int


def windows(unit: Ints, size: int, overlap: int) -> list[Window]:
    """Windows that cover all tokens, of `size` or a little less, neighbours sharing about `overlap`.

    unit [N], ascending: tokens of one residue or ligand stay together, and one that is larger than `size`
    makes its window larger. ValueError for an overlap that is not from 3 to size - 1.
    """
    if not 3 <= overlap < size:
        raise ValueError(f"got an overlap of {overlap} tokens, expected 3 to {size - 1} of crops of {size}")
    n = len(unit)
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(unit)) + 1, [n]])

    def at_most(token: int) -> int:
        return int(bounds[np.searchsorted(bounds, max(token, 0), "right") - 1])

    def at_least(token: int) -> int:
        return int(bounds[np.searchsorted(bounds, max(token, 0))])

    found: list[Window] = []
    start = 0
    while True:
        stop = max(at_most(start + size), at_least(start + 1))
        if stop == n:
            return [*found, Window(min(start, at_least(n - size)), n)]
        found.append(Window(start, stop))
        with_next_unit = min(at_least(at_least(stop + 1) - size), stop)
        start = max(at_most(stop - overlap), with_next_unit)


def cut_distance(window: Window, n_tokens: int) -> NDArray[np.int64]:
    """Tokens between each token of a window and the nearer of its ends that the target goes on beyond.

    0 beside a cut; n_tokens throughout where nothing was cut off.
    """
    places = np.arange(window.stop - window.start)
    left = places if window.start > 0 else np.full_like(places, n_tokens)
    right = places[::-1] if window.stop < n_tokens else np.full_like(places, n_tokens)
    return np.minimum(left, right)


def atoms_of(window: Window, tokens: Tokens) -> slice:
    """The window's atoms, which lie in one stretch as its tokens do."""
    return slice(int(tokens.token_first_atom[window.start]), int(tokens.token_first_atom[window.stop]))


def stitch(crops: Sequence[Window], coords: Sequence[Floats], tokens: Tokens) -> Floats:
    """One structure [L, 3] Å of predictions of overlapping windows, in order, in the frame of the first.

    An atom of several windows is at their mean. It counts by the distance to the cut, in the superposition by
    the lesser of both.
    """
    n_atoms, n_tokens = len(tokens.atom_token), len(tokens.token_residue)
    total, weight = np.zeros((n_atoms, 3)), np.zeros(n_atoms)
    for window, x in zip(crops, coords, strict=True):
        rows = atoms_of(window, tokens)
        centres = tokens.token_centre[window.start : window.stop]
        shared = centres[weight[centres] > 0]
        moved = np.asarray(x, np.float64)
        own = 1.0 + cut_distance(window, n_tokens)[tokens.atom_token[rows] - window.start]
        if len(shared):
            there = total[shared] / weight[shared, None]
            lesser = np.minimum(own[shared - rows.start], weight[shared])
            moved = superpose(moved[shared - rows.start], there, lesser)(moved)
        total[rows] += own[:, None] * moved
        weight[rows] += own
    return np.asarray(total / weight[:, None], np.float32)
