# SPDX-License-Identifier: Apache-2.0
"""Compile every Triton kernel for a GPU that is not here: `python -m foldwright.kernels.ahead sm_90 gfx942`.

Triton compiles without a card if it is told the target; nothing is launched. What the compiler says of shared
memory, registers and spills shows which tiles cannot work before any GPU time is spent. Widths are AF3's,
and those of the widest pairs, in bfloat16. It replaces Triton's active driver: it has a process of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from foldwright.kernels import (
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
    triton_window_attention,
)

SHARED_MEMORY = {
    "sm_80": 166912,
    "sm_90": 232448,
    "gfx90a": 65536,
    "gfx942": 65536,
}  # bytes a program may use
_N, _C, _HIDDEN = 64, 128, 4  # tokens (a compiled kernel takes any number), channels, expansion
_WIDE = 512  # channels of the widest pairs
_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+).*?LOCAL:(\d+)")


class Compiled(NamedTuple):
    """One kernel: bytes of shared memory; registers and bytes spilled, where the compiler tells (NVIDIA)."""

    name: str
    shared: int
    registers: int | None
    spilled: int | None


class _AbsentDevice:
    """What Triton's compiler asks a driver, answered for a target that is not here."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def target_of(architecture: str) -> GPUTarget:
    """`sm_90` or `gfx942` -> Triton's target; ValueError for another form."""
    if match := re.fullmatch(r"sm_(\d+)", architecture):
        return GPUTarget("cuda", int(match[1]), 32)
    if re.fullmatch(r"gfx[0-9a-f]+", architecture):
        return GPUTarget("hip", architecture, 64)
    raise ValueError(f"got architecture {architecture!r}, expected one like sm_90 or gfx942")


def compile_all(architecture: str) -> list[Compiled]:
    """Compile every kernel with the tiles of an architecture. Changes this process's Triton for good."""
    found: list[Compiled] = []
    driver.set_active(_AbsentDevice(target_of(architecture)))
    tiles.architecture = lambda: architecture  # type: ignore[assignment]
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        found.append(Compiled(self.__name__, kernel.metadata.shared, *_resources(kernel.asm.get("cubin"))))
        return kernel

    JITFunction.run = compile_only
    for call in (*_calls(), *_wide_calls()):
        call()
    return found


def _resources(cubin: bytes | None) -> tuple[int | None, int | None]:
    """Registers and spilled bytes of a program, as NVIDIA's object dump (which Triton carries) tells them."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if cubin is None or not tool.exists():
        return None, None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        match = _RESOURCES.search(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return (int(match[1]), int(match[2]) + int(match[3])) if match else (None, None)


def _calls() -> list[Callable[[], Any]]:
    """Every op forward and backward at AF3's widths, down to its kernels; not what cuBLAS multiplies."""
    z = torch.empty(1, _N, _N, _C, dtype=torch.bfloat16)
    seed = torch.zeros(1, dtype=torch.int64)
    a = torch.empty(1, 8, _N, 768)
    g = torch.empty(1, 8, _N, 1536, dtype=torch.bfloat16)
    x, flags = torch.empty(1, 8, _N, 3), torch.ones(1, _N, dtype=torch.bool)
    return [
        lambda: _layer_norm(z),
        lambda: _pair_bias(_C, 4),
        lambda: _transition(_C),
        lambda: _triangle_multiplication(_C),
        lambda: _attention(8, 4, 32),
        lambda: _attention(8, 16, 48),
        _window_attention,
        _gather_pairs,
        _outer_product_mean,
        _pair_weighted_average,
        lambda: _projected_residual(z, seed),
        lambda: triton_dropout._dropout_residual(z, z, seed, 0.25, 1),
        lambda: triton_dropout._dropout_gradient(z, seed, 0.25, 2, z.stride(), z.dtype),
        lambda: triton_adaptive_layer_norm._modulated_norm(a, g, 1e-5),
        lambda: triton_adaptive_layer_norm._modulated_norm_backward(g[..., :768], a, g, 1e-5),
        lambda: triton_gates._gated_residual(a, g[..., :768], g[..., :768]),
        lambda: triton_gates._gated_residual_backward(a, g[..., :768], g[..., :768]),
        lambda: triton_gates._swiglu_op(g),
        lambda: triton_gates._swiglu_backward_op(g[..., :768], g),
        lambda: triton_rigid_align._weighted_rigid_align(x[0], x[0], x[0, :, :, 0].contiguous()),
        lambda: triton_smooth_lddt._smooth_lddt(x, x, flags, flags),
        lambda: triton_smooth_lddt._smooth_lddt_backward(x[..., 0, 0], x, x, flags, flags),
    ]


def _wide_calls() -> list[Callable[[], Any]]:
    """Those that have tiles of their own for wider pairs, at the widest."""
    return [
        lambda: _pair_bias(_WIDE, 16),
        lambda: _transition(_WIDE),
        lambda: _triangle_multiplication(_WIDE),
    ]


