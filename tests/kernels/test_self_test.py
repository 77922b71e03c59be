# SPDX-License-Identifier: Apache-2.0
"""The self-test passes sound kernels and refuses those that are wrong, in output or gradient, or raise."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from foldwright.kernels import registry, tiles
from foldwright.kernels.cases import CASES, Sizes
from foldwright.kernels.registry import OP_NAMES, Implementation, implementations
from foldwright.kernels.self_test import self_test

CPU = torch.device("cpu")
TRITON = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = Sizes(
    tokens=20, atoms=64, msa_rows=5, samples=2, pair=16, single=24, msa=16, token=32, atom=32,
    pair_heads=2, token_heads=2, atom_heads=2, msa_heads=2, c_head=3, c_outer=5,
)  # fmt: skip


def console():
    return Console(file=io.StringIO(), width=200)


def with_kernel(ops, monkeypatch, op, function):
    """Ops in which a registered `own` implementation runs for one op."""
    entries = [*registry._REGISTRY[op], Implementation(op, "own", function, lambda device: None, 9)]
    monkeypatch.setitem(registry._REGISTRY, op, entries)
    return replace(ops, **{op: function})


def test_every_op_has_one_case_that_its_reference_takes(ops):
    assert sorted(case.op for case in CASES) == sorted(OP_NAMES)
    for case in CASES:
        inputs = case.inputs(CPU, torch.bfloat16, TINY)
        out = case.bound(getattr(ops, case.op), inputs)(*case.varied(inputs))
        assert out.isfinite().all(), case.op
        assert out.float().std() > 0, case.op


def test_the_same_case_is_drawn_every_time():
    for case in CASES:
        pairs = zip(*(case.inputs(CPU, torch.float32, TINY) for _ in range(2)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor)), case.op


def test_sound_kernels_pass(ops):
    """Those that run cheaply under the interpreter; each has its own tests beside this."""
    cheap = ("adaptive_layer_norm", "gated_residual", "swiglu", "gather_pairs", "dropout_residual",
             "smooth_lddt", "weighted_rigid_align")  # fmt: skip
    triton = {e.op: e.function for op in cheap for e in implementations(op) if e.name == "triton"}
    said = console()
    errors = self_test(replace(ops, **triton), TRITON, torch.float32, TINY, said)
    assert sorted(errors) == sorted(cheap)
    assert max(errors.values()) < 1e-5
    assert "7 ops agree with their references" in said.file.getvalue()


def test_references_need_no_test(ops):
    said = console()
    assert self_test(ops, CPU, torch.float32, TINY, said) == {}
    assert "every op runs its reference" in said.file.getvalue()


def test_a_wrong_output_is_refused(ops, monkeypatch):
    wrong = with_kernel(ops, monkeypatch, "swiglu", lambda h: 1.01 * ops.swiglu(h))
    with pytest.raises(
        ValueError, match=r"swiglu=own fails its self-test .*output.*kernels\.ops\.swiglu=ref"
    ):
        self_test(wrong, CPU, torch.float32, TINY, console())


def test_a_wrong_gradient_is_refused(ops, monkeypatch):
    def stuck(x, update, gate):
        return ops.gated_residual(x, update, gate.detach()) + 0.0 * gate

    wrong = with_kernel(ops, monkeypatch, "gated_residual", stuck)
    with pytest.raises(ValueError, match="gradient 3: error 1"):
        self_test(wrong, CPU, torch.float32, TINY, console())


def test_a_kernel_that_raises_is_refused_with_its_reason(ops, monkeypatch):
    def broken(h):
        raise RuntimeError("an illegal instruction was encountered")

    wrong = with_kernel(ops, monkeypatch, "swiglu", broken)
    with pytest.raises(ValueError, match="RuntimeError: an illegal instruction"):
        self_test(wrong, CPU, torch.float32, TINY, console())


def test_an_unknown_gpu_is_told_of_its_tiles(monkeypatch):
    for known in tiles.tables():
        monkeypatch.setattr(tiles, "architecture", lambda known=known: known)
        assert tiles.notice() is None
    monkeypatch.setattr(tiles, "architecture", lambda: "sm_120")
    assert "no table for sm_120" in tiles.notice()
    said = console()
    registry.select(registry.KernelConfig(), "cuda", said)
    assert "safe defaults run" in said.file.getvalue()
