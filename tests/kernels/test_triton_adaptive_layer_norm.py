# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels import reference, triton_adaptive_layer_norm
from foldwright.kernels.testing import check_kernel, run

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
# B, D, samples of g, N, c
CASES = [(2, 3, 1, 10, 24), (2, 3, 3, 7, 20), (1, 1, 1, 33, 128)] + (
    [(1, 8, 8, 384, 768), (1, 8, 1, 3456, 128)] if CUDA else []
)


def inputs(b, d, shared, n, c):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, scale=1.0):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    return [draw(b, d, n, c, scale=3.0) + 1.0, draw(b, shared, n, 2 * c)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_output_and_every_gradient(case, dtype):
    check_kernel(
        triton_adaptive_layer_norm.adaptive_layer_norm,
        reference.adaptive_layer_norm,
        inputs(*case),
        dtype,
        DEVICE,
        wide=(0,),  # the residual stream
    )


def test_gradients_are_deterministic():
    case = [x.float().to(DEVICE) for x in inputs(1, 5, 1, 40, 24)]
    function = triton_adaptive_layer_norm.adaptive_layer_norm
    for one, other in zip(run(function, case), run(function, case), strict=True):
        assert torch.equal(one, other)


def test_registrations_are_sound():
    a, g = (torch.randn(2, d, 5, c, device=DEVICE, requires_grad=True) for d, c in ((3, 8), (1, 16)))
    torch.library.opcheck(torch.ops.foldwright.modulated_norm.default, (a, g, 1e-5))
