# SPDX-License-Identifier: Apache-2.0
"""How well affinities are predicted, assay by assay, and what two baselines without a network reach.

Source: spec 6 and 9. Assays have offsets of their own, so correlations and the centred error are taken within
each and averaged over assays, every assay alike; only exact values count. Average precision and enrichment
judge labels of binding. Baselines see the training rows alone: a line through molecular weights, and the
value of the most similar training ligand (Tanimoto, Morgan fingerprints).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]
MIN_ASSAY = 3  # exact values that an assay needs for a correlation
ENRICHED = 0.05  # share of the best-ranked complexes


def regression_metrics(predicted: Values, true: Values, assay: Sequence[str]) -> dict[str, float]:
    """Means over assays of Pearson, Spearman, Kendall (tau b) and centred MAE, and the MAE over all, in
    decades. A constant prediction has no correlation and counts as zero; NaN without any assay of three.
    """
    names = np.array(assay, np.str_)
    each = []
    for name in np.unique(names):
        mine = names == name
        if mine.sum() >= MIN_ASSAY and np.ptp(true[mine]) > 0:
            each.append(_of_assay(predicted[mine], true[mine]))
    columns = np.array(each).reshape(-1, 4)
    means = columns.mean(axis=0) if len(columns) else np.full(4, np.nan)
    figures = dict(zip(("pearson", "spearman", "kendall", "mae_centred"), means.tolist(), strict=True))
    mae = float(np.abs(predicted - true).mean()) if len(true) else float("nan")
    return {**figures, "mae": mae, "assays": float(len(columns))}


def _of_assay(predicted: Values, true: Values) -> tuple[float, float, float, float]:
    error = (predicted - predicted.mean()) - (true - true.mean())
    mae = float(np.abs(error).mean())
    if np.ptp(predicted) == 0:
        return 0.0, 0.0, 0.0, mae
    pearson = stats.pearsonr(predicted, true).statistic
    spearman = stats.spearmanr(predicted, true).statistic
    return float(pearson), float(spearman), float(stats.kendalltau(predicted, true).statistic), mae


def average_precision(score: Values, is_binder: NDArray[np.bool_]) -> float:
    """Mean precision at every binder, by falling score; ties count as one rank. NaN without any."""
    if not is_binder.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    ranked, hit = score[order], is_binder[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    found, seen = np.cumsum(hit)[last], np.flatnonzero(last) + 1
    recall = found / hit.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * found / seen))


def enrichment(score: Values, is_binder: NDArray[np.bool_], fraction: float = ENRICHED) -> float:
    """Share of binders among the best-ranked `fraction` (at least one), over their share of all.

    Of equal scores at the end of the ranks that count, each counts in part: their order means nothing.
    """
    if not is_binder.any():
        return float("nan")
    n_best = max(1, round(fraction * len(score)))
    last = np.sort(score)[::-1][n_best - 1]
    above, level = score > last, score == last
    found = is_binder[above].sum() + (n_best - above.sum()) * is_binder[level].mean()
    return float(found / n_best / is_binder.mean())


def weight_baseline(weight: Values, train_weight: Values, train_value: Values) -> Values:
    """Values on the line through the training rows' molecular weights (least squares)."""
    if np.ptp(train_weight) == 0:
        return np.full(len(weight), train_value.mean())
    slope, offset = np.polyfit(train_weight, train_value, 1)
    return np.asarray(slope * weight + offset, np.float64)


def neighbour_baseline(bits: NDArray[np.uint8], train_bits: NDArray[np.uint8], train_value: Values) -> Values:
    """Mean value of the training ligands most similar to each: bits [n, F], train_bits [m, F]."""
    return np.array([train_value[row == row.max()].mean() for row in tanimoto(bits, train_bits)])


def tanimoto(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Values:
    """[n, m] similarities of fingerprints [n, F] and [m, F]; zero of two without any bit."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    both = x @ y.T
    either = x.sum(1)[:, None] + y.sum(1)[None] - both
    return np.asarray(both / np.maximum(either, 1.0), np.float64)
