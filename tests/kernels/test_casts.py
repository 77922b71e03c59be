# SPDX-License-Identifier: Apache-2.0
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from foldwright.kernels import reference
from foldwright.kernels.casts import _kept, cast, frozen_weights
from foldwright.kernels.triton_transition import transition

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Casts(TorchDispatchMode):
    """Counts the casts from float32 to float16."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        wanted = (func, kwargs.get("dtype"), args[0].dtype if args else None)
        self.number += wanted == (torch.ops.aten._to_copy.default, torch.float16, torch.float32)
        return func(*args, **kwargs)


def test_products_cast_a_weight_once_and_to_the_same_numbers():
    weight, bias, x = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(4)), torch.randn(3, 8).half()
    plain = reference.linear(x, weight, bias)
    with Casts() as casts, frozen_weights():
        outs = [reference.linear(x, weight, bias) for _ in range(5)]
    assert casts.number == 2
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
        assert len(_kept.get() or ()) == 2  # both products' weights, known again by the second call
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
