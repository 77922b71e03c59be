# SPDX-License-Identifier: Apache-2.0
"""Measure tile sizes: every kernel of every op, one at a time, over a grid of candidates; the fastest is
kept.

Candidates that do not fit the GPU (shared memory, registers) are passed over. The time is that of the whole
op, forward or forward and backward, in which only the kernel under test changes. Compiling takes longer than
timing, so a pool of processes, one a core, compiles every candidate first; Triton's cache hands them over.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from triton.runtime.errors import OutOfResources

from foldwright.kernels import tiles
from foldwright.kernels.benchmark import PAIR, TUNED_SIZE, inputs_of
from foldwright.kernels.cases import case_of
from foldwright.kernels.launch import next_power_of_two
from foldwright.kernels.registry import implementations

# the ops that time each family of kernels, and its kernels in the order in which they are tuned
FAMILIES: dict[str, tuple[str, ...]] = {
    "transition": ("transition",),
    "triangle_multiplication": ("triangle_multiplication",),
    "attention": ("triangle_attention", "attention_pair_bias"),
    "projected_residual": ("projected_residual",),
    "outer_product_mean": ("outer_product_mean",),
    "pair_weighted_average": ("pair_weighted_average",),
    "wide_transition": ("transition",),
    "wide_triangle": ("triangle_multiplication",),
}
_PAIR = {"wide_transition": 512, "wide_triangle": 512}  # channels of the pairs; else AF3's
_WIDTH_OF = {"outer_product_mean": 4}  # the argument whose channels are an entry's width; else the first
_FORWARD = {"forward", "project", "gate_out", "gated", "norm"}  # kernels of the forward pass
# tried; (32, 64, 128) of all others
_SIZES = {"LEFT": (64, 128), "RIGHT": (64, 128, 256), "NI": (16, 32), "MEMBERS": (1, 2)}
_LAUNCHES = ((4, 1), (4, 2), (8, 1), (8, 2), (4, 3), (8, 3))  # warps, stages
_NUMBERS = (16, 64)  # of a tile of two sizes a thread holds: fewer leave it idle, more spill
_REGISTERS = (255, 168, 128)  # a thread's limit (NVIDIA's), of entries that name it
_TIMED_MS = 25


def candidates(entry: tiles.Tile) -> Iterator[tiles.Tile]:
    """Grid of tiles over the sizes that an entry names."""
    names = [name for name in entry if name not in tiles.OPTIONS]
    of_tile = [name for name in names if name not in tiles.COUNTS]
    for sizes in itertools.product(*(_SIZES.get(name, (32, 64, 128)) for name in names)):
        tile = dict(zip(names, sizes, strict=True))
        limits = [{"maxnreg": limit} for limit in _REGISTERS] if "maxnreg" in entry else [{}]
        for (warps, stages), limit in itertools.product(_LAUNCHES, limits):
            each = math.prod(tile[name] for name in of_tile) / (32 * warps)
            if len(of_tile) != 2 or _NUMBERS[0] <= each <= _NUMBERS[1]:
                yield tile | {"num_warps": warps, "num_stages": stages} | limit


Case = tuple[str, str]  # a family and the op that times it


@cache
def _runs(case: Case) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Forward without gradient, and forward with backward, of a family's op at the size that is tuned."""
    family, op = case
    function = next(entry.function for entry in implementations(op) if entry.name == "triton")
    inputs = inputs_of(case_of(op), TUNED_SIZE, _PAIR.get(family, PAIR))
    leaves = [
        x.requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs
    ]
    wanted = [x for x in leaves if isinstance(x, torch.Tensor) and x.requires_grad]
    incoming = torch.randn_like(function(*leaves))

    def forward() -> None:
        with torch.no_grad():
            function(*leaves)

    return forward, lambda: torch.autograd.grad(function(*leaves), wanted, incoming)


def _run(case: Case, key: str) -> Callable[[], Any]:
    """What an entry's kernel is part of."""
    return _runs(case)[0 if key.split("/")[1] in _FORWARD else 1]


def _compile(case: Case, key: str, candidate: tiles.Tile) -> None:
    """In a process of the pool: leave a candidate's program in Triton's cache."""
    tiles.table()[key] = candidate
    _milliseconds(_run(case, key), once=True)


def _milliseconds(run: Callable[[], Any], once: bool = False) -> float:
    from triton.testing import do_bench

    try:
        if once:
            run()
            return 0.0
        return float(do_bench(run, warmup=5, rep=_TIMED_MS, return_mode="median"))
    except (OutOfResources, RuntimeError):  # RuntimeError: the compiler itself gives up on a tile
        torch.cuda.empty_cache()
        return float("inf")


def tune(family: str, table: tiles.Table) -> Iterator[str]:
    """Improve the table's entries of one family in place, width by width of the benchmark's cases; yields
    a log.
    """
    cases = [(family, op) for op in FAMILIES[family]]
    work = [
        (case, key, candidate)
        for case in cases
        for key in _keys(case, table)
        for candidate in candidates(table[key])
    ]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_compile, *zip(*work, strict=True), chunksize=4))
    for case in cases:
        for key in _keys(case, table):
            best, best_time = dict(table[key]), _milliseconds(_run(case, key))
            first_time = best_time
            for candidate in candidates(best):
                table[key] = candidate
                time = _milliseconds(_run(case, key))
                if time < best_time:
                    best, best_time = candidate, time
            table[key] = best
            yield f"{key}: {first_time:.3f} -> {best_time:.3f} ms with {best}"


def _keys(case: Case, table: tiles.Table) -> list[str]:
    """Entries that a case uses; made from the next larger width where theirs is missing."""
    family, op = case
    inputs = inputs_of(case_of(op), TUNED_SIZE, _PAIR.get(family, PAIR))
    width = next_power_of_two(inputs[_WIDTH_OF.get(op, 0)].shape[-1])
    kernels = dict.fromkeys(key.split("/")[1] for key in table if key.startswith(f"{family}/"))
    for kernel in kernels:
        table.setdefault(f"{family}/{kernel}/{width}", dict(table[tiles.lookup(family, kernel, width)]))
    return [f"{family}/{kernel}/{width}" for kernel in kernels]


def tune_all(families: list[str], path: Path, log: Callable[[str], None]) -> None:
    """Tune families for this GPU and write all tables to `path`, after each family anew."""
    everything = tiles.tables()
    own = everything.setdefault(tiles.architecture(), {k: dict(v) for k, v in everything["default"].items()})
    for family in families or list(FAMILIES):
        for line in tune(family, own):
            log(line)
            path.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n")
