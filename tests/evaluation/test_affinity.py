# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from foldwright.evaluation.affinity import (
    average_precision,
    enrichment,
    neighbour_baseline,
    regression_metrics,
    tanimoto,
    weight_baseline,
)


def test_an_offset_of_each_assay_costs_nothing_but_absolute_error():
    true = np.array([0.0, 1.0, 2.0, 5.0, 6.0, 8.0])
    assay = ["a"] * 3 + ["b"] * 3
    found = regression_metrics(true + np.array([3.0] * 3 + [-1.0] * 3), true, assay)
    for name in ("pearson", "spearman", "kendall"):
        assert found[name] == pytest.approx(1.0)
    assert found["mae_centred"] == pytest.approx(0.0)
    assert found["mae"] == pytest.approx(2.0)
    assert found["assays"] == 2


def test_correlations_by_hand():
    """Ranks 1 3 2 against 1 2 3: Spearman 0.5, Kendall (2 - 1) / 3; Pearson of 0 2 1 on 0 1 2 is 0.5."""
    found = regression_metrics(np.array([0.0, 2.0, 1.0]), np.array([0.0, 1.0, 2.0]), ["a"] * 3)
    assert found["pearson"] == pytest.approx(0.5)
    assert found["spearman"] == pytest.approx(0.5)
    assert found["kendall"] == pytest.approx(1 / 3)
    assert found["mae_centred"] == pytest.approx(2 / 3)


def test_small_assays_and_constants():
    assert np.isnan(regression_metrics(np.zeros(2), np.array([0.0, 1.0]), ["a", "a"])["pearson"])
    constant = regression_metrics(np.zeros(3), np.array([0.0, 1.0, 2.0]), ["a"] * 3)
    assert constant["pearson"] == 0.0
    assert constant["mae_centred"] == pytest.approx(2 / 3)


def test_ranking_by_hand():
    """Binders at ranks 1 and 3 of 4: (1 + 2/3) / 2. Two of the best half, of half: enrichment 1."""
    score, is_binder = np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])
    assert average_precision(score, is_binder) == pytest.approx(5 / 6)
    assert average_precision(np.zeros(4), is_binder) == pytest.approx(0.5), "a tie has the base rate"
    assert enrichment(score, is_binder, 0.25) == pytest.approx(2.0)
    assert np.isnan(average_precision(score, np.zeros(4, bool)))


def test_baselines_by_hand():
    line = weight_baseline(np.array([250.0]), np.array([100.0, 200.0, 300.0]), np.array([3.0, 2.0, 1.0]))
    assert line.tolist() == pytest.approx([1.5])
    bits = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]], np.uint8)
    assert tanimoto(bits, bits)[0].tolist() == [1.0, 0.0, 0.0]
    query = np.array([[1, 1, 1, 0]], np.uint8)
    assert tanimoto(query, bits)[0].tolist() == pytest.approx([2 / 3, 1 / 4, 0.0])
    assert neighbour_baseline(query, bits, np.array([7.0, 8.0, 9.0])).tolist() == [7.0]


def test_enrichment_does_not_depend_on_the_order_of_equal_scores():
    """Two of the best four are sure, one a binder; five share the two places left, one a binder."""
    score = np.array([9.0, 8.0] + [5.0] * 5 + [1.0] * 73)
    is_binder = np.zeros(80, bool)
    is_binder[[0, 2]] = True
    for order in (np.arange(80), np.arange(80)[::-1]):
        assert enrichment(score[order], is_binder[order]) == pytest.approx((1 + 2 / 5) / 4 / (2 / 80))
        assert enrichment(np.zeros(80), is_binder[order]) == pytest.approx(1.0)
