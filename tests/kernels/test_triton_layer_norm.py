# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels import reference, triton_layer_norm
from foldwright.kernels.testing import check_kernel

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
SHAPES = [(3, 5, 128), (1, 100, 16), (2, 33, 833), (7, 24)] + ([(384, 384, 128)] if CUDA else [])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", ["both", "scale", "none"])
def test_output_and_every_gradient(shape, affine, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 1
    w = torch.randn(shape[-1], generator=generator, dtype=torch.float64) if affine != "none" else None
    b = torch.randn(shape[-1], generator=generator, dtype=torch.float64) if affine == "both" else None
    check_kernel(triton_layer_norm.layer_norm, reference.layer_norm, [x, w, b], dtype, DEVICE, wide=(1, 2))


def test_non_contiguous_rows_and_large_offsets():
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(6, 40, 5, generator=generator, dtype=torch.float64) + 30.0).transpose(1, 2)
    check_kernel(triton_layer_norm.layer_norm, reference.layer_norm, [x, None, None], torch.float32, DEVICE)


def test_a_transposed_input_of_four_axes_needs_no_copy():
    """As for triangle attention around the ending node: read as it lies, with a gradient that lies alike."""
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(2, 5, 7, 24, generator=generator, dtype=torch.float64)
    w, b = (torch.randn(24, generator=generator, dtype=torch.float64) for _ in range(2))
    turned = plain.transpose(1, 2)
    inputs = [turned, w, b]
    check_kernel(triton_layer_norm.layer_norm, reference.layer_norm, inputs, torch.float32, DEVICE)
    x = turned.float().to(DEVICE).requires_grad_()
    assert not x.is_contiguous()
    y = triton_layer_norm.layer_norm(x, None, None)
    assert y.is_contiguous()
    torch.testing.assert_close(y, reference.layer_norm(x, None, None))
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert gradient.stride() == x.stride()
    (expected,) = torch.autograd.grad(reference.layer_norm(x, None, None).square().sum(), x)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


def test_registrations_are_sound():
    x, w = torch.randn(4, 16, device=DEVICE, requires_grad=True), torch.randn(16, device=DEVICE)
    torch.library.opcheck(torch.ops.foldwright.layer_norm.default, (x, w, w, 1e-5))
    turned = torch.randn(1, 4, 3, 16, device=DEVICE, requires_grad=True).transpose(1, 2)
    torch.library.opcheck(torch.ops.foldwright.layer_norm.default, (turned, w, w, 1e-5))
