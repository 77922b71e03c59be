# SPDX-License-Identifier: Apache-2.0
"""Neighbour pairs against all distances."""

import numpy as np
import pytest

from foldwright.data.neighbours import pairs_within


@pytest.mark.parametrize("radius", [0.7, 3.0, 50.0])
def test_equals_brute_force(radius):
    rng = np.random.default_rng(0)
    points = rng.normal(scale=6, size=(150, 3)).astype(np.float32)
    others = (rng.normal(scale=9, size=(90, 3)) + 3).astype(np.float32)
    distance = np.linalg.norm(points[:, None].astype(np.float64) - others[None], axis=-1)
    i, j, found = pairs_within(points, others, radius)
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == set(zip(*map(list, np.nonzero(distance < radius)),
                                                                    strict=True))  # fmt: skip
    assert len(i) == (distance < radius).sum()
    np.testing.assert_allclose(found, distance[i, j])


def test_no_points_and_bad_radius():
    nothing = np.zeros((0, 3), np.float32)
    assert len(pairs_within(nothing, np.ones((3, 3), np.float32), 2.0)[0]) == 0
    with pytest.raises(ValueError, match="positive"):
        pairs_within(nothing, nothing, 0.0)
