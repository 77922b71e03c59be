# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels import reference
from foldwright.kernels.testing import check_kernel, run
from foldwright.kernels.triton_gather_pairs import _extent, gather_pairs
from foldwright.windows import KEYS, QUERIES

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.bfloat16 if CUDA else torch.float16]
SIZES = [(1, 7, 64, 6), (2, 70, 96, 16), (1, 40, 160, 24)] + ([(1, 384, 3456, 16)] if CUDA else [])


def case(batch, n, atoms, c, kind="protein"):
    """Tokens of one to many atoms, in order; the last atoms are padding, of token 0 as in a Batch."""
    generator = torch.Generator().manual_seed(n)
    token = torch.randint(n, (batch, atoms), generator=generator)
    if kind == "protein":
        token = token.sort(1).values
    mask = torch.rand(batch, atoms, generator=generator) > 0.1
    mask[:, -atoms // 5 :] = False
    z = torch.randn(batch, n, n, c, generator=generator, dtype=torch.float64)
    return z, torch.where(mask, token, 0).to(DEVICE), mask.to(DEVICE)


def of(function, token, mask):
    return lambda z: function(z, token.to(z.device), mask.to(z.device))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_output_and_gradient(size, dtype):
    check(dtype, *case(*size))


def test_atoms_of_a_token_need_not_lie_together():
    check(torch.float32, *case(2, 20, 96, 6, "any order"))


def check(dtype, z, token, mask):
    check_kernel(of(gather_pairs, token, mask), of(reference.gather_pairs, token, mask), [z], dtype, DEVICE)


def test_a_tokens_gradient_is_the_sum_over_its_atom_pairs_by_loops():
    z, token, mask = case(1, 5, 64, 1)
    incoming = torch.randn(1, 2, QUERIES, KEYS, 1, device=DEVICE)
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for atom in range(64):
        for key in range(KEYS):
            other = atom // QUERIES * QUERIES - (KEYS - QUERIES) // 2 + key
            if 0 <= other < 64 and mask[0, atom] and mask[0, other]:
                place = token[0, atom], token[0, other]
                expected[place] += incoming[0, atom // QUERIES, atom % QUERIES, key, 0].double().cpu()
    z = z.float().to(DEVICE).requires_grad_()
    gather_pairs(z, token, mask).backward(incoming)
    torch.testing.assert_close(z.grad[0, ..., 0].double().cpu(), expected, atol=1e-5, rtol=1e-5)


def test_strided_pairs_and_gradients():
    z, token, mask = case(1, 40, 64, 16)
    z = z.float().to(DEVICE).transpose(1, 2)
    out, gradient = run(of(gather_pairs, token, mask), [z])
    expected, other = run(of(reference.gather_pairs, token, mask), [z])
    assert torch.equal(out, expected)
    torch.testing.assert_close(gradient, other)


def test_the_gradient_is_the_same_every_time_and_zero_where_nothing_reads():
    z, token, mask = case(1, 40, 288, 16)
    token[token == 7] = 8
    results = [run(of(gather_pairs, token, mask), [z.float().to(DEVICE)])[1] for _ in range(2)]
    assert torch.equal(*results)
    assert not results[0][0, 7].any()
    assert not results[0][0, :, 7].any()


def test_extents_by_hand():
    token = torch.tensor([[2, 2, 0, -1, 2, -1]], dtype=torch.int32)
    first, last = _extent(token, 4)
    assert first.tolist() == [[2, 6, 0, 6]]
    assert last.tolist() == [[2, -1, 4, -1]]


def test_registrations_are_sound():
    z, token, mask = case(2, 9, 64, 6)
    token = torch.where(mask, token, -1).int()
    arguments = (z.float().to(DEVICE).requires_grad_(), token)
    torch.library.opcheck(torch.ops.foldwright.gather_pairs.default, arguments)


def test_atoms_beyond_the_last_whole_window_are_refused():
    """As by the reference: there is no place for their pairs."""
    z, token, mask = torch.zeros(1, 5, 5, 4, device=DEVICE), *case(1, 5, 64, 4)[1:]
    for function in (gather_pairs, reference.gather_pairs):
        with pytest.raises(ValueError, match="got 40 atoms, expected a multiple of 32"):
            function(z, token[:, :40], mask[:, :40])
