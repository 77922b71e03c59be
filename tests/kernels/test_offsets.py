# SPDX-License-Identifier: Apache-2.0
"""Offsets of every kernel at sizes whose tensors have more than 2^31 elements.

The last program of a grid has the largest offsets. It runs alone under Triton's interpreter, which asserts
that no sum, difference or product of 32-bit integers overflows; tensors are on the meta device, loads give
ones and nothing is stored, so sizes cost no memory; of a long loop the first and the last turns count. One
test more has real tensors of which a few pages are used.
"""

import builtins
import dataclasses
import inspect
import sys

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from foldwright.kernels import (
    reference,
    tiles,
    triton_adaptive_layer_norm,
    triton_attention,
    triton_dropout,
    triton_gates,
    triton_gather_pairs,
    triton_layer_norm,
    triton_outer_product_mean,
    triton_pair_bias,
    triton_pair_weighted_average,
    triton_projected_residual,
    triton_rigid_align,
    triton_smooth_lddt,
    triton_transition,
    triton_triangle_multiplication,
    triton_wide_transition,
    triton_window_attention,
)

if not isinstance(triton_layer_norm._normalise, interpreter.InterpretedFunction):
    pytest.skip("kernels are compiled here, this reads them interpreted", allow_module_level=True)

MODULES = [module for name, module in sys.modules.items() if name.startswith("foldwright.kernels.triton_")]
N, ATOMS = 5000, 45_056
BF16, F32 = torch.bfloat16, torch.float32


def ends(*bounds):
    """In place of the kernels' range, whose counter has the widest type of its bounds, as the compiler's."""
    turns = builtins.range(*(int(bound) for bound in bounds))
    kept = turns if len(turns) <= 8 else [turns[0], turns[-2], turns[-1]]
    if not any(isinstance(bound, tl.tensor) and bound.dtype == tl.int64 for bound in bounds):
        return kept
    return [tl.tensor(interpreter.TensorHandle(np.array([turn]), tl.int64), tl.int64) for turn in kept]


def last_program(executor, *args, **kwargs):
    """In place of GridExecutor.__call__: the last program, on the arguments as they lie."""
    known = inspect.getfullargspec(executor.fn).args
    kwargs = {name: value for name, value in kwargs.items() if name in known}
    scope = interpreter._patch_lang(executor.fn)
    try:
        bound = inspect.getcallargs(executor.fn, *args, **kwargs)
        bound = {n: a if n in executor.constexprs else interpreter._implicit_cvt(a) for n, a in bound.items()}
        grid = (*executor.grid, 1, 1)[:3]
        assert grid[0] < 2**31, "CUDA's limit of the first axis"
        assert max(grid[1:]) < 2**16, "CUDA's limit of the other axes"
        interpreter.interpreter_builder.set_grid_dim(*grid)
        interpreter.interpreter_builder.set_grid_idx(*(size - 1 for size in grid))
        executor.fn(**bound)
    finally:
        scope.restore()


@pytest.fixture
def last_alone(monkeypatch):
    builder = interpreter.interpreter_builder
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", last_program)
    monkeypatch.setattr(builder, "options", dataclasses.replace(builder.options, debug=True))


@pytest.fixture
def no_memory(last_alone, monkeypatch):
    def ones(_self, pointers, *_):
        dtype = interpreter._get_np_dtype(pointers.get_element_ty())
        # bfloat16 travels as its bits: 1.0 is 0x3f80
        is_bfloat16 = pointers.get_element_ty() == tl.bfloat16
        data = np.full(pointers.data.shape, 0x3F80 if is_bfloat16 else 1, dtype)
        return interpreter.TensorHandle(data, pointers.get_element_ty())

    monkeypatch.setattr(tiles, "interpreting", lambda: False)  # the tiles of a GPU: the larger offsets
    monkeypatch.setattr(tiles, "architecture", lambda: "sm_90")
    monkeypatch.setattr(triton_wide_transition, "_CHUNK_BYTES", 1 << 40)
    for module in MODULES:
        monkeypatch.setattr(module, "range", ends, raising=False)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", ones)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_store", lambda *_: None)


def meta(*shape, dtype=BF16):
    return torch.empty(*shape, dtype=dtype, device="meta")


