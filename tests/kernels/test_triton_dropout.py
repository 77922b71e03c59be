# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels import reference, triton_dropout
from foldwright.kernels.testing import check_kernel, run
from foldwright.randomness import random_bits, uniform

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
SHAPES = [(2, 7, 7, 24), (1, 33, 20, 16)] + ([(1, 384, 384, 128), (1, 1024, 384, 64)] if CUDA else [])


def case(shape, transposed=False):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    update = torch.randn(shape, generator=generator, dtype=torch.float64)
    if transposed:
        update = update.transpose(1, 2).contiguous().transpose(1, 2)
    return x, update, torch.arange(shape[0]) * 12345 + 7


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared_axis", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_with_the_very_mask_of_the_reference(shape, shared_axis, dtype):
    inputs = [*case(shape), 0.25, shared_axis]
    check_kernel(triton_dropout.dropout_residual, reference.dropout_residual, inputs, dtype, DEVICE)
    x, _, seed = (t.to(DEVICE) for t in case(shape))
    zero, ones = torch.zeros_like(x).float(), torch.ones_like(x).float()
    kept = [f(zero, ones, seed, 0.25, shared_axis) > 0
            for f in (triton_dropout.dropout_residual, reference.dropout_residual)]  # fmt: skip
    assert torch.equal(*kept)
    assert 0 < kept[0].float().mean() < 1


@pytest.mark.parametrize("shared_axis", [1, 2])
def test_seeds_are_a_column_of_those_of_a_block(shared_axis):
    x, update, _ = (t.float().to(DEVICE) for t in case((3, 5, 6, 16)))
    seed = random_bits(torch.tensor([1, 2, 3], device=DEVICE), (4,))[:, 1]  # as the MSA module hands them out
    assert not seed.is_contiguous()
    arguments = (seed, 0.25, shared_axis)
    kernel, plain = (run(lambda a, b, f=f: f(a, b, *arguments), [x, update])
                     for f in (triton_dropout.dropout_residual, reference.dropout_residual))  # fmt: skip
    for one, other in zip(kernel, plain, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("columns", [60, 700])
def test_the_mask_itself_is_the_references(columns):
    seed = torch.tensor([3, 2**40 + 5], device=DEVICE)
    kept = triton_dropout.kept_columns(seed, 0.25, columns)
    assert torch.equal(kept.bool(), uniform(seed, (columns,)) >= 0.25)
    assert 0 < kept.float().mean() < 1


def test_a_transposed_update_is_read_as_it_lies_and_its_gradient_lies_alike():
    x, update, seed = (t.to(DEVICE) for t in case((2, 9, 9, 16), transposed=True))
    x, update = x.float(), update.float().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    out = triton_dropout.dropout_residual(x, update, seed, 0.5, 2)
    torch.testing.assert_close(out, reference.dropout_residual(x, update, seed, 0.5, 2))
    (gradient,) = torch.autograd.grad(out.sum(), update)
    assert gradient.stride() == update.stride()
    kept = (gradient != 0).float().mean()
    assert 0.3 < kept < 0.7


def test_the_residual_may_be_wider_than_the_update():
    x, update, seed = (t.to(DEVICE) for t in case((1, 6, 6, 16)))
    narrow = torch.bfloat16 if CUDA else torch.float16
    out, dx, du = run(
        lambda a, b: triton_dropout.dropout_residual(a, b, seed, 0.25, 1), [x.float(), update.to(narrow)]
    )
    assert (out.dtype, dx.dtype, du.dtype) == (torch.float32, torch.float32, narrow)


def test_registrations_are_sound():
    x, update, seed = (t.to(DEVICE) for t in case((1, 5, 5, 16)))
    arguments = (x.float().requires_grad_(), update.float().requires_grad_(), seed, 0.25, 1)
    torch.library.opcheck(torch.ops.foldwright.dropout_residual.default, arguments)
