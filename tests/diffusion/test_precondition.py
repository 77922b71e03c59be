# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.diffusion.precondition import c_in, c_noise, c_out, c_skip, loss_weight


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
