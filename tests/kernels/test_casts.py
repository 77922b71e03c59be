# SPDX-License-Identifier: Apache-2.0
"""Weights cast once: the same numbers and gradients, and never those of weights that were changed since."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from foldwright.kernels import casts as module
from foldwright.kernels import reference
from foldwright.kernels.casts import WeightCopies, cast, frozen_weights, stacked
from foldwright.kernels.triton_transition import transition
from foldwright.training.ema import averaged_copy, update_average
from foldwright.training.optim import OptimizerConfig, build_adam, set_learning_rate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Casts(TorchDispatchMode):
    """Counts the casts from float32 to float16, one by one and of several tensors at once."""

    number = several = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default:
            self.number += (kwargs.get("dtype"), args[0].dtype) == (torch.float16, torch.float32)
        self.several += func is torch.ops.aten._foreach_copy_.default
        return func(*args, **kwargs)


@pytest.fixture
def copies():
    copies = WeightCopies()
    copies.open()
    yield copies
    copies.close()


def test_products_cast_a_weight_once_and_to_the_same_numbers():
    weight, bias, x = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(4)), torch.randn(3, 8).half()
    plain = reference.linear(x, weight, bias)
    with Casts() as casts, frozen_weights():
        outs = [reference.linear(x, weight, bias) for _ in range(5)]
    assert casts.number == 0
    assert casts.several == 2
    assert all(torch.equal(out, plain) for out in outs)
    assert not outs[0].requires_grad


def test_kernels_cast_a_weight_once():
    shapes = ((16,), (16,), (64, 16), (16, 32))
    weights = [nn.Parameter(torch.randn(shape, device=DEVICE)) for shape in shapes]
    x = torch.randn(3, 16, device=DEVICE).half()
    with torch.no_grad():
        plain = transition(x, *weights)
    with frozen_weights():
        first, second = (transition(x, *weights) for _ in range(2))
        assert len(module._opened.buffers()) == 2  # both products' weights, known again by the second call
    assert torch.equal(plain, first)
    assert torch.equal(plain, second)


def test_no_cast_outlives_the_block_that_it_was_made_in():
    weight = nn.Parameter(torch.ones(2))
    with frozen_weights():
        assert cast(weight, torch.float16) is cast(weight, torch.float16)
    with torch.no_grad():
        weight.mul_(3)
    with frozen_weights():
        assert cast(weight, torch.float16).tolist() == [3, 3]
    assert cast(weight, torch.float16).requires_grad


def test_what_is_made_of_weights_is_not_kept():
    with frozen_weights():
        assert all(cast(torch.full((2,), i), torch.float16).tolist() == [i, i] for i in (1.0, 2.0, 3.0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4, bias=False))


def product(net, x, recomputed=False):
    def block(x):
        for layer in net:
            x = reference.linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer(x)
        return x

    return checkpoint(block, x, use_reentrant=False) if recomputed else block(x)


def gradients(net, x, recomputed=False):
    net.zero_grad()
    y = product(net, x, recomputed)
    y.backward(y.detach())
    return [p.grad for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_are_those_without_copies(copies, recomputed):
    net, x = network(), torch.randn(5, 8).half().requires_grad_()
    copies.close()
    expected = [*gradients(net, x), x.grad]
    x.grad = None
    for _ in range(2):
        copies.open()
        with Casts() as casts:
            found = gradients(net, x, recomputed)
        copies.close()
    assert casts.number == 0, "the second time all copies are made at once, for the recomputation too"
    assert all(torch.equal(a, b) for a, b in zip([*found, x.grad / 2], expected, strict=True))
    assert all(gradient.dtype == torch.float32 for gradient in found)


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_fused_op_finds_the_copies_in_its_backward_pass_too(copies, recomputed, monkeypatch):
    """Autograd may show it a parameter as another object."""
    handed_out = []
    get = WeightCopies.get
    monkeypatch.setattr(WeightCopies, "get", lambda *a: handed_out.append(get(*a)) or handed_out[-1])
    shapes = ((16,), (16,), (64, 16), (16, 32))
    weights = [nn.Parameter(0.2 * torch.randn(shape, device=DEVICE)) for shape in shapes]
    x = torch.randn(3, 16, device=DEVICE).half().requires_grad_()
    y = checkpoint(transition, x, *weights, use_reentrant=False) if recomputed else transition(x, *weights)
    y.backward(torch.ones_like(y))
    assert len(handed_out) == 2 * (3 if recomputed else 2)
    assert len({copy.data_ptr() for copy in handed_out}) == len(copies.buffers()) == 2
    found = [weight.grad.clone() for weight in weights]
    copies.close()
    for weight in weights:
        weight.grad = None
    y = transition(x, *weights)
    y.backward(torch.ones_like(y))
    assert all(torch.equal(a, weight.grad) for a, weight in zip(found, weights, strict=True))


def test_frozen_weights_get_no_gradient(copies):
    net, x = network(), torch.randn(5, 8).half()
    net[2].requires_grad_(False)
    assert len(gradients(net, x)) == 2
    net.requires_grad_(False)
    assert not product(net, x).requires_grad


def changed_by_optimiser(net):
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = build_adam(net.parameters(), OptimizerConfig())
    set_learning_rate(optimizer, 0.1)
    optimizer.step()


def changed_by_average(net):
    other = averaged_copy(net)
    with torch.no_grad():
        other[0].weight.add_(1.0)
    update_average(net, other, 0.5)


def changed_by_checkpoint(net):
    net.load_state_dict({name: value + 1.0 for name, value in net.state_dict().items()})


def changed_in_place(net):
    with torch.no_grad():
        net[0].weight.copy_(net[0].weight + 1.0)


CHANGES = [changed_by_optimiser, changed_by_average, changed_by_checkpoint, changed_in_place]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("with_gradient", [False, True])
def test_no_copy_outlives_a_change_of_its_weight(copies, change, with_gradient):
    """Even before the set is closed or opened again."""
    net, x = network(), torch.randn(5, 8).half()
    with torch.set_grad_enabled(with_gradient):
        old = product(net, x)
        change(net)
        new = product(net, x)
        copies.open()
        again = product(net, x)
        copies.close()
        expected = product(net, x)
    assert not torch.equal(old, new)
    assert torch.equal(new, expected)
    assert torch.equal(again, expected)


def test_the_average_has_copies_of_its_own(copies):
    net, x = network(), torch.randn(5, 8).half()
    average = averaged_copy(net)
    with torch.no_grad():
        average[0].weight.mul_(2.0)
    first, second = product(net, x), product(average, x)
    copies.close()
    assert torch.equal(first, product(net, x))
    assert torch.equal(second, product(average, x))


def test_recycling_within_a_step_shares_its_copies(copies):
    weight = nn.Parameter(torch.randn(4, 8))
    with frozen_weights():
        first = cast(weight, torch.float16)
    assert cast(weight, torch.float16).data_ptr() == first.data_ptr()
    assert len(copies.buffers()) == 1


def test_a_view_of_part_of_a_weight_is_not_taken_for_it(copies):
    weight = nn.Parameter(torch.randn(8, 8))
    whole = cast(weight, torch.float16)
    for part in (weight[:4], weight[4:], weight.t(), weight[:, :4]):
        assert torch.equal(cast(part, torch.float16), part.half())
    assert torch.equal(whole, weight.half())
    assert len(copies.buffers()) == 1


@pytest.mark.parametrize("rows", [10, 13])
def test_weights_one_above_the_other(copies, rows):
    weights = [nn.Parameter(torch.randn(n, 3)) for n in (4, 6)]
    sent = torch.randn(rows, 3).half()
    copies.close()
    expected = stacked(weights, torch.float16, rows)
    copies.open()
    kept = stacked(weights, torch.float16, rows)
    assert kept.shape == (rows, 3)
    assert torch.equal(kept, expected)
    assert kept.data_ptr() == stacked(weights, torch.float16, rows).data_ptr()
    kept.backward(sent)
    for (start, end), weight in zip(pairwise((0, 4, 10)), weights, strict=True):
        assert torch.equal(weight.grad, sent[start:end].float())


def test_float32_products_make_no_copies(copies):
    net = network()
    with Casts() as casts:
        gradients(net, torch.randn(5, 8))
    assert not copies.buffers()
    assert casts.several == 0
