# SPDX-License-Identifier: Apache-2.0
"""Measure tile sizes: every kernel of every op, one at a time, over a grid of candidates; the fastest is
kept.

Candidates that do not fit the GPU (shared memory, registers), do not compile, break a process or compute
something else than the tile at hand are passed over. The time is what the GPU works
on the whole op, forward or forward and backward, in which only the kernel under test changes: by the clock a
backward pass at this size is as slow as Python launches it. Compiling takes longer than timing, so a pool of
processes, one a core, compiles every candidate first; Triton's cache hands them over.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import torch
from triton.errors import TritonError

from foldwright.kernels import tiles
from foldwright.kernels.benchmark import PAIR, TUNED_SIZE, inputs_of
from foldwright.kernels.cases import case_of
from foldwright.kernels.gpu_time import gpu_milliseconds
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
_REGISTERS = (0, 168, 128)  # a thread's limit (NVIDIA's), of entries that name it; 0: the compiler's
_TOLERANCE = 0.02  # relative, of a candidate's results: bfloat16 leaves some thousandths


def candidates(entry: tiles.Tile, resize: bool = True) -> Iterator[tiles.Tile]:
    """Grid of tiles over the sizes that an entry names, warps, stages and, where it names it, the limit of
    registers; its own sizes alone without `resize`.
    """
    names = [name for name in entry if name not in tiles.OPTIONS]
    of_tile = [name for name in names if name not in tiles.COUNTS]
    grid = (_SIZES.get(name, (32, 64, 128)) if resize else (entry[name],) for name in names)
    for sizes in itertools.product(*grid):
        tile = dict(zip(names, sizes, strict=True))
        limits = [{"maxnreg": limit} for limit in _REGISTERS] if "maxnreg" in entry else [{}]
        for (warps, stages), limit in itertools.product(_LAUNCHES, limits):
            each = math.prod(tile[name] for name in of_tile) / (32 * warps)
            if not resize or len(of_tile) != 2 or _NUMBERS[0] <= each <= _NUMBERS[1]:
                yield tile | {"num_warps": warps, "num_stages": stages} | limit


Case = tuple[str, str]  # a family and the op that times it
Tensors = tuple[torch.Tensor, ...]


@cache
def _runs(case: Case) -> tuple[Callable[[], Tensors], Callable[[], Tensors]]:
    """Forward without gradient, and forward with backward, of a family's op at the size that is tuned."""
    family, op = case
    function = next(entry.function for entry in implementations(op) if entry.name == "triton")
    inputs = inputs_of(case_of(op), TUNED_SIZE, _PAIR.get(family, PAIR))
    leaves = [
        x.requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs
    ]
    wanted = [x for x in leaves if isinstance(x, torch.Tensor) and x.requires_grad]
    incoming = torch.randn_like(function(*leaves))

    def forward() -> Tensors:
        with torch.no_grad():
            return (function(*leaves),)

    return forward, lambda: torch.autograd.grad(function(*leaves), wanted, incoming)


def _run(case: Case, key: str) -> Callable[[], Tensors]:
    """What an entry's kernel is part of."""
    return _runs(case)[0 if key.split("/")[1] in _FORWARD else 1]


def _runs_here(case: Case, key: str, candidate: tiles.Tile) -> bool | None:
    """In a process of the pool: leave a candidate's program in Triton's cache. Whether it runs; None where
    an earlier one has broken the process's GPU context, and with it whatever follows.
    """
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return None
    table = tiles.table()
    before = dict(table)
    table[key] = candidate
    try:
        _run(case, key)()
        torch.cuda.synchronize()
    except (TritonError, RuntimeError):
        return False
    finally:
        table.clear()
        table.update(before)
    return True


def _that_run(work: list[tuple[Case, str, tiles.Tile]]) -> list[tuple[Case, str, tiles.Tile]]:
    """Those of the candidates that run; in new processes until each has had one with a sound context."""
    found: list[tuple[Case, str, tiles.Tile]] = []
    cores = len(os.sched_getaffinity(0))
    while work:
        with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
            ran = list(pool.map(_runs_here, *zip(*work, strict=True), chunksize=2))
        found += [item for item, runs in zip(work, ran, strict=True) if runs]
        if all(runs is None for runs in ran):
            raise RuntimeError("no process of the pool can use the GPU")
        work = [item for item, runs in zip(work, ran, strict=True) if runs is None]
    return found


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """On the GPU: `testing.relative_error` takes both to the host, seconds a candidate."""
    return bool((a.float() - b.float()).norm() <= _TOLERANCE * b.float().norm())


def _milliseconds(run: Callable[[], Tensors], expected: Tensors) -> float:
    """Time that the GPU works; infinite for a result that is not the expected one."""
    if not all(_alike(a, b) for a, b in zip(run(), expected, strict=True)):
        return math.inf
    return gpu_milliseconds(run)


def tune(
    family: str, table: tiles.Table, only: tuple[str, ...] = ("",), resize: bool = True
) -> Iterator[str]:
    """Improve the table's entries of one family in place, width by width of the benchmark's cases, or those
    alone whose keys begin with one of `only`; yields a log. `resize`: see `candidates`.
    """
    if family not in FAMILIES:
        raise ValueError(f"got the family {family!r} of kernels, expected one of {', '.join(FAMILIES)}")
    keys = {
        case: [key for key in _keys(case, table) if key.startswith(only)]
        for case in ((family, op) for op in FAMILIES[family])
    }
    if not any(keys.values()):
        raise ValueError(f"got {', '.join(only)}; expected the beginning of a key of tiles.json")
    sound = _that_run(
        [
            (case, key, candidate)
            for case in keys
            for key in keys[case]
            for candidate in candidates(table[key], resize)
        ]
    )
    for case in keys:
        for key in keys[case]:
            run = _run(case, key)
            best, expected = table[key], run()
            first_time = best_time = _milliseconds(run, expected)
            for candidate in [tile for *of, tile in sound if of == [case, key]]:
                table[key] = candidate
                try:
                    time = _milliseconds(run, expected)
                except RuntimeError as error:
                    raise RuntimeError(f"{key}: {candidate} broke this process, not the pool's") from error
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


def tune_all(names: list[str], path: Path, log: Callable[[str], None], resize: bool = True) -> None:
    """Tune families (`attention`), kernels or single entries (`attention/query/32`), by default all, for
    this GPU and write all tables to `path`, after each entry anew. `resize`: see `candidates`.
    """
    everything = tiles.tables()
    own = everything.setdefault(tiles.architecture(), {k: dict(v) for k, v in everything["default"].items()})
    families: dict[str, list[str]] = {}
    for name in names or list(FAMILIES):
        families.setdefault(name.split("/")[0], []).append(name)
    for family, only in families.items():
        for line in tune(family, own, tuple(only), resize):
            log(line)
            path.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n")
