# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels import reference, triton_smooth_lddt
from foldwright.kernels.testing import check_kernel, run

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
SIZES = [(2, 3, 30), (1, 2, 150)] + ([(1, 4, 1000), (2, 2, 3456)] if CUDA else [])


def case(batch, samples, atoms):
    """Points as dense as atoms of a protein, noised by some Å, a tenth unresolved, a third nucleotides."""
    generator = torch.Generator().manual_seed(atoms)
    side = (atoms * 18.0) ** (1 / 3)
    x_true = torch.rand(batch, samples, atoms, 3, generator=generator, dtype=torch.float64) * side
    x = x_true + torch.randn(x_true.shape, generator=generator, dtype=torch.float64) * 1.5
    mask = torch.rand(batch, atoms, generator=generator) > 0.1
    return x, x_true, mask, torch.rand(batch, atoms, generator=generator) > 0.66


def without_truth(function, x_true, mask, is_nucleotide):
    """The truth takes no gradient in training, and gets none from the kernel."""
    return lambda x: function(x, x_true.to(x), mask.to(x.device), is_nucleotide.to(x.device))


@pytest.mark.parametrize("size", SIZES)
def test_loss_and_gradient(size):
    x, *rest = case(*size)
    kernel, plain = (without_truth(f, *rest) for f in (triton_smooth_lddt.smooth_lddt, reference.smooth_lddt))
    check_kernel(kernel, plain, [x], torch.float32, DEVICE)


def test_atoms_far_away_and_at_the_same_place_are_finite():
    x, x_true, mask, nucleotide = (t.to(DEVICE) for t in case(1, 1, 40))
    x = x.float()
    x[..., 0, :], x[..., 1, :] = 1e4, x[..., 2, :]
    out, gradient = run(without_truth(triton_smooth_lddt.smooth_lddt, x_true, mask, nucleotide), [x])
    assert torch.isfinite(out).all()
    assert torch.isfinite(gradient).all()


def test_nothing_resolved_is_a_loss_of_one_without_gradient():
    x, x_true, mask, nucleotide = (t.to(DEVICE) for t in case(1, 2, 20))
    mask = torch.zeros_like(mask)
    out, gradient = run(without_truth(triton_smooth_lddt.smooth_lddt, x_true, mask, nucleotide), [x.float()])
    assert torch.equal(out, torch.ones_like(out))
    assert not gradient.any()


def test_registrations_are_sound():
    x, x_true, mask, nucleotide = (t.to(DEVICE) for t in case(1, 2, 20))
    arguments = (x.float().requires_grad_(), x_true.float(), mask, nucleotide)
    torch.library.opcheck(torch.ops.foldwright.smooth_lddt.default, arguments)
