# SPDX-License-Identifier: Apache-2.0
"""Gradients in one buffer, and one by one, do the same."""

from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from foldwright.training.gradients import FlatGradients, ShardedGradients


@pytest.fixture(params=[FlatGradients, ShardedGradients])
def case(request):
    """Parameters of three shapes, one of them frozen, and their gradients' owner."""
    shapes = [(2,), (1, 1), (3,)]
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    parameters[2].requires_grad_(False)
    return parameters, request.param(parameters)


def backward(parameters, *values):
    torch.cat([(p * v).flatten() for p, v in zip(parameters, values, strict=False)]).sum().backward()


def test_clipping_scales_to_the_norm_of_all_gradients_together(case):
    parameters, gradients = case
    gradients.zero()
    backward(parameters, torch.tensor([30.0, 0.0]), 40.0)
    assert gradients.clip(10.0) == pytest.approx(50.0)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([6.0, 0.0]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([[8.0]]))
    assert gradients.clip(20.0) == pytest.approx(10.0)
    torch.testing.assert_close(parameters[1].grad, torch.tensor([[8.0]]))
    assert parameters[2].grad is None


def test_backward_passes_add_up_until_zeroed(case):
    parameters, gradients = case
    for expected in (1.0, 2.0):
        backward(parameters, 1.0, 1.0)
        torch.testing.assert_close(parameters[0].grad, torch.full((2,), expected))
    gradients.zero()
    backward(parameters, 3.0, 3.0)
    torch.testing.assert_close(parameters[0].grad, torch.full((2,), 3.0))


def test_what_is_withheld_no_optimiser_sees_until_the_next_step(case):
    parameters, gradients = case
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    backward(parameters, 1.0, 1.0)
    gradients.withhold()
    optimizer.step()
    assert all(torch.equal(p, torch.zeros_like(p)) for p in parameters)
    gradients.zero()
    backward(parameters, 2.0, 2.0)
    optimizer.step()
    torch.testing.assert_close(parameters[1].detach(), torch.tensor([[-2.0]]))


def test_flat_gradients_stay_in_one_place():
    """A captured backward pass writes to addresses: no step may move them."""
    parameters = [torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(2, 2))]
    gradients = FlatGradients(parameters)
    places = [p.grad.data_ptr() for p in parameters]
    for _ in range(2):
        backward(parameters, 1.0, 1.0)
        gradients.clip(1.0)
        gradients.withhold()
        gradients.zero()
    assert [p.grad.data_ptr() for p in parameters] == places
    assert gradients.flat.untyped_storage().data_ptr() == places[0]


def test_gathered_gradients_add_up_and_a_weight_without_one_keeps_its_zeros(case):
    parameters, gradients = case
    gradients.zero()
    for expected in (2.0, 4.0):
        with gradients.gathered():
            backward(parameters[:1], 2.0)
        torch.testing.assert_close(parameters[0].grad, torch.full((2,), expected))
        assert not parameters[1].grad.any()
        assert parameters[2].grad is None


def test_a_gathered_backward_pass_adds_once_into_the_same_place():
    class Added(TorchDispatchMode):
        seen: ClassVar[list[str]] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.name() in ("aten::add_.Tensor", "aten::clone", "aten::_foreach_add_.List"):
                self.seen.append(func.name())
            return func(*args, **kwargs or {})

    net = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(5)))
    gradients = FlatGradients(net.parameters())
    addresses = [p.grad.data_ptr() for p in net.parameters()]
    x = torch.randn(3, 4)
    with Added(), gradients.gathered():
        net(x).square().sum().backward()
    assert Added.seen == ["aten::_foreach_add_.List"]
    assert addresses == [p.grad.data_ptr() for p in net.parameters()]
    found = gradients.flat.clone()
    gradients.zero()
    net(x).square().sum().backward()
    assert torch.equal(found, gradients.flat)


def test_a_backward_pass_that_fails_leaves_the_buffer_in_place():
    gradients = FlatGradients([torch.nn.Parameter(torch.zeros(4))])
    with pytest.raises(RuntimeError, match="broken"), gradients.gathered():
        raise RuntimeError("broken")
    assert gradients.parameters[0].grad.data_ptr() == gradients.flat.data_ptr()
