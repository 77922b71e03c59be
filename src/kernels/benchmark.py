# SPDX-License-Identifier: Apache-2.0
"""Time every implementation of every op at AF3's sizes: correctness first, then forward and forward +
backward.

Inputs are those of `kernels.cases`, in bfloat16. Errors are those of check_kernel's rule (against float64, at
a small size); times are medians of CUDA events over many runs, in one process, beside torch.compile of the
reference and the peers that are installed (`kernels.peers`). Calls are launched one by one: below half a
millisecond a backward pass is as slow as Python launches it, where a captured step is not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from foldwright.kernels.cases import CASES, Case, Sizes
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


def measure(function: Callable[..., Tensor], inputs: list[Any]) -> tuple[float, float | None]:
    """Milliseconds of the forward without gradient, and of forward and backward with every gradient (None
    for an op that has none).
    """
    leaves = [x.detach().requires_grad_() if _is_float(x) else x for x in inputs]
    wanted = [x for x in leaves if _is_float(x)]
    with torch.no_grad():
        forward = _time(lambda: function(*leaves))
    out = function(*leaves)
    if not out.requires_grad:
        return forward, None
    incoming = torch.randn_like(out)

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
                try:
                    forward, both = measure(case.bound(function, inputs), case.varied(inputs))
                    error = errors(case.bound(function, small), exact, drawn)
                except Exception as failure:  # of another project's code, a result
                    if name in {entry.name for entry in entries}:
                        raise
                    print(f"{case.op}, N {n}: {name} failed: {str(failure).splitlines()[0]}")
                    continue
                found.append(_row(case.op, n, name, forward, both, error))
                torch.cuda.empty_cache()
    return found


def _row(op: str, n: int, name: str, forward: float, both: float | None, error: float) -> dict[str, Any]:
    return {"op": op, "N": n, "implementation": name, "forward_ms": forward, "forward_backward_ms": both,
            "error": error}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--ops", nargs="*", default=[], help="only these ops (with --tune: families of kernels)"
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
    flags = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.error("kernels are timed on a GPU, and this machine has none; their tests run anywhere")
    if flags.tune:
        from foldwright.kernels.tuning import tune_all  # it imports the cases of this module

        tune_all(flags.ops, flags.tune, print)
        return 0
    if absent := missing():
        print(f"not installed, so not timed: {', '.join(absent)}")
    found = rows(flags.ops, flags.sizes, flags.pair, flags.implementations)
    table = Table("op", "N", "implementation", "forward, ms", "forward + backward, ms", "error")
    for row in found:
        table.add_row(row["op"], str(row["N"]), row["implementation"], f"{row['forward_ms']:.3f}",
                      "none" if (both := row["forward_backward_ms"]) is None else f"{both:.3f}",
                      f"{row['error']:.1e}")  # fmt: skip
    Console(width=120).print(table)
    if flags.json:
        machine = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "command": sys.argv}
        record = machine | {"pair": flags.pair, "rows": found}
        flags.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0
