# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels import reference, tiles, triton_outer_product_mean
from foldwright.kernels.testing import check_kernel, run

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
# B, M, N, c, c_z
CASES = [(2, 35, 3, 3, 20), (1, 5, 34, 2, 16), (1, 33, 2, 17, 40)] + (
    [(1, 1024, 384, 32, 128), (2, 100, 77, 32, 128), (1, 50, 60, 64, 256), (1, 64, 40, 16, 512)]
    if CUDA
    else []
)
KERNEL = triton_outer_product_mean.outer_product_mean


def inputs(b, m, n, c, c_z, masked=4):
    """a and b as halves of one projection; some rows are masked, of the last example all beyond `masked`."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    packed = draw(b, m, n, 2 * c)
    mask = torch.rand(b, m, generator=generator) < 0.8
    mask[-1, m - masked :] = False
    return [*packed.chunk(2, -1), mask, draw(c_z, c * c) / c, draw(c_z)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_every_gradient(case, dtype):
    check_kernel(KERNEL, reference.outer_product_mean, inputs(*case), dtype, DEVICE, wide=(3, 4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_slices_of_several_channels(dtype, monkeypatch):
    sizes = {"LEFT": 64, "NI": 16, "RIGHT": 32, "ROWS": 16}  # interpreted tiles have slices of one channel

    def tile(_op, kernel, *_):
        return {name: size for name, size in sizes.items() if kernel != "outer" or name != "ROWS"}

    monkeypatch.setattr(triton_outer_product_mean, "tile", tile)
    check_kernel(KERNEL, reference.outer_product_mean, inputs(1, 18, 19, 6, 20), dtype, DEVICE, wide=(3, 4))


def test_an_msa_without_any_row_gives_the_bias_and_no_gradient():
    a, b, mask, weight, bias = (x.float() if x.is_floating_point() else x for x in inputs(1, 8, 4, 3, 16))
    case = [x.to(DEVICE) for x in (a, b, torch.zeros_like(mask), weight, bias)]
    out, da, db, dw, _ = run(KERNEL, case)
    torch.testing.assert_close(out, (case[4] / 1e-3).expand_as(out))
    assert not da.any()
    assert not db.any()
    assert not dw.any()


def test_chunks_of_the_gradient_add_up(monkeypatch):
    case = [x.float().to(DEVICE) if x.is_floating_point() else x.to(DEVICE) for x in inputs(1, 12, 7, 2, 16)]
    whole = run(KERNEL, case)
    monkeypatch.setattr(triton_outer_product_mean, "CHUNK_BYTES", 3 * 7 * 2 * 2 * 4)  # of three tokens
    for one, other in zip(whole, run(KERNEL, case), strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_are_deterministic():
    case = [x.float().to(DEVICE) if x.is_floating_point() else x.to(DEVICE) for x in inputs(1, 12, 9, 2, 16)]
    for one, other in zip(run(KERNEL, case), run(KERNEL, case), strict=True):
        assert torch.equal(one, other)


def test_registrations_are_sound():
    case = [x.float().to(DEVICE).requires_grad_() if x.is_floating_point() else x.to(DEVICE)
            for x in inputs(1, 6, 3, 1, 16)]  # fmt: skip
    torch.library.opcheck(torch.ops.foldwright.outer_product_mean.default, case)


@pytest.mark.parametrize("architecture", ["default", "sm_90"])
@pytest.mark.parametrize("kernel", ["forward", "weights", "outer"])
@pytest.mark.parametrize("c_z", [128, 256, 512])
def test_wider_channels_take_no_more_of_the_chip(monkeypatch, architecture, kernel, c_z):
    """The weight's tile, which stands in shared memory, is no larger than that of AF3's 32 channels."""
    monkeypatch.setattr(tiles, "interpreting", lambda: False)
    monkeypatch.setattr(tiles, "architecture", lambda: architecture)
    elements = []
    for c in (32, 48, triton_outer_product_mean.MAX_CHANNELS):
        sizes = triton_outer_product_mean._tile(c, c_z, kernel, torch.bfloat16)
        elements.append(sizes["SLICE"] * sizes["D"] * sizes["Z"])
    assert max(elements) == elements[0]
