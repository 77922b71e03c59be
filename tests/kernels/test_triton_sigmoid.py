# SPDX-License-Identifier: Apache-2.0
import torch
import triton
import triton.language as tl

from foldwright.kernels.triton_sigmoid import sigmoid

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@triton.jit
def _apply(x_ptr, y_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(y_ptr + at, sigmoid(tl.load(x_ptr + at)))


def test_sigmoid_from_its_middle_to_its_limits():
    x = torch.cat([torch.linspace(-80, 80, 1020), torch.tensor([0.0, 1e4, -1e4, float("inf")])]).to(DEVICE)
    y = torch.empty_like(x)
    _apply[(1,)](x, y, SIZE=1024)
    torch.testing.assert_close(y.double(), torch.sigmoid(x.double()), rtol=2e-5, atol=1e-30)
    middle = x.abs() < 8
    torch.testing.assert_close(y[middle].double(), torch.sigmoid(x[middle].double()), rtol=2e-6, atol=0.0)
