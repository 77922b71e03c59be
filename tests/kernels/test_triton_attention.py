# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels import reference, triton_attention
from foldwright.kernels.reference import MASKED
from foldwright.kernels.testing import check_kernel, run

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
CASES = [(1, 3, 33, 2, 16), (2, 2, 50, 1, 24)] + (
    [(1, 77, 77, 4, 32), (1, 384, 384, 4, 32), (1, 48, 384, 16, 48), (2, 8, 200, 16, 24), (1, 5, 700, 2, 64)]
    if CUDA
    else []
)


def inputs(b, s, n, heads, c, masked=0, scale=1.0):
    generator = torch.Generator().manual_seed(2)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    packed = draw(b, s, n, 4, heads, c) * torch.tensor([scale, scale, scale, 1.0]).view(4, 1, 1)
    bias = draw(b, heads, n, n)
    if masked:
        bias[..., n - masked :] += MASKED
    return [packed, bias]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("masked", [0, 7])
def test_output_and_every_gradient(case, masked, dtype):
    check_kernel(
        triton_attention.shared_bias_attention,
        reference.shared_bias_attention,
        inputs(*case, masked=masked),
        dtype,
        DEVICE,
    )


@pytest.mark.parametrize("c", [32, 48, 64])
def test_wider_heads(c):
    kernel, plain = triton_attention.shared_bias_attention, reference.shared_bias_attention
    check_kernel(kernel, plain, inputs(1, 2, 35, 2, c, masked=3), DTYPES[1], DEVICE)


@pytest.mark.parametrize("first", [-20.0, 20.0, MASKED], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_first_keys_serve_as_reference(first, dtype):
    """Sums over a reference far below the maximum, e^20 times it and beyond the range of numbers."""
    case = inputs(2, 2, 50, 1, 24)
    case[1][0, ..., :20] += first
    kernel, plain = triton_attention.shared_bias_attention, reference.shared_bias_attention
    check_kernel(kernel, plain, case, dtype, DEVICE)


def test_large_logits_and_fully_masked_rows_stay_finite():
    case = [x.float().to(DEVICE) for x in inputs(1, 2, 40, 1, 16, scale=50.0)]
    case[1][:] += MASKED
    assert all(torch.isfinite(x).all() for x in run(triton_attention.shared_bias_attention, case))


def test_gradients_of_fully_masked_rows_are_those_of_equal_weights():
    """At -1e9 float32 knows no other logits, and no logarithm of the number of keys beside them."""
    case = [x.float().to(DEVICE) for x in inputs(2, 2, 40, 1, 16)]
    case[1][1] += MASKED
    case[1][0, :, :5] += 1e4
    outs = (run(f, case) for f in (triton_attention.shared_bias_attention, reference.shared_bias_attention))
    for own, plain in zip(*outs, strict=True):
        torch.testing.assert_close(own, plain, atol=2e-3, rtol=2e-3)


def test_gradients_are_deterministic():
    case = [x.float().to(DEVICE) for x in inputs(1, 5, 40, 2, 16)]
    kernel = triton_attention.shared_bias_attention
    for a, b in zip(run(kernel, case), run(kernel, case), strict=True):
        assert torch.equal(a, b)


def test_registrations_are_sound():
    case = [x.float().to(DEVICE).requires_grad_() for x in inputs(1, 2, 20, 1, 16)]
    torch.library.opcheck(torch.ops.foldwright.shared_bias_attention.default, case)
