# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels import reference, triton_adaptive_layer_norm, triton_gates
from foldwright.kernels.testing import check_kernel

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
# B, D, samples of the gate, N, c
CASES = [(2, 3, 1, 10, 24), (2, 3, 3, 7, 20), (1, 1, 1, 33, 128)] + (
    [(1, 48, 48, 384, 768), (1, 48, 1, 3456, 128)] if CUDA else []
)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("b", "d", "shared", "n", "c"), CASES)
def test_gated_residual(b, d, shared, n, c, dtype):
    inputs = [draw(b, d, n, c), draw(b, d, n, c, seed=1), draw(b, shared, n, c, seed=2)]
    check_kernel(triton_gates.gated_residual, reference.gated_residual, inputs, dtype, DEVICE, wide=(0,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 5, 48), (130, 20), (3, 1200)] + ([(48, 384, 3072)] if CUDA else []))
def test_swiglu(shape, dtype):
    check_kernel(triton_gates.swiglu, reference.swiglu, [draw(*shape) * 3], dtype, DEVICE)


def test_transposed_inputs():
    h = (draw(6, 40) * 3).T.contiguous().T
    check_kernel(triton_gates.swiglu, reference.swiglu, [h], torch.float32, DEVICE)
    parts = [draw(2, 3, 8, 6, seed=seed).transpose(2, 3) for seed in range(3)]
    check_kernel(triton_gates.gated_residual, reference.gated_residual, parts, torch.float32, DEVICE)


def test_registrations_are_sound():
    x, u, g = (draw(2, d, 5, 8).float().to(DEVICE).requires_grad_() for d in (3, 3, 1))
    torch.library.opcheck(torch.ops.foldwright.gated_residual.default, (x, u, g))
    torch.library.opcheck(torch.ops.foldwright.swiglu.default, (x,))


@pytest.mark.parametrize("shape", [(1, 1, 4, 16), (2, 2, 4, 16)], ids=str)
def test_what_no_axis_of_samples_shares_is_refused(shape):
    """The kernels would leave examples unwritten: the reference broadcasts one example's gate."""
    x, shared = torch.zeros(2, 3, 4, 8, device=DEVICE), torch.zeros(shape, device=DEVICE)
    with pytest.raises(ValueError, match=r"shared by the samples of \(2, 3, 4, 8\)"):
        triton_gates.gated_residual(x, x, shared[..., :8])
    with pytest.raises(ValueError, match=r"shared by the samples of \(2, 3, 4, 8\)"):
        triton_adaptive_layer_norm.adaptive_layer_norm(x, shared)
