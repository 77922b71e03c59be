# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.diffusion import sampler
from foldwright.diffusion.noise import centre_random_augmentation
from foldwright.diffusion.sampler import SamplerConfig, noise_schedule, sample_diffusion
from foldwright.kernels.reference import weighted_rigid_align
from foldwright.randomness import key, normal

GOLDEN_20 = [2560, 1894.7, 1383.5, 995.3, 704.6, 489.9, 333.9, 222.6, 144.7, 91.5, 56.0, 33.0, 18.6, 10.0,
             5.06, 2.38, 1.02, 0.387, 0.126, 0.033, 0.0064]  # fmt: skip


def test_the_schedule_is_golden():
    schedule = noise_schedule(SamplerConfig())
    golden = {0: 2560, 1: 2485.536, 20: 1383.475, 100: 55.9748, 160: 1.017, 199: 0.0076895, 200: 0.0064}
    assert {step: schedule[step] for step in golden} == pytest.approx(golden, rel=1e-3)
    assert sum(level > 1.0 for level in schedule[1:]) == 160
    assert noise_schedule(SamplerConfig(steps=20)) == pytest.approx(GOLDEN_20, rel=0.02)


@pytest.mark.parametrize("steps", [20, 200])
def test_a_perfect_denoiser_is_followed_to_the_truth(steps):
    """The posterior mean of one known structure, in the frame of the noisy atoms, is that structure."""
    truth = torch.randn(1, 1, 64, 3, generator=torch.Generator().manual_seed(0)) * 10
    mask = torch.ones(1, 64, dtype=torch.bool)

    def denoiser(x):
        return weighted_rigid_align(truth.expand_as(x), x, mask[:, None].expand(x.shape[:-1]).float())

    x = sample_diffusion(
        lambda levels: [denoiser] * len(levels), mask, 2, SamplerConfig(steps=steps), torch.tensor([3])
    )
    error = (x - denoiser(x)).norm(dim=-1)
    assert error.max() < 0.05


def test_it_is_algorithm_18_as_written(monkeypatch):
    """Each draw keyed by its step, in however many portions; a denoiser that depends on the level."""
    monkeypatch.setattr(sampler, "_ELEMENTS", 2 * 2 * 9 * 3 * 3)  # three of seven steps at once
    config, seed, shape = SamplerConfig(steps=7), torch.tensor([3, 4]), (2, 9, 3)
    mask = torch.arange(9)[None] < torch.tensor([[9], [7]])

    def denoised(x, t_hat):
        return x * 256 / (256 + t_hat**2)

    def denoisers(t_hats):
        for t_hat in t_hats:
            yield lambda x, t_hat=t_hat: denoised(x, t_hat)

    c = noise_schedule(config)
    x = c[0] * normal(key(seed, "initial noise"), shape)
    for step in range(1, 8):
        own = key(seed, step - 1)
        x = centre_random_augmentation(x, mask, own)
        gamma = 0.8 if c[step] > 1.0 else 0.0
        t_hat = c[step - 1] * (gamma + 1)
        noise = 1.003 * (t_hat**2 - c[step - 1] ** 2) ** 0.5 * normal(key(own, "churn"), shape)
        x_noisy = x + noise
        delta = (x_noisy - denoised(x_noisy, t_hat)) / t_hat
        x = x_noisy + 1.5 * (c[step] - t_hat) * delta
    assert torch.equal(sample_diffusion(denoisers, mask, 2, config, seed), x)
