# SPDX-License-Identifier: Apache-2.0
"""Superposition against SciPy's, GDT against counts by hand."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from foldwright.data.superpose import gdt, superpose


def moved(x, seed=0):
    return x @ Rotation.random(random_state=seed).as_matrix() + [5.0, -9.0, 30.0]


def test_superposition_is_scipys():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 40, 3)) * 10
    motion = superpose(x, y)
    theirs, rssd = Rotation.align_vectors(y - y.mean(0), x - x.mean(0))
    assert np.linalg.norm(motion(x) - y) == pytest.approx(rssd)
    np.testing.assert_allclose(motion.rotation.T, theirs.as_matrix(), atol=1e-9)
    mirror = x * [1, 1, -1]
    assert np.linalg.det(superpose(mirror, x).rotation) == pytest.approx(1.0)


def test_gdt_counts_what_a_rigid_part_keeps():
    """Of 100 points 60 stay, 20 go 5 Å astray, 20 far: 60, 60, 80 and 80 % come within 1, 2, 4 and 8 Å (for
    the third, a superposition between the two).
    """
    rng = np.random.default_rng(2)
    y = np.cumsum(rng.normal(size=(100, 3)) * 3, axis=0)
    x = y.copy()
    x[60:80] += [5.0, 0, 0]
    x[80:] += [0, 60.0, 0]
    found = gdt(moved(x), y)
    assert found.score == pytest.approx(70.0, abs=2.5)
    assert np.linalg.norm(found.motion(moved(x))[:60] - y[:60], axis=1).max() < 1.5
    assert gdt(moved(y), y).score == pytest.approx(100.0)


def test_unrelated_points_score_low_and_too_few_are_refused():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 60, 3)) * 20
    assert gdt(x, y).score < 20
    with pytest.raises(ValueError, match="at least three points"):
        gdt(x[:2], y[:2])


def test_weights_are_repeated_points():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 7, 3))
    counts = np.array([1, 3, 2, 1, 5, 1, 2])
    weighted = superpose(x, y, counts)
    repeated = superpose(np.repeat(x, counts, axis=0), np.repeat(y, counts, axis=0))
    np.testing.assert_allclose(weighted(x), repeated(x), atol=1e-10)
    assert np.abs(weighted(x) - superpose(x, y)(x)).max() > 0.01
