# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels import reference, triton_pair_bias
from foldwright.kernels.testing import check_kernel, run

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
CASES = [(2, 7, 16, 3), (1, 9, 24, 16), (1, 11, 130, 4)] + (
    [(1, 384, 128, 4), (1, 250, 128, 16), (2, 77, 64, 8), (1, 60, 512, 16)] if CUDA else []
)
KERNEL, PLAIN = triton_pair_bias.pair_bias, reference.pair_bias


def inputs(b, n, c, heads, transposed=False):
    generator = torch.Generator().manual_seed(4)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    z = draw(b, n, n, c)
    key_bias = torch.where(torch.arange(n) < n - 2, 0.0, reference.MASKED).double().expand(b, 1, 1, n)
    weights = [1 + 0.1 * draw(c), 0.1 * draw(c), draw(heads, c) * c**-0.5]
    return [z.transpose(1, 2) if transposed else z, *weights], key_bias


def with_mask(function, key_bias):
    """The op of what takes a gradient: its mask is a constant, exact in every dtype."""

    def call(z, *weights):
        out = function(z, *weights, key_bias.to(z))
        return out if isinstance(out, torch.Tensor) else torch.cat([part.flatten() for part in out])

    return call


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("op", ["pair_bias", "norm_and_pair_bias"])
def test_output_and_every_gradient(op, case, transposed, dtype):
    given, key_bias = inputs(*case, transposed)
    key_bias = key_bias.clamp(
        min=-1e4
    )  # float16's range; a mask that hides what is under it would hide errors
    kernel, plain = (
        with_mask(getattr(module, op), 1e-4 * key_bias) for module in (triton_pair_bias, reference)
    )
    check_kernel(kernel, plain, given, dtype, DEVICE, wide=(1, 2, 3))


def test_transposed_pairs_are_read_as_they_lie():
    given, key_bias = inputs(1, 6, 16, 2, transposed=True)
    case = [x.float().to(DEVICE) for x in given]
    assert not case[0].is_contiguous()
    function = with_mask(KERNEL, key_bias.to(DEVICE))
    out, dz, *_ = run(function, case)
    other, dz_other, *_ = run(function, [case[0].contiguous(), *case[1:]])
    assert torch.equal(out, other)
    assert torch.equal(dz, dz_other)


def test_masked_keys_are_hidden_from_every_query():
    given, key_bias = inputs(2, 6, 16, 3)
    out = KERNEL(*(x.float().to(DEVICE) for x in given), key_bias.float().to(DEVICE))
    assert (out[..., -2:] < -1e8).all()
    assert (out[..., :-2].abs() < 100).all()


def test_maps_of_atom_windows_are_the_references():
    z, w, key_bias = torch.randn(1, 2, 4, 8, 16), torch.randn(3, 16), torch.zeros(1, 2, 1, 1, 8)
    arguments = (z, torch.ones(16), torch.zeros(16), w, key_bias)
    torch.testing.assert_close(KERNEL(*arguments), PLAIN(*arguments))
    assert KERNEL(*arguments).shape == (1, 2, 3, 4, 8)


def test_gradients_are_deterministic():
    given, key_bias = inputs(1, 12, 32, 4)
    case = [x.float().to(DEVICE) for x in given]
    function = with_mask(KERNEL, key_bias.to(DEVICE))
    for a, b in zip(run(function, case), run(function, case), strict=True):
        assert torch.equal(a, b)


def test_registrations_are_sound():
    given, key_bias = inputs(1, 5, 16, 2)
    case = [x.float().to(DEVICE).requires_grad_() for x in given]
    for op in (torch.ops.foldwright.pair_bias, torch.ops.foldwright.norm_and_pair_bias):
        torch.library.opcheck(op.default, (*case, key_bias.float().to(DEVICE)))


@pytest.mark.parametrize(
    "laid", [lambda z: z.transpose(1, 2)[..., :16], lambda z: z[..., :16].mT.contiguous().mT]
)
def test_a_gradient_of_pairs_with_gaps_lies_as_the_compiler_is_told(laid):
    given, _ = inputs(1, 5, 32, 2)
    z, *_ = (x.float().to(DEVICE) for x in given)
    parameters = [torch.randn(shape, device=DEVICE) for shape in ((16,), (16,), (2, 16))]
    arguments = (torch.randn(1, 2, 5, 5, device=DEVICE), None, laid(z), *parameters)
    torch.library.opcheck(
        torch.ops.foldwright.pair_bias_backward.default, arguments, test_utils="test_faketensor"
    )
