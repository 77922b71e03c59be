# SPDX-License-Identifier: Apache-2.0
"""Measure tile sizes: every kernel of every op, one at a time, over a grid of candidates; the fastest is
kept.

Candidates that do not fit the GPU (shared memory, registers) are passed over. The time is that of the whole
op, forward or forward and backward, in which only the kernel under test changes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from triton.runtime.errors import OutOfResources

from foldwright.kernels import tiles
from foldwright.kernels.benchmark import PAIR, TUNED_SIZE, inputs_of, measure
from foldwright.kernels.cases import case_of
from foldwright.kernels.launch import next_power_of_two
from foldwright.kernels.registry import implementations

# the ops that time each family of kernels, and its kernels in the order in which they are tuned
FAMILIES: dict[str, tuple[str, ...]] = {
    "transition": ("transition",),
    "triangle_multiplication": ("triangle_multiplication",),
    "attention": ("triangle_attention", "attention_pair_bias"),
    "outer_product_mean": ("outer_product_mean",),
    "pair_weighted_average": ("pair_weighted_average",),
    "wide_transition": ("transition",),
    "wide_triangle": ("triangle_multiplication",),
}
_PAIR = {"wide_transition": 512, "wide_triangle": 512}  # channels of the pairs; else AF3's
_WIDTH_OF = {"outer_product_mean": 4}  # the argument whose channels are an entry's width; else the first
_FORWARD = {"forward", "project", "gate_out", "gated", "norm"}  # kernels of the forward pass
_SIZES = {"LEFT": (64, 128), "RIGHT": (64, 128, 256), "NI": (16, 32)}  # tried; (32, 64, 128) of all others
_LAUNCHES = ((4, 1), (4, 2), (8, 1), (8, 2), (4, 3), (8, 3))  # warps, stages
_REGISTERS = (
    255,
    168,
    128,
)  # a thread's limit (NVIDIA's), of entries that name it; no thread has more than 255


def candidates(entry: tiles.Tile) -> Iterator[tiles.Tile]:
    """Grid of tiles over the sizes that an entry names."""
    names = [name for name in entry if name not in tiles.OPTIONS]
    for sizes in itertools.product(*(_SIZES.get(name, (32, 64, 128)) for name in names)):
        if sizes == (128, 128):
            continue
        limits = [{"maxnreg": limit} for limit in _REGISTERS] if "maxnreg" in entry else [{}]
        for (warps, stages), limit in itertools.product(_LAUNCHES, limits):
            launch = {"num_warps": warps, "num_stages": stages} | limit
            yield dict(zip(names, sizes, strict=True)) | launch


def _seconds(function: Callable[..., Any], inputs: list[Any], forward: bool) -> float:
    try:
        alone, both = measure(function, inputs)
        return alone if forward or both is None else both
    except (OutOfResources, RuntimeError):  # RuntimeError: the compiler itself gives up on a tile
        torch.cuda.empty_cache()
        return float("inf")


def tune(family: str, table: tiles.Table) -> Iterator[str]:
    """Improve the table's entries of one family in place, width by width of the benchmark's cases; yields
    a log.
    """
    for op in FAMILIES[family]:
        function = next(entry.function for entry in implementations(op) if entry.name == "triton")
        inputs = inputs_of(case_of(op), TUNED_SIZE, _PAIR.get(family, PAIR))
        for key in _keys(family, op, inputs, table):
            kernel = key.split("/")[1]
            best, best_time = dict(table[key]), _seconds(function, inputs, kernel in _FORWARD)
            first_time = best_time
            for candidate in candidates(table[key]):
                table[key] = candidate
                time = _seconds(function, inputs, kernel in _FORWARD)
                if time < best_time:
                    best, best_time = candidate, time
            table[key] = best
            yield f"{key}: {first_time:.3f} -> {best_time:.3f} ms with {best}"


def _keys(family: str, op: str, inputs: list[Any], table: tiles.Table) -> list[str]:
    """Entries that an op's inputs use; made from the next larger width where theirs is missing."""
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
