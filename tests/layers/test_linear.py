# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.layers.linear import Linear


@pytest.mark.parametrize(("init", "variance"), [("default", 1.0), ("relu", 2.0)])
def test_initialisation_has_the_wanted_variance_and_is_cut(init, variance):
    torch.manual_seed(0)
    weight = Linear(256, 2048, init=init).weight.detach()
    assert weight.var() == pytest.approx(variance / 256, rel=0.02)
    assert weight.abs().max() <= 2 * (variance / 256) ** 0.5 / 0.8796 * 1.001


def test_gates_start_nearly_closed():
    gate = Linear(8, 4, bias=True, init="adaln_zero_gate")
    out = torch.sigmoid(gate(torch.randn(3, 8)))
    torch.testing.assert_close(out, torch.full((3, 4), 0.1192), atol=1e-4, rtol=0)


def test_the_activations_decide_the_precision():
    linear = Linear(8, 4, bias=True)
    assert linear(torch.zeros(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert linear.weight.dtype == torch.float32
