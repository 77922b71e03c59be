# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels import reference, sdpa, triton_window_attention
from foldwright.kernels.reference import MASKED
from foldwright.kernels.testing import check_kernel, run
from foldwright.windows import KEYS, QUERIES, key_mask

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
# B, D, windows, heads, channels of a head
CASES = [(2, 3, 3, 2, 8), (1, 6, 1, 1, 20), (1, 2, 6, 2, 16)] + ([(1, 48, 108, 4, 32)] if CUDA else [])


def inputs(b, d, windows, heads, c, masked=5):
    """Queries, keys and values of one projection; the last `masked` atoms are padding."""
    generator = torch.Generator().manual_seed(0)
    a = windows * QUERIES

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    packed = draw(b, d, a, 3, heads, c)
    mask = torch.arange(a).expand(b, a) < a - masked
    bias = draw(b, windows, heads, QUERIES, KEYS)
    bias = bias.masked_fill(~key_mask(mask)[:, :, None, None], MASKED)
    return [*packed.unbind(3), bias, draw(b, d, a, heads * c)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_output_and_every_gradient(case, dtype):
    arguments = inputs(*case) if dtype != torch.float16 else inputs(*case, masked=0)
    if dtype == torch.float16:  # which does not hold the masking constant
        arguments[3] = arguments[3].clamp(min=-1e4)
    kernel, plain = triton_window_attention.window_attention, reference.window_attention
    check_kernel(kernel, plain, arguments, dtype, DEVICE)


def test_large_logits_stay_finite_and_right():
    arguments = inputs(1, 2, 2, 1, 16)
    offsets = torch.tensor([-1e4, 0.0, 1e4, 3e3]).repeat(QUERIES // 4)[:, None]
    arguments[3] = arguments[3] + offsets
    kernel, plain = triton_window_attention.window_attention, reference.window_attention
    check_kernel(kernel, plain, arguments, torch.float32, DEVICE)


def test_a_window_without_any_key_is_finite():
    arguments = [x.float().to(DEVICE) for x in inputs(1, 2, 6, 1, 16, masked=192)]
    for tensor in run(triton_window_attention.window_attention, arguments):
        assert torch.isfinite(tensor).all()


def test_gradients_of_a_window_without_any_key_are_those_of_equal_weights():
    """At -1e9 float32 knows no other logits, and no logarithm of the number of keys beside them."""
    arguments = [x.float().to(DEVICE) for x in inputs(1, 2, 6, 1, 16, masked=150)]
    outs = (run(f, arguments) for f in (triton_window_attention.window_attention, reference.window_attention))
    for own, plain in zip(*outs, strict=True):
        torch.testing.assert_close(own, plain, atol=1e-4, rtol=1e-4)


def test_a_window_without_any_key_is_finite_whatever_its_logits():
    """Products of 54 in base 2: with -1e9 one rounding differs from another by 128 there. Can fail on a GPU
    alone, since the interpreter contracts nothing; test_ahead.py reads what is compiled.
    """
    q, k, v, bias, gate = (x.to(DEVICE, torch.bfloat16 if CUDA else torch.float32)
                           for x in inputs(1, 1, 6, 1, 16, masked=192))  # fmt: skip
    q, k = (x.fill_(37.5**0.5) / 2 for x in (q, k))
    for tensor in run(triton_window_attention.window_attention, [q, k, v, bias, gate]):
        assert torch.isfinite(tensor).all()


def test_sdpa_computes_the_same():
    arguments = inputs(2, 3, 3, 2, 8)
    torch.testing.assert_close(sdpa.window_attention(*arguments), reference.window_attention(*arguments))


def test_gradients_are_deterministic():
    arguments = [x.float().to(DEVICE) for x in inputs(1, 5, 3, 2, 16)]
    function = triton_window_attention.window_attention
    for one, other in zip(run(function, arguments), run(function, arguments), strict=True):
        assert torch.equal(one, other)


def test_registrations_are_sound():
    arguments = [x.float().to(DEVICE).requires_grad_() for x in inputs(1, 2, 2, 1, 16)]
    torch.library.opcheck(torch.ops.foldwright.window_attention.default, arguments)
