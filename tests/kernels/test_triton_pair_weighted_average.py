# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels import reference, triton_pair_weighted_average
from foldwright.kernels.reference import MASKED
from foldwright.kernels.testing import check_kernel, run

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
# B, M, N, H, c
CASES = [(2, 7, 35, 2, 3), (1, 19, 50, 1, 8), (1, 3, 20, 2, 32)] + (
    [(1, 1024, 384, 8, 8), (1, 300, 200, 8, 32), (2, 33, 77, 4, 16), (1, 5, 700, 2, 64)] if CUDA else []
)
KERNEL, PLAIN = triton_pair_weighted_average.pair_weighted_average, reference.pair_weighted_average


def inputs(b, m, n, heads, c, masked=0):
    """Values and gate as halves of one projection, logits with their heads last in memory."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    value, gate = draw(b, m, n, 2 * heads * c).chunk(2, -1)
    logits = draw(b, n, n, heads).movedim(-1, 1)
    if masked:
        logits[..., n - masked :] += MASKED
    return [value.unflatten(-1, (heads, c)), logits, gate]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("case", "masked"), [(case, 5 * (i % 2)) for i, case in enumerate(CASES)], ids=str)
def test_output_and_every_gradient(case, masked, dtype):
    arguments = inputs(*case, masked=masked)
    if dtype == torch.float16:  # which does not hold the masking constant
        arguments[1] = arguments[1].clamp(min=-1e4)
    check_kernel(KERNEL, PLAIN, arguments, dtype, DEVICE)


def test_large_logits_stay_finite_and_right():
    arguments = inputs(1, 3, 20, 2, 4)
    arguments[1] = arguments[1] + torch.tensor([-1e4, 0.0, 1e4, 3e3]).repeat(5)[:, None]
    check_kernel(KERNEL, PLAIN, arguments, torch.float32, DEVICE)


def test_rows_without_any_key_are_finite():
    arguments = [x.float().to(DEVICE) for x in inputs(1, 3, 20, 2, 4, masked=20)]
    assert all(torch.isfinite(x).all() for x in run(KERNEL, arguments))


def test_gradients_are_deterministic():
    arguments = [x.float().to(DEVICE) for x in inputs(1, 20, 20, 2, 4)]
    for one, other in zip(run(KERNEL, arguments), run(KERNEL, arguments), strict=True):
        assert torch.equal(one, other)


def test_registrations_are_sound():
    arguments = [x.float().to(DEVICE).requires_grad_() for x in inputs(1, 3, 20, 2, 4)]
    torch.library.opcheck(torch.ops.foldwright.pair_weighted_average.default, arguments)
