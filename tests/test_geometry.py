# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from foldwright.geometry import best_rotation


def by_svd(m: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Kabsch: the proper R that maximises tr(R M), and the maximum."""
    u, s, vt = torch.linalg.svd(m)
    sign = torch.linalg.det(u @ vt).sign()
    flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], -1)
    return vt.transpose(-1, -2) @ (flip[..., None] * u.transpose(-1, -2)), (s * flip).sum(-1)


def test_best_rotation_agrees_with_the_singular_value_decomposition():
    m = torch.randn(200, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotation, gain = best_rotation(m)
    expected, maximum = by_svd(m)
    torch.testing.assert_close(rotation, expected)
    torch.testing.assert_close(gain, maximum)
    assert (torch.linalg.det(m) < 0).any()
    assert (torch.linalg.det(rotation) > 0.999).all()


def test_best_rotation_recovers_a_motion_as_scipy_does():
    rng = np.random.default_rng(1)
    points, turn = rng.normal(size=(30, 3)), Rotation.random(random_state=2)
    moved = turn.apply(points)
    rotation, _ = best_rotation(torch.tensor(points.T @ moved))
    np.testing.assert_allclose(rotation, turn.as_matrix(), atol=1e-12)
    np.testing.assert_allclose(rotation, Rotation.align_vectors(moved, points)[0].as_matrix(), atol=1e-12)


@pytest.mark.parametrize("thickness", [1e-2, 1e-3])
def test_best_rotation_resolves_nearly_collinear_points(thickness):
    rng = np.random.default_rng(3)
    points = rng.normal(size=(20, 3)) * [1.0, thickness, thickness / 2]
    turn = Rotation.random(random_state=4)
    rotation, _ = best_rotation(torch.tensor(points.T @ turn.apply(points)))
    np.testing.assert_allclose(rotation.numpy() @ points.T, turn.apply(points).T, atol=1e-8)


def test_best_rotation_of_degenerate_sets_is_a_rotation_and_as_good_as_any():
    line = torch.outer(torch.arange(5.0), torch.tensor([1.0, 2.0, 3.0])).double()
    for m in (line.T @ line, torch.zeros(3, 3), torch.diag(torch.tensor([1.0, 1.0, -1.0]))):
        rotation, gain = best_rotation(m)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
        torch.testing.assert_close(gain, by_svd(m.double())[1])