def _layer_norm(z: Tensor) -> None:
    w = torch.empty(z.shape[-1])
    _, mean, rstd = triton_layer_norm._layer_norm(z, w, w, 1e-5)
    triton_layer_norm._layer_norm_backward(z, z, w, mean, rstd)


def _pair_bias(c: int, heads: int) -> None:
    z, w = torch.empty(1, _N, _N, c, dtype=torch.bfloat16), torch.empty(c)
    weight, key_bias = torch.empty(heads, c), z.new_empty(1, 1, 1, _N)
    bias = triton_pair_bias._forward(z, w, w, weight, key_bias)
    triton_pair_bias._backward(bias, None, z, w, w, weight)
    y, bias = triton_pair_bias._forward_with_norm(z, w, w, weight, key_bias)
    triton_pair_bias._backward(bias, y, z, w, w, weight)


def _transition(c: int) -> None:
    z, w = torch.empty(1, _N, _N, c, dtype=torch.bfloat16), torch.empty(c)
    wide, narrow = torch.empty(2 * _HIDDEN * c, c), torch.empty(c, _HIDDEN * c)
    triton_transition._transition(z, w, w, wide, narrow, 1.0)
    triton_transition._transition_backward(z, z, w, w, wide, narrow, 1.0)


def _triangle_multiplication(c: int) -> None:
    z, mask = torch.empty(1, _N, _N, c, dtype=torch.bfloat16), torch.ones(1, _N, dtype=torch.bool)
    w, w_in, square = torch.empty(c), torch.empty(4 * c, c), torch.empty(c, c)
    seed = torch.zeros(1, dtype=torch.int64)
    _, a, b, product = triton_triangle_multiplication._triangle_multiplication(
        z, mask, w, w, w_in, w, w, square, square, True, seed, 0.25
    )
    triton_triangle_multiplication._triangle_multiplication_backward(
        z, z, mask, w, w, w_in, w, w, square, square, a, b, product, True, seed, 0.25
    )


def _attention(samples: int, heads: int, c: int) -> None:
    packed = torch.empty(1, samples, _N, 4, heads, c, dtype=torch.bfloat16)
    bias = packed.new_empty(1, heads, _N, _N)
    out, *rows = triton_attention._attention(packed, bias)
    triton_attention._attention_backward(out, packed, bias, out, *rows)


def _projected_residual(z: Tensor, seed: Tensor) -> None:
    weight = torch.empty(_C, _C)
    y = triton_projected_residual._forward(z, z, weight, seed, 0.25, 1)
    triton_projected_residual._backward(y, z, weight, seed, 0.25, 1)


def _window_attention() -> None:
    q, k, v = torch.empty(1, 8, 64, 3, 4, 32, dtype=torch.bfloat16).unbind(-3)
    bias, gate = q.new_empty(1, 2, 4, 32, 128), q.new_empty(1, 8, 64, 128)
    triton_window_attention._window_attention(q, k, v, bias, gate)
    triton_window_attention._window_attention_backward(gate, q, k, v, bias, gate)


def _gather_pairs() -> None:
    z, token = torch.empty(1, _N, _N, 16, dtype=torch.bfloat16), torch.zeros(1, 64, dtype=torch.int32)
    pairs = triton_gather_pairs._gather_pairs(z, token)
    triton_gather_pairs._gather_pairs_backward(pairs, token, _N)


def _outer_product_mean() -> None:
    a, b = torch.empty(1, _N, _N, 2 * 32, dtype=torch.bfloat16).chunk(2, -1)
    mask, weight, bias = torch.ones(1, _N, dtype=torch.bool), torch.empty(_C, 32 * 32), torch.empty(_C)
    dy = triton_outer_product_mean._outer_product_mean(a, b, mask, weight, bias)
    triton_outer_product_mean._outer_product_mean_backward(dy, a, b, mask, weight, bias)


def _pair_weighted_average() -> None:
    v = torch.empty(1, _N, _N, 8, 8, dtype=torch.bfloat16)
    logits, gate = v.new_empty(1, 8, _N, _N), v.new_empty(1, _N, _N, 64)
    triton_pair_weighted_average._pair_weighted_average(v, logits, gate)
    triton_pair_weighted_average._pair_weighted_average_backward(gate, v, logits, gate)


def main() -> int:
    """Print a table an architecture; exit 1 where a kernel needs more shared memory than there is."""
    too_large = 0
    for architecture in sys.argv[1:] or list(SHARED_MEMORY):
        limit = SHARED_MEMORY.get(architecture, min(SHARED_MEMORY.values()))
        for kernel in compile_all(architecture):
            fits = kernel.shared <= limit
            too_large += not fits
            excess = "" if fits else f"  MORE THAN {limit:,}"
            figures = f"shared {kernel.shared:7,}  registers {kernel.registers}  spilled {kernel.spilled}"
            print(f"{architecture}  {kernel.name:24} {figures}{excess}")
    return 1 if too_large else 0


if __name__ == "__main__":
    raise SystemExit(main())
