# SPDX-License-Identifier: Apache-2.0
"""The average against a float64 loop."""

import torch
from torch import nn

from foldwright.training.ema import averaged_copy, update_average


def network():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    module.register_buffer("counter", torch.zeros((), dtype=torch.int64))
    return module


def test_average_equals_a_float64_loop():
    torch.manual_seed(0)
    live = network()
    average = averaged_copy(live)
    expected = [parameter.detach().double() for parameter in live.parameters()]
    for _ in range(50):
        for index, parameter in enumerate(live.parameters()):
            parameter.data += torch.randn_like(parameter)
            expected[index] = 0.97 * expected[index] + 0.03 * parameter.detach().double()
        update_average(average, live, decay=0.97)
    for mean, truth in zip(average.parameters(), expected, strict=True):
        torch.testing.assert_close(mean.double(), truth, rtol=1e-5, atol=1e-6)


def test_buffers_follow_and_gradients_do_not_flow():
    live = network()
    average = averaged_copy(live)
    live.counter += 7
    update_average(average, live, decay=0.5)
    assert average.counter == 7
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in live.parameters())


def test_the_copy_shares_no_memory():
    live = network()
    average = averaged_copy(live)
    before = average[0].weight.clone()
    live[0].weight.data.fill_(9.0)
    assert torch.equal(average[0].weight, before)
