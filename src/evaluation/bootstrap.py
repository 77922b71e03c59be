# SPDX-License-Identifier: Apache-2.0
"""Intervals of means, and whether a run is better than another on the same targets, by resampling these."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 2000
LEVEL = 0.95
Values = NDArray[np.float64]


class Interval(NamedTuple):
    """A mean over n targets and its percentile interval of 95 %; NaN without any."""

    mean: float
    low: float
    high: float
    n: int

    def text(self) -> str:
        """As tables show it: without an interval where resampling one target would only repeat it."""
        spread = f" [{self.low:.3f}, {self.high:.3f}]" if self.n > 1 else ""
        return f"{self.mean:.3f}{spread}"


class Comparison(NamedTuple):
    """The mean of paired differences with its interval, and a two-sided bootstrap p-value.

    Resamples of few targets all have one sign too easily, so no p-value is below the smallest that flipping
    the signs of n differences could give, 2^(1 - n): one target decides nothing.
    """

    difference: Interval
    p_value: float


def mean_interval(values: NDArray[np.floating], rng: np.random.Generator) -> Interval:
    """Of values [n], one a target; those that are NaN do not count."""
    known = np.asarray(values, np.float64)[np.isfinite(values)]
    if not len(known):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    low, high = np.quantile(_means(known, rng), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(known.mean()), float(low), float(high), len(known))


def compare(
    first: NDArray[np.floating], second: NDArray[np.floating], rng: np.random.Generator
) -> Comparison:
    """second - first, of values [n] of the same targets in one order; NaN in either leaves a target out."""
    difference = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    known = difference[np.isfinite(difference)]
    if not len(known):
        return Comparison(mean_interval(known, rng), float("nan"))
    means = _means(known, np.random.default_rng(int(rng.integers(2**63))))
    below, above = (means <= 0).mean(), (means >= 0).mean()
    p_value = min(1.0, 2 * max(min(below, above), 1 / N_RESAMPLES, 0.5 ** len(known)))
    return Comparison(mean_interval(known, rng), float(p_value))


def _means(values: Values, rng: np.random.Generator) -> Values:
    drawn = rng.integers(len(values), size=(N_RESAMPLES, len(values)))
    return np.asarray(values[drawn].mean(axis=1), np.float64)
