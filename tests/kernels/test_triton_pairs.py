# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import triton
import triton.language as tl

from foldwright.kernels.triton_pairs import apart, order, together

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS = 4


@triton.jit
def _round(x_ptr, which_ptr, output_ptr, first_ptr, second_ptr, y_ptr, ROWS: tl.constexpr, N: tl.constexpr):
    n = tl.arange(0, 2 * N)
    which, output = order(100, N)
    tl.store(which_ptr + n, which)
    tl.store(output_ptr + n, output)
    at = tl.arange(0, ROWS)[:, None] * (2 * N) + n[None, :]
    first, second = apart(tl.load(x_ptr + at), ROWS, N)
    half = tl.arange(0, ROWS)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(first_ptr + half, first)
    tl.store(second_ptr + half, second)
    tl.store(y_ptr + at, together(first, second, ROWS, N))


@pytest.mark.parametrize("n", [16, 32, 64])
def test_what_comes_apart_is_in_the_order_said_and_goes_together_again(n):
    x = torch.randn(ROWS, 2 * n, device=DEVICE)
    which, output = torch.empty(2, 2 * n, dtype=torch.int32, device=DEVICE)
    halves, y = torch.empty(2, ROWS, n, device=DEVICE), torch.empty_like(x)
    _round[(1,)](x, which, output, halves[0], halves[1], y, ROWS=ROWS, N=n)
    assert sorted(zip(which.tolist(), output.tolist(), strict=True)) == [
        (projection, 100 + i) for projection in (0, 1) for i in range(n)
    ]
    for column, (projection, i) in enumerate(zip(which.tolist(), output.tolist(), strict=True)):
        assert torch.equal(halves[projection][:, i - 100], x[:, column])
    assert torch.equal(y, x)
