# SPDX-License-Identifier: Apache-2.0
"""Time every implementation of the hot ops at AF3's sizes: correctness first, then forward and forward +
backward.

Errors are those of check_kernel's rule (against float64, at a small size); times are medians of CUDA events
over many runs, in one process, beside torch.compile of the reference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from foldwright.kernels.registry import implementations
from foldwright.kernels.testing import relative_error, run

TUNED_SIZE = 384  # number of tokens at which tiles are tuned

Case = tuple[str, Callable[[int], list[Any]], tuple[int, ...]]  # op, inputs for N, sizes


def _draw(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * scale


def _parameter(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, device="cuda") * scale


def _layer_norm(n: int) -> list[Any]:
    return [_draw(1, n, n, 128), _parameter(128), _parameter(128)]


def _transition(n: int) -> list[Any]:
    weights = [_parameter(1024, 128, scale=0.09), _parameter(128, 512, scale=0.04)]
    return [_draw(1, n, n, 128), _parameter(128), _parameter(128), *weights]


def _triangle_multiplication(n: int) -> list[Any]:
    mask = torch.ones(1, n, dtype=torch.bool, device="cuda")
    norms = [_parameter(128) for _ in range(4)]
    weights = [_parameter(k * 128, 128, scale=0.09) for k in (4, 1, 1)]
    return [_draw(1, n, n, 128), mask, *norms[:2], weights[0], *norms[2:], *weights[1:], True]


def _attention(s: int, n: int, heads: int, c: int) -> list[Any]:
    packed = _draw(1, s, n, 3, heads, c)
    return [*packed.unbind(-3), _draw(1, heads, n, n), _draw(1, s, n, heads * c)]


def _outer_product_mean(n: int) -> list[Any]:
    mask = torch.arange(1024, device="cuda")[None] < 768  # a quarter of the rows is padding
    a, b = _draw(1, 1024, n, 64).chunk(2, -1)
    return [a, b, mask, _parameter(128, 1024, scale=0.03), _parameter(128)]


def _pair_weighted_average(n: int) -> list[Any]:
    v = _draw(1, 1024, n, 8, 8)
    return [v, _draw(1, 8, n, n), _draw(1, 1024, n, 64)]


CASES: tuple[Case, ...] = (
    ("layer_norm", _layer_norm, (384, 768)),
    ("transition", _transition, (384, 768)),
    ("triangle_multiplication", _triangle_multiplication, (384, 768)),
    ("triangle_attention", lambda n: _attention(n, n, 4, 32), (384, 768)),
    ("attention_pair_bias", lambda n: _attention(48, n, 16, 48), (384, 768)),
    ("outer_product_mean", _outer_product_mean, (384, 768)),
    ("pair_weighted_average", _pair_weighted_average, (384, 768)),
)


def _time(function: Callable[[], Any]) -> float:
    from triton.testing import do_bench

    return float(do_bench(function, warmup=20, rep=100, return_mode="median"))


def measure(function: Callable[..., Tensor], inputs: list[Any]) -> tuple[float, float]:
    """Milliseconds of the forward without gradient, and of forward and backward with every gradient."""
    leaves = [x.detach().requires_grad_() if _is_float(x) else x for x in inputs]
    wanted = [x for x in leaves if _is_float(x)]
    with torch.no_grad():
        forward = _time(lambda: function(*leaves))
    incoming = torch.randn_like(function(*leaves))

    def both() -> None:
        torch.autograd.grad(function(*leaves), wanted, incoming)

    return forward, _time(both)


def errors(function: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: list[Any]) -> float:
    """Largest relative error over output and gradients against the reference in float64 on the same
    inputs.
    """
    exact = run(reference, [x.double() if _is_float(x) else x for x in inputs])
    low = run(function, inputs)
    return max(relative_error(a, b) for a, b in zip(low, exact, strict=True))


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def rows(only: Sequence[str], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """One record an op, size and implementation."""
    found: list[dict[str, Any]] = []
    for op, make, defaults in CASES:
        if only and op not in only:
            continue
        entries = [e for e in implementations(op) if e.supports(torch.device("cuda")) is None]
        reference = next(e.function for e in entries if e.name == "reference")
        variants = [(e.name, e.function) for e in entries] + [("torch.compile", torch.compile(reference))]
        for n in sizes or defaults:
            small, inputs = make(96), make(n)
            for name, function in variants:
                forward, both = measure(function, inputs)
                error = errors(function, reference, small)
                found.append({"op": op, "N": n, "implementation": name, "forward_ms": forward,
                              "forward_backward_ms": both, "error": error})  # fmt: skip
                torch.cuda.empty_cache()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--ops", nargs="*", default=[], help="only these ops (with --tune: families of kernels)"
    )
    parser.add_argument(
        "--sizes", nargs="*", type=int, default=[], help="numbers of tokens (default 384 768)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--tune", type=Path, help="tune the tiles for this GPU and write all tables here")
    flags = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.error("kernels are timed on a GPU, and this machine has none; their tests run anywhere")
    if flags.tune:
        from foldwright.kernels.tuning import tune_all  # it imports the cases of this module

        tune_all(flags.ops, flags.tune, print)
        return 0
    found = rows(flags.ops, flags.sizes)
    table = Table("op", "N", "implementation", "forward, ms", "forward + backward, ms", "error")
    for row in found:
        table.add_row(row["op"], str(row["N"]), row["implementation"], f"{row['forward_ms']:.3f}",
                      f"{row['forward_backward_ms']:.3f}", f"{row['error']:.1e}")  # fmt: skip
    Console(width=120).print(table)
    if flags.json:
        flags.json.write_text(
            json.dumps({"device": torch.cuda.get_device_name(), "rows": found}, indent=1) + "\n"
        )
    return 0