@triton.jit
def _narrow(x_ptr, n, ROWS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tl.store(x_ptr + rows * n, 1.0)


def test_an_overflow_is_seen(no_memory):
    _narrow[(N * N // 32,)](meta(1), 16, ROWS=32)
    with pytest.raises(AssertionError, match="int32 overflow"):
        _narrow[(N * N // 32,)](meta(1), 128, ROWS=32)


def weights(*shapes):
    return [meta(*shape, dtype=F32) for shape in shapes]


def pairs(c=128):
    return meta(1, N, N, c)


def attention(samples, heads, c):
    inputs = [meta(1, samples, N, 4, heads, c), meta(1, heads, N, N)]
    out, *rows = triton_attention._attention._init_fn(*inputs)
    triton_attention._attention_backward._init_fn(out, *inputs, out, *rows)


def triangle(c):
    z, mask, seed = pairs(c), meta(1, N, dtype=torch.bool), meta(1, dtype=torch.int64)
    parameters = weights((c,), (c,), (4 * c, c), (c,), (c,), (c, c), (c, c))
    forward, backward = (
        getattr(triton_triangle_multiplication, name)._init_fn
        for name in ("_triangle_multiplication", "_triangle_multiplication_backward")
    )
    for outgoing in (True, False):
        out, *kept = forward(z, mask, *parameters, outgoing, seed, 0.25)
        backward(out, z, mask, *parameters, *kept, outgoing, seed, 0.25)


def transition(c):
    inputs = [pairs(c), *weights((c,), (c,), (8 * c, c), (c, 4 * c))]
    triton_transition._transition._init_fn(*inputs, 1.0)
    triton_transition._transition_backward._init_fn(inputs[0], *inputs, 1.0)


def layer_norm(z):
    y, mean, rstd = triton_layer_norm._layer_norm._init_fn(z, *weights((128,), (128,)), 1e-5)
    triton_layer_norm._layer_norm_backward._init_fn(y, z, *weights((128,)), mean, rstd)


def pair_bias(z):
    parameters = weights((128,), (128,), (16, 128))
    y, bias = triton_pair_bias._forward_with_norm._init_fn(z, *parameters, meta(1, 1, 1, N))
    triton_pair_bias._backward._init_fn(bias, y, z, *parameters)


def outer_product_mean():
    """Twice the alignment rows that AF3 ever takes."""
    a, b = meta(1, 32_768, N, 32), meta(1, 32_768, N, 32)
    mask, w, bias = meta(1, 32_768, dtype=torch.bool), *weights((128, 1024), (128,))
    module = triton_outer_product_mean
    y = module._outer_product_mean._init_fn(a, b, mask, w, bias)
    rows, scale = module._visited(mask)
    module._weights_gradient(y, a, b, rows, scale, w)
    module._input_gradients(y[0], a[0], b[0], scale, w.to(BF16))


def pair_weighted_average():
    v, logits, gate = meta(1, 32_768, N, 8, 8), meta(1, 8, N, N), meta(1, 32_768, N, 64)
    out = triton_pair_weighted_average._pair_weighted_average._init_fn(v, logits, gate)
    triton_pair_weighted_average._pair_weighted_average_backward._init_fn(out, v, logits, gate)


def dropout(z):
    seed = meta(1, dtype=torch.int64)
    for axis in (1, 2):
        y = triton_dropout._dropout_residual._init_fn(pairs(), z, seed, 0.25, axis)
        triton_dropout._dropout_gradient._init_fn(y, seed, 0.25, axis, z.stride(), BF16)


def projected_residual(x):
    seed, weight = meta(1, dtype=torch.int64), meta(128, 128, dtype=F32)
    for axis in (1, 2):
        y = triton_projected_residual._forward._init_fn(pairs(), x, weight, seed, 0.25, axis)
        triton_projected_residual._backward._init_fn(y, x, weight, seed, 0.25, axis)


def conditioned():
    """Forty-eight samples at once, of a token track and of an atom track."""
    for n, c in ((N, 768), (16 * ATOMS, 128)):
        a, g = meta(1, 48, n, c, dtype=F32), meta(1, 48, n, 2 * c)
        y = triton_adaptive_layer_norm._modulated_norm._init_fn(a, g, 1e-5)
        triton_adaptive_layer_norm._modulated_norm_backward._init_fn(y, a, g, 1e-5)
        triton_gates._gated_residual._init_fn(a, y, y)
        triton_gates._gated_residual_backward._init_fn(y, y, y)
        h = meta(1, 48, 16 * n, 4 * c)
        triton_gates._swiglu_backward_op._init_fn(triton_gates._swiglu_op._init_fn(h), h)


def window_attention():
    q, k, v = meta(1, 48, 16 * ATOMS, 3, 4, 32).unbind(-3)
    bias, gate = meta(1, ATOMS // 2, 4, 32, 128), meta(1, 48, 16 * ATOMS, 128)
    out = triton_window_attention._window_attention._init_fn(q, k, v, bias, gate)
    triton_window_attention._window_attention_backward._init_fn(out, q, k, v, bias, gate)


def gather_pairs():
    z, token = meta(1, N, N, 128), meta(1, ATOMS, dtype=torch.int32)
    pairs = triton_gather_pairs._gather_pairs._init_fn(z, token)
    triton_gather_pairs._gather_pairs_backward._init_fn(pairs, token, N)


def rigid_align():
    x = meta(2**16 - 1, ATOMS, 3, dtype=F32)
    triton_rigid_align._weighted_rigid_align._init_fn(x, x, meta(2**16 - 1, ATOMS, dtype=F32))


def smooth_lddt():
    x, mask = meta(1, 48, ATOMS, 3, dtype=F32), meta(1, ATOMS, dtype=torch.bool)
    triton_smooth_lddt._smooth_lddt._init_fn(x, x, mask, mask)
    triton_smooth_lddt._smooth_lddt_backward._init_fn(meta(1, 48, dtype=F32), x, x, mask, mask)


KERNELS = {
    "layer_norm": lambda: layer_norm(pairs()),
    "layer_norm, transposed": lambda: layer_norm(pairs().transpose(1, 2)),
    "pair_bias": lambda: pair_bias(pairs()),
    "pair_bias, transposed": lambda: pair_bias(pairs().transpose(1, 2)),
    "transition": lambda: transition(128),
    "wide_transition": lambda: transition(512),
    "triangle_multiplication": lambda: triangle(128),
    "wide_triangle": lambda: triangle(512),
    "triangle_attention": lambda: attention(N, 4, 32),
    "attention_pair_bias": lambda: attention(48, 16, 48),
    "window_attention": window_attention,
    "gather_pairs": gather_pairs,
    "outer_product_mean": outer_product_mean,
    "pair_weighted_average": pair_weighted_average,
    "dropout_residual": lambda: dropout(pairs()),
    "dropout_residual, transposed": lambda: dropout(pairs().transpose(1, 2)),
    "projected_residual": lambda: projected_residual(pairs()),
    "projected_residual, transposed": lambda: projected_residual(pairs().transpose(1, 2)),
    "conditioned": conditioned,
    "rigid_align": rigid_align,
    "smooth_lddt": smooth_lddt,
}


@pytest.mark.parametrize("name", KERNELS)
def test_no_offset_overflows(name, no_memory):
    KERNELS[name]()


def test_the_last_pairs_of_five_thousand_tokens_are_read_and_written(last_alone):
    torch.manual_seed(0)
    c, rows = 128, 32
    z = torch.empty(1, N, N, c, dtype=torch.float16)  # 6 GiB, of which the tile's pages are ever touched
    z[0, -1, -rows:] = torch.randn(rows, c)
    parameters = [torch.randn(*shape) * shape[-1] ** -0.5 for shape in ((c,), (c,), (8 * c, c), (c, 4 * c))]
    own = z[0, -1, -rows:]
    normed = triton_layer_norm.layer_norm(z, *parameters[:2])[0, -1, -rows:]
    torch.testing.assert_close(normed, reference.layer_norm(own, *parameters[:2]), atol=2e-3, rtol=2e-3)
    update = triton_transition._transition(z, *parameters, 1.0)[0, -1, -rows:]
    tile = triton_transition._launch(N * N, c, 4 * c, "forward", z.dtype)[0]["ROWS"]
    written = N * N % tile or tile  # rows of the last program
    expected = reference.transition(own, *parameters)[-written:]
    torch.testing.assert_close(update[-written:], expected, atol=1e-2, rtol=1e-2)
    mask = torch.ones(1, N, dtype=torch.bool)
    w_in = torch.randn(4 * c, c, dtype=torch.float16) * c**-0.5
    left, _ = triton_triangle_multiplication._project_held(z, mask, (parameters[0], parameters[1]), w_in)
    gates, values = reference.linear(reference.layer_norm(own, *parameters[:2]), w_in).chunk(2, -1)
    gated = (torch.sigmoid(gates) * values)[:, :c].t()
    written = N * N % triton_triangle_multiplication._launch(z, "project")[0]["ROWS"] or rows
    torch.testing.assert_close(left[0, :, -1, -written:], gated[:, -written:], atol=4e-3, rtol=4e-3)
