# SPDX-License-Identifier: Apache-2.0
"""Tile sizes and launch options of every Triton kernel: tiles.json, by GPU architecture.

`scripts/benchmark_kernels.py --tune FILE` measures them on a GPU and writes the table (see tuning.py);
nothing in it is set by hand, but for the registers of sm_90's attention/forward/64 (docs/experiments.md).
Keys are "op/kernel/width", the width being the channels' next power of two for 16-bit activations; a width
that is missing takes the next larger one. An architecture that is missing takes "default". `maxnreg` limits
a thread's registers, on NVIDIA's GPUs alone (0: as many as the compiler likes, fewer than at 255). float32
halves the tiles, and interpreted kernels, whose cost is per tile operation, all take one small size.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch

from foldwright.kernels.launch import interpreting

PATH = Path(__file__).parent / "tiles.json"
OPTIONS = ("num_warps", "num_stages", "maxnreg")
COUNTS = ("MEMBERS",)  # of things that a program takes at once: not the size of a tile
_INTERPRETED = 32

Tile = dict[str, int]
Table = dict[str, Tile]


@cache
def tables() -> dict[str, Table]:
    """All tables by architecture, as read from tiles.json; tuning changes them in place."""
    loaded: dict[str, Table] = json.loads(PATH.read_text())
    return loaded


@cache
def architecture() -> str:
    """Name of this machine's GPU architecture ("sm_90", "gfx90a"), or "none"."""
    if not torch.cuda.is_available():
        return "none"
    properties = torch.cuda.get_device_properties(0)
    name = getattr(properties, "gcnArchName", "")
    return name.split(":")[0] if torch.version.hip else f"sm_{properties.major}{properties.minor}"


def table() -> Table:
    """This machine's table."""
    return tables().get(architecture(), tables()["default"])


def notice() -> str | None:
    """What to say at start-up on a GPU whose architecture has no table of its own."""
    if architecture() in {"none", *tables()}:
        return None
    return (
        f"tiles: no table for {architecture()} (there are {', '.join(sorted(tables()))}), safe defaults run; "
        "scripts/benchmark_kernels.py --tune FILE measures one for this GPU"
    )


def lookup(op: str, kernel: str, width: int) -> str:
    """Key of the entry for a width: itself, else the next larger, else the largest there is."""
    widths = sorted(int(key.rsplit("/", 1)[1]) for key in table() if key.startswith(f"{op}/{kernel}/"))
    return f"{op}/{kernel}/{next((w for w in widths if w >= width), widths[-1])}"


def tile(op: str, kernel: str, width: int, dtype: torch.dtype) -> Tile:
    """Constexpr sizes and launch options for a kernel at a channel width (a power of two)."""
    chosen = {n: v for n, v in table()[lookup(op, kernel, width)].items() if n != "maxnreg" or v}
    if interpreting():
        return {n: v if n in COUNTS else _INTERPRETED for n, v in chosen.items() if n not in OPTIONS}
    if dtype == torch.float32:
        kept = (*OPTIONS, *COUNTS)
        return {n: v if n in kept else max(16, v // 2) for n, v in chosen.items()} | {"num_stages": 1}
    return chosen
