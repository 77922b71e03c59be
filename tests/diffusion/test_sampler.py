# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.diffusion.sampler import SamplerConfig, noise_schedule, sample_diffusion
from foldwright.kernels.reference import weighted_rigid_align

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

    def denoiser(x, t_hat):
        return weighted_rigid_align(truth.expand_as(x), x, mask[:, None].expand(x.shape[:-1]).float())

    x = sample_diffusion(denoiser, mask, 2, SamplerConfig(steps=steps), torch.tensor([3]))
    error = (x - denoiser(x, x)).norm(dim=-1)
    assert error.max() < 0.05
