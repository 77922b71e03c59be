# SPDX-License-Identifier: Apache-2.0
"""TM-score of points whose correspondence is known (Zhang and Skolnick 2004).

The superposition that maximises it is sought from windows of the chain, of all its length down to four
points, each refined on the points that lie within a distance of d0: the search of the TM-score program. It is
not exhaustive: a lower bound.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foldwright.data.superpose import Motion, Points, superpose

_ROUNDS = 20
_MIN_WINDOW = 4
_SMALLEST_D0 = 0.5  # Å


def tm_d0(length: int) -> float:
    """The length scale in Å of `length` residues, as the program has it: 0.5 Å at least."""
    if length <= 21:
        return _SMALLEST_D0
    return max(_SMALLEST_D0, float(1.24 * (length - 15) ** (1 / 3) - 1.8))


def tm_score(moving: NDArray[np.floating], fixed: NDArray[np.floating], length: int | None = None) -> float:
    """TM-score of points [n, 3] Å superposed on others; `length` is the true chain's, n if None.

    Raises ValueError for unequal shapes or fewer than three points.
    """
    x, y = np.asarray(moving, np.float64), np.asarray(fixed, np.float64)
    if x.shape != y.shape or len(x) < 3:
        raise ValueError(f"got {x.shape} and {y.shape}, expected equal shapes of at least three points")
    length = length or len(x)
    d0 = tm_d0(length)
    return max(_refined(x, y, window, d0) for window in _windows(len(x))) / length


def _windows(n: int) -> list[slice]:
    windows = [slice(0, n)]
    size = n // 2
    while size >= _MIN_WINDOW:
        step = max(1, size // 2) if n > 100 else 1
        windows += [slice(start, start + size) for start in range(0, n - size + 1, step)]
        size //= 2
    return windows


def _refined(x: Points, y: Points, window: slice, d0: float) -> float:
    """The best sum of terms on the way from a window's superposition to one that no longer changes."""
    motion, kept = superpose(x[window], y[window]), np.zeros(len(x), np.bool_)
    best = 0.0
    for _ in range(_ROUNDS):
        distance = _distance(motion, x, y)
        best = max(best, float((1 / (1 + (distance / d0) ** 2)).sum()))
        within = distance < _reach(distance, d0)
        if within.sum() < 3 or np.array_equal(within, kept):
            break
        motion, kept = superpose(x[within], y[within]), within
    return best


def _reach(distance: Points, d0: float) -> float:
    """How near points have to be: d0, bounded to 4.5 to 8 Å, and wider until three are."""
    reach = min(max(d0, 4.5), 8.0)
    while (distance < reach).sum() < 3 and reach < distance.max():
        reach += 0.5
    return reach


def _distance(motion: Motion, x: Points, y: Points) -> Points:
    return np.asarray(np.linalg.norm(motion(x) - y, axis=1))


def aligned_rmsd(moving: NDArray[np.floating], fixed: NDArray[np.floating]) -> float:
    """RMSD in Å of points [n, 3] after the best superposition; NaN without points."""
    if not len(moving):
        return float("nan")
    difference = superpose(moving, fixed)(moving) - np.asarray(fixed, np.float64)
    return float(np.sqrt((difference**2).sum(axis=1).mean()))
