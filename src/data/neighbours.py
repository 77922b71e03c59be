# SPDX-License-Identifier: Apache-2.0
"""All pairs of points within a radius, by sorting points into cubic cells of that size."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from foldwright.data.structure import Floats

_OFFSETS = np.array(list(product((-1, 0, 1), repeat=3)), np.int64)


def pairs_within(
    points: Floats, others: Floats, radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs (i, j) with |points[i] - others[j]| < radius.

    points [P, 3], others [Q, 3] and radius in Å; returns i [K], j [K] and distances [K], in no given order.
    Memory grows with the pairs in neighbouring cells: about 6 times those found.
    """
    if radius <= 0:
        raise ValueError(f"got a radius of {radius} Å, expected a positive one")
    if not len(points) or not len(others):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    origin = np.minimum(points.min(axis=0), others.min(axis=0)).astype(np.float64)
    cells = np.floor((others - origin) / radius).astype(np.int64) + 1
    wanted = np.floor((points - origin) / radius).astype(np.int64) + 1
    extent = np.maximum(cells.max(axis=0), wanted.max(axis=0)) + 2
    weights = np.array([extent[1] * extent[2], extent[2], 1])
    order = np.argsort(cells @ weights, kind="stable")
    keys = (cells @ weights)[order]
    found = []
    for offset in _OFFSETS:
        target = (wanted + offset) @ weights
        begin, end = np.searchsorted(keys, target), np.searchsorted(keys, target, side="right")
        i, place = _ranges(begin, end)
        j = order[place]
        distance = np.sqrt(((points[i].astype(np.float64) - others[j]) ** 2).sum(axis=1))
        near = distance < radius
        found.append((i[near], j[near], distance[near]))
    first, second, distances = zip(*found, strict=True)
    return np.concatenate(first), np.concatenate(second), np.concatenate(distances)


def _ranges(begin: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row number and value of every integer of the half-open ranges begin[i] .. end[i]."""
    lengths = end - begin
    rows = np.repeat(np.arange(len(begin)), lengths)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return rows, begin[rows] + within
