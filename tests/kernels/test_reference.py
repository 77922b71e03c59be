# SPDX-License-Identifier: Apache-2.0
"""Each reference op against an independent float64 computation: explicit loops, SciPy, or a closed form."""

import itertools
import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from foldwright.kernels import reference as ops
from foldwright.kernels import sdpa


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def norm(x, w=1.0, b=0.0):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * w + b


def test_layer_norm_and_adaptive_layer_norm():
    x, w, b = draw(3, 7), draw(7, seed=1), draw(7, seed=2)
    torch.testing.assert_close(ops.layer_norm(x, w, b), norm(x, w, b))
    gate, shift = draw(3, 7, seed=3), draw(3, 7, seed=4)
    expected = norm(x) / (1 + torch.exp(-gate)) + shift
    torch.testing.assert_close(ops.adaptive_layer_norm(x, torch.cat([gate, shift], -1)), expected)


def test_low_precision_keeps_its_dtype_with_float32_statistics():
    x = (draw(4, 256) + 100.0).to(torch.bfloat16)
    out = ops.layer_norm(x, None, None)
    assert out.dtype == torch.bfloat16
    assert (out.double() - norm(x.double())).abs().max() < 0.02


def test_transition_is_swiglu():
    x, w, b, w_in, w_out = draw(2, 6), draw(6, seed=1), draw(6, seed=2), draw(16, 6), draw(6, 8)
    y = norm(x, w, b)
    a, v = y @ w_in[:8].T, y @ w_in[8:].T
    update = (a / (1 + torch.exp(-a)) * v) @ w_out.T
    torch.testing.assert_close(ops.transition(x, w, b, w_in, w_out), x + update)
    torch.testing.assert_close(ops.transition(x, w, b, w_in, w_out, 0.25), x / 4 + update)


@pytest.mark.parametrize("outgoing", [True, False])
def test_triangle_multiplication_by_loops(outgoing):
    n, c = 5, 4
    z, mask = draw(1, n, n, c), torch.tensor([[True, True, True, True, False]])
    w1, b1, w2, b2 = (draw(c, seed=i) for i in range(4))
    w_in, w_out, w_gate = draw(4 * c, c, seed=5), draw(c, c, seed=6), draw(c, c, seed=7)
    x = norm(z, w1, b1)[0]
    ga, gb, va, vb = (x @ w.T for w in w_in.chunk(4))
    keep = (mask[0][:, None] & mask[0][None]).double()[..., None]
    a, b = torch.sigmoid(ga) * va * keep, torch.sigmoid(gb) * vb * keep
    product = torch.zeros(n, n, c, dtype=torch.float64)
    for i, j, k in itertools.product(range(n), repeat=3):
        product[i, j] += a[i, k] * b[j, k] if outgoing else a[k, i] * b[k, j]
    update = (norm(product, w2, b2) @ w_out.T) * torch.sigmoid(x @ w_gate.T)
    arguments = (z, mask, w1, b1, w_in, w2, b2, w_out, w_gate, outgoing, torch.tensor([7]))
    torch.testing.assert_close(ops.triangle_multiplication(*arguments, 0.0)[0], z[0] + update)
    change = ops.triangle_multiplication(*arguments, 0.5) - z
    kept = (change[0] / update).round()
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert (kept == kept[0]).all()  # the mask is shared by the rows
    torch.testing.assert_close(change[0], update * kept)


def attention_case(samples=3, n=6, heads=2, c=4):
    return draw(2, samples, n, 4, heads, c, seed=0), draw(2, heads, n, n, seed=3)


def test_shared_bias_attention_by_loops():
    packed, bias = attention_case()
    bias[:, :, :, 4:] += ops.MASKED
    out = ops.shared_bias_attention(packed, bias)
    q, k, v, gate = packed.unbind(3)
    for b, s, h, i in itertools.product(range(2), range(3), range(2), range(6)):
        logits = [q[b, s, i, h] @ k[b, s, j, h] / 2.0 + bias[b, h, i, j] for j in range(4)]
        weights = torch.stack([torch.exp(x) for x in logits])
        row = (weights[:, None] * v[b, s, :4, h]).sum(0) / weights.sum()
        expected = row * torch.sigmoid(gate[b, s, i, h])
        torch.testing.assert_close(out[b, s, i, 4 * h : 4 * h + 4], expected)


def test_a_fully_masked_row_stays_finite():
    packed, bias = (x.float() for x in attention_case())
    assert torch.isfinite(ops.shared_bias_attention(packed, bias + ops.MASKED)).all()


@pytest.mark.parametrize("samples", [1, 3])
def test_sdpa_gives_the_reference_and_its_gradients(samples):
    inputs = [x.requires_grad_() for x in attention_case(samples)]
    _same(ops.shared_bias_attention, sdpa.shared_bias_attention, inputs)


def _same(first, second, inputs):
    outs = [f(*inputs) for f in (first, second)]
    torch.testing.assert_close(outs[0], outs[1])
    seed = draw(*outs[0].shape, seed=9)
    for a, b in zip(*(torch.autograd.grad(o, inputs, seed) for o in outs), strict=True):
        torch.testing.assert_close(a, b)


