# SPDX-License-Identifier: Apache-2.0
"""How well confidences tell the truth: predicted against observed, in bins and as one figure.

pLDDT against each atom's LDDT, PAE against the aligned error of each pair (capped at its last bin), ipTM
against DockQ. The expected calibration error is the mean over all values of the distance between a bin's mean
prediction and its mean observation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]


@dataclass
class Calibration:
    """Bins [k] with any value: their number of values, mean prediction and mean observation."""

    count: NDArray[np.int64]
    predicted: Values
    observed: Values
    correlation: float  # Pearson's, of single values; NaN where either is constant

    @property
    def error(self) -> float:
        """Expected calibration error, in the units of the values; NaN without any."""
        if not len(self.count):
            return float("nan")
        return float((self.count * np.abs(self.predicted - self.observed)).sum() / self.count.sum())


def calibrate(predicted: NDArray[np.floating], observed: NDArray[np.floating], edges: Values) -> Calibration:
    """Bins by prediction at edges [k + 1]; what lies outside counts for the first or last bin.

    predicted, observed: [n]; pairs with NaN are left out.
    """
    known = np.isfinite(predicted) & np.isfinite(observed)
    p, o = np.asarray(predicted[known], np.float64), np.asarray(observed[known], np.float64)
    bins = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(bins, minlength=len(edges) - 1)
    used = count > 0
    means = [np.bincount(bins, weights=w, minlength=len(count))[used] / count[used] for w in (p, o)]
    varied = len(p) > 1 and np.ptp(p) > 0 and np.ptp(o) > 0
    correlation = float(stats.pearsonr(p, o).statistic) if varied else float("nan")
    return Calibration(count[used], means[0], means[1], correlation)
