# SPDX-License-Identifier: Apache-2.0
"""The schedule against AF3's numbers, Adam against its formula in float64."""

import pytest
import torch

from foldwright.training.optim import (
    OptimizerConfig,
    ScheduleConfig,
    build_adam,
    learning_rate,
    set_learning_rate,
)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(1, 1.8e-6), (500, 9e-4), (1000, 1.8e-3), (49_999, 1.8e-3), (50_000, 1.71e-3), (100_000, 1.6245e-3)],
)
def test_schedule_is_af3s(step, expected):
    assert learning_rate(step, ScheduleConfig()) == pytest.approx(expected, rel=1e-12)


def test_schedule_without_warm_up():
    assert learning_rate(1, ScheduleConfig(warmup_steps=0)) == 1.8e-3


def test_adam_follows_its_formula():
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(5))
    optimizer = build_adam([parameter], OptimizerConfig())
    x, m, v = parameter.detach().double(), torch.zeros(5).double(), torch.zeros(5).double()
    for step in range(1, 8):
        gradient = torch.randn(5)
        parameter.grad = gradient.clone()
        set_learning_rate(optimizer, 0.01 * step)
        optimizer.step()
        m = 0.9 * m + 0.1 * gradient.double()
        v = 0.95 * v + 0.05 * gradient.double() ** 2
        x = x - 0.01 * step * (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
    torch.testing.assert_close(parameter.detach().double(), x, rtol=1e-5, atol=1e-6)


def test_a_parameter_without_gradient_is_left_alone():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = build_adam([parameter], OptimizerConfig())
    set_learning_rate(optimizer, 1.0)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(3))
    assert optimizer.state[parameter]["step"] == 0
