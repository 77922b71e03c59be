# SPDX-License-Identifier: Apache-2.0
"""Time every implementation of every op at AF3's sizes: correctness first, then forward and forward +
backward.

Inputs are those of `kernels.cases`, in bfloat16. Errors are those of check_kernel's rule (against float64, at
a small size); times are medians of CUDA events over many runs, in one process, beside torch.compile of the
reference and the peers that are installed (`kernels.peers`). Calls are launched one by one: below half a
millisecond a backward pass is as slow as Python launches it, where a captured step is not; the time that the
GPU works stands beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from foldwright.kernels.cases import CASES, Case, Sizes
from foldwright.kernels.gpu_time import gpu_milliseconds
from foldwright.kernels.peers import missing, peers
from foldwright.kernels.registry import implementations
from foldwright.kernels.testing import relative_error, run

TUNED_SIZE = 384  # number of tokens at which tiles are tuned
PAIR = 128  # AF3's pair channels
SIZES = (384, 768)
_CHECKED_SIZE = 96  # number of tokens at which errors are measured


def _time(function: Callable[[], Any]) -> float:
    from triton.testing import do_bench

    return float(do_bench(function, warmup=20, rep=100, return_mode="median"))


def inputs_of(case: Case, n: int, pair: int = PAIR) -> list[Any]:
    """AF3's widths at `n` tokens of nine atoms, or other pairs, their heads as wide as AF3's."""
    sizes = Sizes(tokens=n, atoms=9 * n, pair=pair, pair_heads=max(1, pair // 32))
    return case.inputs(torch.device("cuda"), torch.bfloat16, sizes)


class Timing(NamedTuple):
    """Milliseconds of the forward without gradient, and of forward and backward with every gradient (None for
    an op that has none): as launched, and of each the sum over its kernels.
    """

    forward: float
    both: float | None
    forward_kernels: float
    both_kernels: float | None


def measure(function: Callable[..., Tensor], inputs: list[Any]) -> Timing:
    """Time an op."""
    leaves = [x.detach().requires_grad_() if _is_float(x) else x for x in inputs]
    wanted = [x for x in leaves if _is_float(x)]
    with torch.no_grad():
        forward = _time(lambda: function(*leaves))
        forward_kernels = gpu_milliseconds(lambda: function(*leaves))
    out = function(*leaves)
    if not out.requires_grad:
        return Timing(forward, None, forward_kernels, None)
    incoming = torch.randn_like(out)

    def both() -> None:
        torch.autograd.grad(function(*leaves), wanted, incoming)

    return Timing(forward, _time(both), forward_kernels, gpu_milliseconds(both))


def errors(function: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: list[Any]) -> float:
    """Largest relative error over output and gradients against the reference in float64 on the same
    inputs.
    """
    exact = run(reference, [x.double() if _is_float(x) else x for x in inputs])
    low = run(function, inputs)
    return max(relative_error(a, b) for a, b in zip(low, exact, strict=True))


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def rows(
    only: Sequence[str], sizes: Sequence[int], pair: int, names: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One record an op, size and implementation; of all implementations, or those of the given names."""
    found: list[dict[str, Any]] = []
    for case in CASES:
        if only and case.op not in only:
            continue
        entries = [e for e in implementations(case.op) if e.supports(torch.device("cuda")) is None]
        reference = next(e.function for e in entries if e.name == "reference")
        variants = [(e.name, e.function) for e in entries] + [("torch.compile", torch.compile(reference))]
        variants = [variant for variant in variants + peers(case.op) if not names or variant[0] in names]
        for n in sizes or SIZES:
            small, inputs = inputs_of(case, _CHECKED_SIZE, pair), inputs_of(case, n, pair)
            exact, drawn = case.bound(reference, small), case.varied(small)
            for name, function in variants:
                torch.compiler.reset()  # it compiles a function for eight sets of sizes, and then no more
                try:
                    timing = measure(case.bound(function, inputs), case.varied(inputs))
                    error = errors(case.bound(function, small), exact, drawn)
                except Exception as failure:  # of another project's code, a result
                    if name in {entry.name for entry in entries}:
                        raise
                    print(f"{case.op}, N {n}: {name} failed: {str(failure).splitlines()[0]}")
                    continue
                found.append(_row(case.op, n, name, timing, error))
                torch.cuda.empty_cache()
    return found


def _row(op: str, n: int, name: str, timing: Timing, error: float) -> dict[str, Any]:
    return {"op": op, "N": n, "implementation": name, "forward_ms": timing.forward,
            "forward_backward_ms": timing.both, "forward_kernels_ms": timing.forward_kernels,
            "forward_backward_kernels_ms": timing.both_kernels, "error": error}  # fmt: skip


def _shown(milliseconds: float | None) -> str:
    return "none" if milliseconds is None else f"{milliseconds:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--ops",
        nargs="*",
        default=[],
        help="only these ops (with --tune: families of kernels, or entries of tiles.json)",
    )
    parser.add_argument(
        "--sizes", nargs="*", type=int, default=[], help="numbers of tokens (default 384 768)"
    )
    parser.add_argument("--pair", type=int, default=PAIR, help="channels of the pairs (default 128)")
    parser.add_argument(
        "--implementations", nargs="*", default=[], help="only these (triton, trifast, torch.compile, ...)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--tune", type=Path, help="tune the tiles for this GPU and write all tables here")
    parser.add_argument(
        "--launches",
        action="store_true",
        help="with --tune: keep the sizes of tiles; warps, stages and registers alone, in minutes",
    )
    flags = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.error("kernels are timed on a GPU, and this machine has none; their tests run anywhere")
    if flags.tune:
        from foldwright.kernels.tuning import tune_all  # it imports the cases of this module

        tune_all(flags.ops, flags.tune, print, resize=not flags.launches)
        return 0
    if absent := missing():
        print(f"not installed, so not timed: {', '.join(absent)}")
    found = rows(flags.ops, flags.sizes, flags.pair, flags.implementations)
    columns = ("forward, ms", "+ backward, ms", "forward, kernels", "+ backward, kernels", "error")
    table = Table("op", "N", "implementation", *columns)
    for row in found:
        times = (_shown(milliseconds) for key, milliseconds in row.items() if key.endswith("_ms"))
        table.add_row(row["op"], str(row["N"]), row["implementation"], *times, f"{row['error']:.1e}")
    Console(width=120).print(table)
    if flags.json:
        machine = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "command": sys.argv}
        record = machine | {"pair": flags.pair, "rows": found}
        flags.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0
