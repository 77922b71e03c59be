# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels import reference, tiles, triton_transition, triton_wide_transition
from foldwright.kernels.testing import check_kernel, run

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
CASES = [((2, 40), 16, 4), ((1, 9, 15), 24, 2), ((130,), 64, 4), ((2, 9), 128, 2), ((11,), 256, 1)] + (
    [((384, 384), 128, 4), ((77, 77), 256, 2)] if CUDA else []
)
WIDE = [((1, 3, 6), 264, 1), ((1, 13, 11), 384, 1), ((1, 4, 3), 512, 1)] + (
    [((1, 77, 77), 384, 4), ((1, 128, 128), 512, 4)] if CUDA else []
)


def inputs(lead, c, n, share=1.0):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape, scale=1.0):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    return [
        draw(*lead, c),
        1 + 0.1 * draw(c),
        0.1 * draw(c),
        draw(2 * n * c, c, scale=c**-0.5),
        draw(c, n * c, scale=(n * c) ** -0.5),
        share,
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("lead", "c", "n"), CASES)
def test_output_and_every_gradient(lead, c, n, dtype):
    case = inputs(lead, c, n, 1.0 if c < 128 else 0.25)
    check_kernel(triton_transition.transition, reference.transition, case, dtype, DEVICE, wide=(1, 2, 3, 4))


@pytest.mark.parametrize(("lead", "c", "n"), WIDE)
def test_wide_rows(lead, c, n, monkeypatch):
    rows, dtype = 132, DTYPES[c == 384]  # of the backward pass; 143 rows make two chunks
    monkeypatch.setattr(tiles, "_INTERPRETED", 128)  # its cost is a tile's, whatever the size
    monkeypatch.setattr(triton_wide_transition, "_CHUNK_BYTES", rows * 3 * n * c * dtype.itemsize)
    kernel = torch.ops.foldwright.transition  # beneath the choice of the reference
    check_kernel(kernel, reference.transition, inputs(lead, c, n, 0.5), dtype, DEVICE, wide=(1, 2, 3, 4))


def test_chunks_of_rows_add_up(monkeypatch):
    monkeypatch.setattr(triton_transition, "_CHUNK_BYTES", 1)
    monkeypatch.setattr(triton_transition, "_WHOLE", 32)
    ran = []
    launch = triton_transition._launch
    monkeypatch.setattr(triton_transition, "_launch", lambda n, *a: ran.append(n) or launch(n, *a))
    case = inputs((75,), 16, 2)
    check_kernel(
        triton_transition.transition, reference.transition, case, torch.float32, DEVICE, wide=(1, 2, 3, 4)
    )
    assert ran == [75, 32, 32, 11]


def test_the_reference_runs_for_the_single_track_and_beyond_the_widest_rows(monkeypatch):
    ran = []
    monkeypatch.setattr(reference, "transition", lambda x, *_: ran.append(x.shape) or x)
    monkeypatch.setattr(triton_transition, "_transition", lambda x, *_: x)
    for shape in [(1, 3, 512), (1, 2, 2, 384), (1, 2, 2, 512), (1, 2, 2, 520), (1, 3, 256)]:
        triton_transition.transition(torch.empty(shape), *[torch.empty(0)] * 4)
    assert ran == [(1, 3, 512), (1, 2, 2, 520)]


def test_gradients_are_deterministic():
    *case, share = inputs((150,), 16, 2)
    case = [*(x.float().to(DEVICE) for x in case), share]
    for a, b in zip(
        run(triton_transition.transition, case), run(triton_transition.transition, case), strict=True
    ):
        assert torch.equal(a, b)


def test_registrations_are_sound():
    *case, share = inputs((20,), 16, 2)
    case = [*(x.float().to(DEVICE).requires_grad_() for x in case), share]
    torch.library.opcheck(torch.ops.foldwright.transition.default, case)
