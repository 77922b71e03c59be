# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels import reference, tiles, triton_triangle_multiplication
from foldwright.kernels.testing import check_kernel, run

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
CASES = [(2, 9, 16), (1, 13, 24)] + (
    [(1, 77, 128), (2, 130, 64), (1, 256, 128), (1, 40, 256)] if CUDA else []
)
WIDTHS = [(1, 3, 64), (1, 3, 128), (1, 4, 256), (2, 4, 300), (1, 4, 384), (1, 3, 512)] + (
    [(1, 40, 320), (1, 77, 384), (2, 130, 512)] if CUDA else []
)


def inputs(b, n, c, outgoing, rate=0.25):
    generator = torch.Generator().manual_seed(3)

    def draw(*shape, scale=1.0):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    mask = torch.arange(n)[None].expand(b, -1) < n - 2
    norms = [1 + 0.1 * draw(c), 0.1 * draw(c)]
    weights = [draw(k * c, c, scale=c**-0.5) for k in (4, 1, 1)]
    more = [1 + 0.1 * draw(c), 0.1 * draw(c)]
    seed = torch.arange(b) * 12345 + 7
    return [draw(b, n, n, c), mask, *norms, weights[0], *more, *weights[1:], outgoing, seed, rate]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("outgoing", [True, False])
def test_output_and_every_gradient(case, outgoing, dtype):
    check_kernel(
        triton_triangle_multiplication.triangle_multiplication,
        reference.triangle_multiplication,
        inputs(*case, outgoing, 0.25 if outgoing else 0.0),
        dtype,
        DEVICE,
        wide=range(2, 9),
    )


@pytest.mark.parametrize("case", WIDTHS, ids=str)
def test_every_width(case, monkeypatch):
    monkeypatch.setattr(tiles, "_INTERPRETED", 128)  # its cost is a tile's, whatever the size
    check_kernel(
        triton_triangle_multiplication.triangle_multiplication,
        reference.triangle_multiplication,
        inputs(*case, case[2] < 512),
        DTYPES[1],
        DEVICE,
        wide=range(2, 9),
    )


def test_gradients_are_deterministic():
    case = [
        x.float().to(DEVICE) if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for x in inputs(1, 12, 16, True)
    ]
    case[1], case[-2] = case[1].to(DEVICE), case[-2].to(DEVICE)
    kernel = triton_triangle_multiplication.triangle_multiplication
    for a, b in zip(run(kernel, case), run(kernel, case), strict=True):
        assert torch.equal(a, b)


def test_registrations_are_sound():
    case = [
        x.float().to(DEVICE).requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for x in inputs(1, 6, 16, False)
    ]
    case[1], case[-2] = case[1].to(DEVICE), case[-2].to(DEVICE)
    torch.library.opcheck(torch.ops.foldwright.triangle_multiplication.default, case)
