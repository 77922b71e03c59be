# SPDX-License-Identifier: Apache-2.0
"""Calibration, intervals, the model-selection score and ligand RMSD against numbers worked by hand."""

import math

import numpy as np
import pytest

from foldwright.evaluation.bootstrap import compare, mean_interval
from foldwright.evaluation.calibration import calibrate
from foldwright.evaluation.ligand_rmsd import Pocket, ligand_rmsd
from foldwright.evaluation.selection import FINE_TUNING, INITIAL, selection_score


def test_calibration_of_hand_made_values():
    predicted = np.array([5.0, 15, 15, 95, np.nan])
    observed = np.array([15.0, 10, 30, 95, 50])
    result = calibrate(predicted, observed, np.linspace(0, 100, 11))
    assert result.count.tolist() == [1, 2, 1]
    assert result.observed.tolist() == [15, 20, 95]
    assert result.error == pytest.approx((10 + 2 * 5 + 0) / 4)
    assert math.isnan(calibrate(predicted[:0], observed[:0], np.linspace(0, 1, 3)).error)


def test_intervals_cover_the_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        interval = mean_interval(rng.normal(size=40), rng)
        covered += interval.low <= 0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_paired_comparison_sees_a_shift_that_single_means_hide():
    rng = np.random.default_rng(0)
    first = rng.normal(size=50) * 10
    better = compare(first, first + 0.3 + 0.1 * rng.normal(size=50), rng)
    assert better.difference.low > 0.2
    assert better.p_value <= 0.001
    same = compare(first, first + rng.normal(size=50), rng)
    assert same.p_value > 0.01
    assert compare(np.array([np.nan]), np.array([1.0]), rng).difference.n == 0


def test_few_targets_decide_nothing_however_large_their_difference():
    rng = np.random.default_rng(0)
    for n, least in ((1, 1.0), (2, 0.5), (5, 1 / 16)):
        assert compare(np.zeros(n), np.full(n, 250.0), rng).p_value == least
    assert mean_interval(np.array([0.5]), rng).text() == "0.500"
    assert mean_interval(np.array([0.5, 0.5]), rng).text() == "0.500 [0.500, 0.500]"


def test_selection_weighs_what_is_there():
    assert sum(INITIAL.values()) == 140
    assert FINE_TUNING["intra_modified"] == 0
    score, coverage = selection_score(
        {"intra_protein": 0.8, "interface_dna_protein": 0.5, "intra_dna": math.nan}
    )
    assert score == pytest.approx((20 * 0.8 + 10 * 0.5) / 30)
    assert coverage == pytest.approx(30 / 140)
    assert math.isnan(selection_score({}).score)


def test_ligand_rmsd_takes_the_best_relabelling_after_superposing_the_pocket():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(8, 3)) * 4
    pocket, ligand = Pocket(np.arange(5), 0), np.array([5, 6, 7])
    shifted = truth + 7.0
    shifted[ligand] += [0.0, 0, 1.5]
    every = np.ones(8, bool)
    identity = np.array([[0, 1, 2]])
    assert ligand_rmsd(shifted, truth, pocket, ligand, every, identity) == pytest.approx(1.5)
    swapped = truth.copy()
    swapped[[5, 6]] = truth[[6, 5]]
    both = np.array([[0, 1, 2], [1, 0, 2]])
    assert ligand_rmsd(swapped, truth, pocket, ligand, every, identity) > 1
    assert ligand_rmsd(swapped, truth, pocket, ligand, every, both) == pytest.approx(0, abs=1e-9)
    assert math.isnan(ligand_rmsd(truth, truth, Pocket(np.arange(2), 0), ligand, every, identity))
