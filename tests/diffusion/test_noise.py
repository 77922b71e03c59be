# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.diffusion.noise import (
    NoiseConfig,
    centre_random_augmentation,
    noise_samples,
    place_unresolved,
)
from foldwright.geometry import pairwise_distances

SEED = torch.tensor([5, 6])


def test_noise_levels_have_the_golden_quantiles(batch):
    t_hat = torch.cat([noise_samples(batch, 500, NoiseConfig(), SEED + 2 * i).t_hat for i in range(8)], 1)
    quantiles = torch.quantile(t_hat.flatten(), torch.tensor([0.05, 0.5, 0.95]))
    assert quantiles.tolist() == pytest.approx([0.409, 4.819, 56.83], rel=0.05)


def test_noise_has_its_level_and_the_truth_is_moved_rigidly(batch):
    noised = noise_samples(batch, 64, NoiseConfig(), SEED)
    scaled = (noised.x_noisy - noised.x_true) / noised.t_hat[..., None, None]
    assert scaled.std() == pytest.approx(1.0, abs=0.01)
    placed = place_unresolved(batch)
    for copy in (0, 63):
        torch.testing.assert_close(
            pairwise_distances(noised.x_true[:, copy]), pairwise_distances(placed), atol=1e-3, rtol=1e-4
        )
    assert not torch.allclose(noised.x_true[:, 0], noised.x_true[:, 1], atol=0.5)


def test_rotations_are_proper_and_uniform():
    x = torch.eye(3)[None, None].expand(1, 4000, 3, 3)
    mask = torch.ones(1, 3, dtype=torch.bool)
    moved = centre_random_augmentation(x, mask, SEED[:1], translation_std=0.0)[0]
    edges = torch.stack([moved[:, 1] - moved[:, 0], moved[:, 2] - moved[:, 0]], 1)
    normal = torch.linalg.cross(edges[:, 0], edges[:, 1])
    # the triangle's normal must be uniform on the sphere: mean zero, covariance a third of the identity
    unit = normal / normal.norm(dim=-1, keepdim=True)
    assert unit.mean(0).abs().max() < 0.05
    torch.testing.assert_close(unit.T @ unit / 4000, torch.eye(3) / 3, atol=0.03, rtol=0)


def test_the_centre_is_that_of_the_resolved_atoms(batch):
    moved = centre_random_augmentation(
        batch.atom_coords[:, None], batch.atom_resolved, SEED, translation_std=0.0
    )
    for b in range(2):
        assert moved[b, 0, batch.atom_resolved[b]].mean(0).abs().max() < 1e-4


def test_unresolved_atoms_stand_at_their_token_or_the_nearest_one_of_the_chain(batch):
    batch.asym_id[0] = (torch.arange(20) >= 10).int()
    batch.atom_resolved[:] = batch.atom_mask
    batch.atom_coords[:] = torch.randn(2, 160, 3)
    token = batch.atom_to_token[0]
    gone = torch.isin(token, torch.tensor([8, 9]).int()) & batch.atom_mask[0]
    batch.atom_resolved[0, gone] = False
    first = int((token == 3).nonzero()[0])
    batch.atom_resolved[0, first] = False
    placed = place_unresolved(batch)[0]
    centre = {t: batch.atom_coords[0, (token == t) & batch.atom_resolved[0]].mean(0) for t in (3, 7)}
    torch.testing.assert_close(placed[first], centre[3])
    for atom in gone.nonzero()[:, 0]:
        torch.testing.assert_close(placed[atom], centre[7])  # token 10 is as near as 8, but of another chain
    resolved = batch.atom_resolved[0]
    assert torch.equal(placed[resolved], batch.atom_coords[0, resolved])


def test_an_example_draws_the_same_in_any_batch(batch):
    together = noise_samples(batch, 4, NoiseConfig(), SEED)
    alone = noise_samples(batch.map(lambda t: t[1:]), 4, NoiseConfig(), SEED[1:])
    assert torch.equal(together.x_noisy[1:], alone.x_noisy)
