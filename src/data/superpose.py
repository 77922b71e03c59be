# SPDX-License-Identifier: Apache-2.0
"""Superposition of point sets, and the GDT of a prediction: what decides whether it fits an experiment.

GDT_TS is the mean, over 1, 2, 4 and 8 Å, of the largest share of CA atoms that one superposition brings
within the distance (Zemla, LGA). The search starts from all points and from windows of them, as LGA's does,
and is not exhaustive: it gives a lower bound.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GDT_CUTOFFS = (1.0, 2.0, 4.0, 8.0)  # Å
_ROUNDS = 8  # refinements of one superposition on the points within reach
Points = NDArray[np.float64]


class Motion(NamedTuple):
    """x -> x rotation + shift."""

    rotation: Points
    shift: Points

    def __call__(self, x: NDArray[np.floating]) -> Points:
        return np.asarray(x, np.float64) @ self.rotation + self.shift


class Gdt(NamedTuple):
    """GDT_TS, 0 to 100, and the one superposition that is best over all cutoffs together."""

    score: float
    motion: Motion


def superpose(
    moving: NDArray[np.floating], fixed: NDArray[np.floating], weights: NDArray[np.floating] | None = None
) -> Motion:
    """The rigid motion of `moving` [n, 3] with the least squared distance to `fixed` (Kabsch, n >= 1).

    weights [n]: of the squared distances, above zero; all equal if None.
    """
    x, y = np.asarray(moving, np.float64), np.asarray(fixed, np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    centre, other = np.average(x, axis=0, weights=w), np.average(y, axis=0, weights=w)
    u, _, vt = np.linalg.svd((x - centre).T @ (w[:, None] * (y - other)))
    sign = np.sign(np.linalg.det(u @ vt))
    rotation = u @ np.diag([1.0, 1.0, sign]) @ vt
    return Motion(rotation, other - centre @ rotation)


def gdt(moving: NDArray[np.floating], fixed: NDArray[np.floating]) -> Gdt:
    """GDT_TS of a prediction's CA atoms [n, 3] Å against the experiment's; ValueError for n < 3."""
    x, y = np.asarray(moving, np.float64), np.asarray(fixed, np.float64)
    if len(x) < 3 or x.shape != y.shape:
        raise ValueError(f"got {x.shape} and {y.shape}, expected equal shapes of at least three points")
    shares = np.zeros(len(GDT_CUTOFFS))
    best, best_total = superpose(x, y), -1.0
    for seed in _seeds(len(x)):
        for number, cutoff in enumerate(GDT_CUTOFFS):
            motion, within = _refined(x, y, seed, cutoff)
            shares[number] = max(shares[number], within)
            total = float((_distances(motion, x, y)[:, None] <= GDT_CUTOFFS).mean())
            if total > best_total:
                best, best_total = motion, total
    return Gdt(100.0 * float(shares.mean()), best)


def _seeds(n: int) -> list[slice]:
    """All points, and windows of a half, a quarter and an eighth of them, overlapping by half."""
    seeds = [slice(0, n)]
    for parts in (2, 4, 8):
        size = max(3, n // parts)
        seeds += [slice(start, start + size) for start in range(0, n - size + 1, max(1, size // 2))]
    return seeds


def _refined(x: Points, y: Points, seed: slice, cutoff: float) -> tuple[Motion, float]:
    """From the superposition of a window on to that of all points within the cutoff, until it settles."""
    motion, kept = superpose(x[seed], y[seed]), np.zeros(len(x), np.bool_)
    best, best_share = motion, -1.0
    for _ in range(_ROUNDS):
        within = _distances(motion, x, y) <= cutoff
        if within.mean() > best_share:
            best, best_share = motion, float(within.mean())
        if within.sum() < 3 or np.array_equal(within, kept):
            break
        motion, kept = superpose(x[within], y[within]), within
    return best, best_share


def _distances(motion: Motion, x: Points, y: Points) -> Points:
    return np.asarray(np.linalg.norm(motion(x) - y, axis=1))
