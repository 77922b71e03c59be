# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels import reference, triton_projected_residual
from foldwright.kernels.testing import check_kernel, run

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
# B, I, J, c, c_in
CASES = [(2, 7, 9, 16, 16), (1, 9, 5, 24, 32)] + (
    [(1, 384, 384, 128, 128), (1, 250, 250, 128, 128), (2, 70, 77, 64, 64)] if CUDA else []
)
KERNEL, PLAIN = triton_projected_residual.projected_residual, reference.projected_residual


def inputs(b, n_i, n_j, c, c_in, transposed=False, rate=0.25, axis=1):
    generator = torch.Generator().manual_seed(6)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = draw(b, n_j, n_i, c_in).transpose(1, 2) if transposed else draw(b, n_i, n_j, c_in)
    weight = draw(c, c_in) * c_in**-0.5
    return [draw(b, n_i, n_j, c), x, weight, torch.arange(b) + 40, rate, axis]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("rate", [0.0, 0.25])
@pytest.mark.parametrize(("transposed", "axis"), [(False, 1), (True, 2)])
def test_output_and_every_gradient(case, transposed, axis, rate, dtype):
    check_kernel(KERNEL, PLAIN, inputs(*case, transposed, rate, axis), dtype, DEVICE, wide=(2,))


def test_the_mask_is_the_references_to_the_bit():
    z, x, weight, *options = (
        v.float().to(DEVICE) if torch.is_tensor(v) and v.is_floating_point() else v
        for v in inputs(2, 6, 8, 16, 16)
    )
    options[0] = options[0].to(DEVICE)
    dropped = [f(torch.zeros_like(z), x, weight, *options) == 0 for f in (KERNEL, PLAIN)]
    assert torch.equal(*dropped)
    assert 0.1 < dropped[0].float().mean() < 0.4


def test_wide_pairs_are_projected_apart():
    case = [v.to(DEVICE) if torch.is_tensor(v) else v for v in inputs(1, 3, 4, 144, 16)]
    case = [v.float() if torch.is_tensor(v) and v.is_floating_point() else v for v in case]
    torch.testing.assert_close(KERNEL(*case), PLAIN(*case))


def test_gradients_are_deterministic():
    case = [
        v.float().to(DEVICE) if torch.is_tensor(v) and v.is_floating_point() else v
        for v in inputs(1, 12, 12, 32, 32)
    ]
    case[3] = case[3].to(DEVICE)
    for a, b in zip(run(KERNEL, case), run(KERNEL, case), strict=True):
        assert torch.equal(a, b)


def test_registrations_are_sound():
    case = [
        v.float().to(DEVICE).requires_grad_() if torch.is_tensor(v) and v.is_floating_point() else v
        for v in inputs(1, 5, 6, 16, 16, transposed=True, axis=2)
    ]
    case[3] = case[3].to(DEVICE)
    torch.library.opcheck(torch.ops.foldwright.projected_residual.default, case)


@pytest.mark.parametrize(
    "laid", [lambda x: x.transpose(1, 2)[..., :16], lambda x: x[..., :16].mT.contiguous().mT]
)
def test_a_gradient_of_pairs_with_gaps_lies_as_the_compiler_is_told(laid):
    x, weight = torch.randn(2, 5, 5, 32, device=DEVICE), torch.randn(16, 16, device=DEVICE)
    seed, dy = torch.tensor([1, 2], device=DEVICE), torch.randn(2, 5, 5, 16, device=DEVICE)
    op = torch.ops.foldwright.projected_residual_backward.default
    torch.library.opcheck(op, (dy, laid(x), weight, seed, 0.25, 1), test_utils="test_faketensor")