def test_outer_product_mean_and_pair_weighted_average_by_loops():
    a, b, mask = draw(1, 4, 3, 2), draw(1, 4, 3, 2, seed=1), torch.tensor([[True, True, False, True]])
    weight, bias = draw(5, 4, seed=2), draw(5, seed=3)
    out = ops.outer_product_mean(a, b, mask, weight, bias)
    for i, j in itertools.product(range(3), repeat=2):
        outer = sum(torch.outer(a[0, s, i], b[0, s, j]).flatten() for s in (0, 1, 3))
        torch.testing.assert_close(out[0, i, j], (weight @ outer + bias) / 3.001)
    v, logits, gate = draw(1, 4, 3, 2, 5), draw(1, 2, 3, 3, seed=4), draw(1, 4, 3, 10, seed=5)
    out = ops.pair_weighted_average(v, logits, gate).unflatten(-1, (2, 5))
    for s, i, h in itertools.product(range(4), range(3), range(2)):
        weights = torch.exp(logits[0, h, i]) / torch.exp(logits[0, h, i]).sum()
        expected = sum(weights[j] * v[0, s, j, h] for j in range(3))
        torch.testing.assert_close(
            out[0, s, i, h], expected * torch.sigmoid(gate[0, s, i, 5 * h : 5 * h + 5])
        )


@pytest.mark.parametrize("shared_axis", [1, 2])
def test_dropout_shares_its_mask_along_one_axis_and_keeps_the_mean(shared_axis):
    x, update = torch.zeros(2, 40, 50, 8), torch.ones(2, 40, 50, 8)
    out = ops.dropout_residual(x, update, torch.tensor([1, 2]), 0.25, shared_axis)
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    first = out.select(shared_axis, 0).unsqueeze(shared_axis)
    assert torch.equal(out, first.expand_as(out))
    assert not torch.equal(out[0], out[1])
    assert out.mean() == pytest.approx(1.0, abs=0.08)  # 640 or 800 draws: 3.5 standard errors
    assert torch.equal(out, ops.dropout_residual(x, update, torch.tensor([1, 2]), 0.25, shared_axis))


def test_smooth_lddt_of_the_truth_is_the_golden_minimum():
    x = draw(1, 2, 30, 3) * 3
    mask, nucleotide = torch.ones(1, 30, dtype=torch.bool), torch.zeros(1, 30, dtype=torch.bool)
    golden = 1 - 0.25 * sum(1 / (1 + math.exp(-c)) for c in (0.5, 1.0, 2.0, 4.0))
    assert golden == pytest.approx(0.1959, abs=1e-4)
    torch.testing.assert_close(
        ops.smooth_lddt(x, x, mask, nucleotide), torch.full((1, 2), golden, dtype=x.dtype)
    )


def test_smooth_lddt_by_loops_with_its_radii_and_mask():
    x, y = draw(1, 1, 12, 3) * 12, draw(1, 1, 12, 3, seed=1) * 12
    mask = torch.arange(12)[None] != 5
    nucleotide = torch.arange(12)[None] % 3 == 0
    total = count = 0.0
    for i, j in itertools.permutations(range(12), 2):
        d = float((y[0, 0, i] - y[0, 0, j]).norm())
        if mask[0, i] and mask[0, j] and d < (30.0 if nucleotide[0, i] else 15.0):
            error = abs(d - float((x[0, 0, i] - x[0, 0, j]).norm()))
            total += sum(0.25 / (1 + math.exp(error - c)) for c in (0.5, 1.0, 2.0, 4.0))
            count += 1
    assert count > 20
    assert float(ops.smooth_lddt(x, y, mask, nucleotide)) == pytest.approx(1 - total / count, abs=1e-9)


def test_rigid_align_agrees_with_scipy_and_recovers_a_motion():
    moving, weight = draw(20, 3), torch.rand(20, dtype=torch.float64) + 0.1
    target = draw(20, 3, seed=1)
    aligned = ops.weighted_rigid_align(moving, target, weight)
    centre = [(x * weight[:, None]).sum(0) / weight.sum() for x in (moving, target)]
    rotation, _ = Rotation.align_vectors(target - centre[1], moving - centre[0], weights=weight)
    expected = torch.tensor(rotation.apply(moving - centre[0])) + centre[1]
    torch.testing.assert_close(aligned, expected)
    motion = torch.tensor(Rotation.from_rotvec([0.3, -2.0, 1.1]).as_matrix())
    moved = moving @ motion.T + torch.tensor([5.0, -3.0, 100.0])
    torch.testing.assert_close(ops.weighted_rigid_align(moving, moved, weight), moved)


def test_rigid_align_never_mirrors_and_survives_degenerate_sets():
    x, weight = draw(15, 3), torch.ones(15, dtype=torch.float64)
    mirrored = ops.weighted_rigid_align(x * torch.tensor([1.0, 1.0, -1.0]), x, weight)
    motion = torch.linalg.lstsq(x * torch.tensor([1.0, 1.0, -1.0]) - 0, mirrored).solution
    assert torch.linalg.det(motion) > 0
    line = torch.outer(torch.arange(5.0), torch.tensor([1.0, 2.0, 3.0]))
    for points, w in [(line, torch.ones(5)), (line[:1], torch.ones(1)), (line, torch.zeros(5))]:
        out = ops.weighted_rigid_align(points, points + 1.0, w)
        assert torch.isfinite(out).all()
    torch.testing.assert_close(ops.weighted_rigid_align(line, line + 1.0, torch.ones(5)), line + 1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("n", [40, 77, 384])
def test_sdpa_on_the_gpu_stays_near_float64(n):
    case = attention_case(4, n, 4, 32)
    expected = ops.shared_bias_attention(*case)
    low = [x.cuda().to(torch.bfloat16) for x in case]
    error = [
        float((f(*low).double().cpu() - expected).norm() / expected.norm())
        for f in (ops.shared_bias_attention, sdpa.shared_bias_attention)
    ]
    assert error[1] <= 2 * error[0] + 1e-3
