# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from scipy.spatial.transform import Rotation

from foldwright.kernels import reference
from foldwright.kernels.testing import check_kernel
from foldwright.kernels.triton_rigid_align import _weighted_rigid_align, weighted_rigid_align

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
SIZES = [(1, 2, 5), (2, 3, 256), (1, 2, 700)] + ([(1, 48, 3456), (2, 1, 45_056)] if CUDA else [])


def case(batch, samples, atoms, offset=0.0):
    """A structure turned, moved and noised; a third of the atoms count twice, a third not at all."""
    generator = torch.Generator().manual_seed(atoms)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    moving = 10.0 * normal(batch, samples, atoms, 3) + offset
    turn = torch.from_numpy(Rotation.random(rng=1).as_matrix())
    target = moving @ turn.T + 3.0 * normal(batch, samples, 1, 3) + normal(batch, samples, atoms, 3)
    weight = torch.randint(3, (batch, samples, atoms), generator=generator).double()
    weight[..., :4] = 1.0
    return moving, target, weight


def align(*arguments):
    return weighted_rigid_align(*(x.float().to(DEVICE) for x in arguments)).double().cpu()


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("size", SIZES)
def test_against_the_reference(size, offset):
    inputs = case(*size, offset)
    check_kernel(weighted_rigid_align, reference.weighted_rigid_align, inputs, torch.float32, DEVICE)


def test_float64_agrees_to_its_own_precision():
    inputs = [x.to(DEVICE) for x in case(2, 2, 300)]
    expected = reference.weighted_rigid_align(*inputs)
    torch.testing.assert_close(weighted_rigid_align(*inputs), expected, atol=1e-10, rtol=0)


def test_it_agrees_with_scipy_and_recovers_a_motion():
    moving, target, weight = case(1, 1, 40)
    centre = [(x * weight[..., None]).sum(2, keepdim=True) / weight.sum() for x in (moving, target)]
    rotation, _ = Rotation.align_vectors(
        (target - centre[1])[0, 0], (moving - centre[0])[0, 0], weights=weight[0, 0]
    )
    expected = (moving - centre[0]) @ torch.from_numpy(rotation.as_matrix()).T + centre[1]
    torch.testing.assert_close(align(moving, target, weight), expected, atol=1e-4, rtol=0)
    moved = moving @ torch.from_numpy(Rotation.random(rng=3).as_matrix()).T - 7.0
    torch.testing.assert_close(align(moving, moved, weight), moved, atol=1e-4, rtol=0)


def test_a_reflection_is_never_made():
    moving, _, weight = case(1, 2, 30)
    mirrored = moving * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    out = align(mirrored, moving, weight)
    assert not torch.allclose(out, moving, atol=1.0)
    torch.testing.assert_close(
        out, reference.weighted_rigid_align(mirrored, moving, weight), atol=1e-4, rtol=0
    )
    assert torch.linalg.det(out[..., 1:4, :] - out[..., :1, :]).sign().eq(
        torch.linalg.det(mirrored[..., 1:4, :] - mirrored[..., :1, :]).sign()
    ).all()  # fmt: skip


@pytest.mark.parametrize("counted", [0, 1, 2])
def test_fewer_than_three_atoms_are_only_centred(counted):
    moving, target, _ = case(1, 1, 9)
    weight = torch.zeros(1, 1, 9)
    weight[..., :counted] = 1.0
    shift = (target - moving)[..., :counted, :].mean(2, keepdim=True) if counted else 0.0
    torch.testing.assert_close(align(moving, target, weight), moving + shift, atol=1e-4, rtol=0)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_collinear_atoms_are_only_centred(offset):
    line = torch.arange(20.0)[:, None] * torch.tensor([1.0, 2.0, -1.0]) + offset
    turned = line[:, [1, 2, 0]]
    out = align(line, turned, torch.ones(20))
    torch.testing.assert_close(out, (line - line.mean(0) + turned.mean(0)).double(), atol=1e-3, rtol=0)


def test_shared_truth_and_weights_and_strided_inputs():
    moving, target, weight = case(2, 3, 20)
    shared = moving[:, :1].transpose(2, 3).contiguous().transpose(2, 3)
    out = align(shared, target, weight[:, :1])
    expected = reference.weighted_rigid_align(
        shared.expand_as(target), target, weight[:, :1].expand(target.shape[:-1])
    )
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)


def test_no_gradient_and_the_same_every_time():
    inputs = [x.float().to(DEVICE).requires_grad_() for x in case(1, 2, 300)]
    first, second = (weighted_rigid_align(*inputs) for _ in range(2))
    assert not first.requires_grad
    assert torch.equal(first, second)


def test_registrations_are_sound():
    inputs = tuple(x[0].float().to(DEVICE) for x in case(1, 2, 20))
    torch.library.opcheck(_weighted_rigid_align, inputs)
