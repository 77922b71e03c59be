# SPDX-License-Identifier: Apache-2.0
"""Means by noise level: hand-worked, over batches, and against the overall mean."""

import math

import pytest
import torch

from foldwright.losses.noise_levels import BANDS, level_means, sums_by_noise_level


def figures(values, t_hat):
    sums = sums_by_noise_level(torch.tensor(values), torch.tensor(t_hat))
    return {name: float(value) for name, value in sums.items()}


def test_each_band_has_the_mean_of_its_samples():
    means = level_means(
        figures([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], [[0.5, 1.0, 2.9], [3.0, 20.0, 500.0]]), "x"
    )
    assert means["x/0-1 A"] == 1.0
    assert means["x/1-3 A"] == 3.0, "1 belongs to the band that it begins"
    assert means["x/3-8 A"] == 8.0
    assert math.isnan(means["x/8-20 A"]), "no sample, no mean"
    assert means["x/20 A up"] == 24.0


def test_averaged_over_batches_first_every_sample_counts_alike():
    one, other = figures([[2.0, 4.0]], [[5.0, 5.0]]), figures([[9.0, 7.0]], [[5.0, 0.1]])
    both = {name: (one[name] + other[name]) / 2 for name in one}
    assert level_means(both, "x")["x/3-8 A"] == pytest.approx((2 + 4 + 9) / 3)


def test_the_bands_cover_all_levels_once_and_other_figures_stay():
    torch.manual_seed(0)
    t_hat, values = torch.exp(3 * torch.randn(4, 50)), torch.rand(4, 50)
    sums = {name: float(value) for name, value in sums_by_noise_level(values, t_hat).items()}
    assert sum(value for name, value in sums.items() if name.startswith("samples")) == 200
    assert sum(value for name, value in sums.items() if name.startswith("sum")) == pytest.approx(
        float(values.sum())
    )
    assert level_means(sums | {"loss": 3.0}, "x")["loss"] == 3.0
    assert len(level_means(sums, "x")) == len(BANDS)
