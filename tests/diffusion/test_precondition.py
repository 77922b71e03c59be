# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.diffusion import precondition
from foldwright.diffusion.precondition import (
    c_in,
    c_noise,
    c_out,
    c_skip,
    denoise,
    denoisers,
    loss_weight,
)


@pytest.mark.parametrize(
    ("t_hat", "golden"),
    [
        (0.4, (0.99938, 0.39988, 0.06248, -0.9222, 6.2539)),
        (16.0, (0.5, 11.3137, 0.04419, 0.0, 0.0078125)),
        (160.0, (0.00990, 15.9206, 0.00622, 0.5756, 0.0039453)),
    ],
)
def test_golden_values(t_hat, golden):
    t = torch.tensor(t_hat, dtype=torch.float64)
    values = [float(f(t)) for f in (c_skip, c_out, c_in, c_noise, loss_weight)]
    assert values == pytest.approx(golden, rel=1e-3, abs=5e-6)


def test_the_weight_makes_the_loss_uniform_in_network_units():
    t = torch.logspace(-2, 3, 50, dtype=torch.float64)
    torch.testing.assert_close(loss_weight(t), 1 / c_out(t) ** 2)


def test_denoisers_of_known_levels_are_the_denoiser_at_each(miniature, awake, batch, monkeypatch):
    module = awake(miniature).diffusion
    draw = torch.Generator().manual_seed(0)
    n, widths = batch.token_mask.shape[1], miniature.widths
    trunk = [
        torch.randn(2, *shape, generator=draw, dtype=torch.float64)
        for shape in ((n, widths.single_inputs), (n, widths.single), (n, n, widths.pair))
    ]
    x = 10 * torch.randn(2, 3, batch.atom_mask.shape[1], 3, generator=draw, dtype=torch.float64)
    t_hats = [100.0, 7.0, 0.3, 0.2, 0.1]
    monkeypatch.setattr(precondition, "_ELEMENTS", 2 * (2 * n * module.level_width))  # two levels at once
    with torch.no_grad():
        shared = module.condition(batch, *trunk)
        for t_hat, own in zip(t_hats, denoisers(module, shared, t_hats), strict=True):
            each = torch.full((2, 3), t_hat, dtype=torch.float32)
            torch.testing.assert_close(own(x), denoise(module, x, each, shared), rtol=1e-6, atol=1e-6)
