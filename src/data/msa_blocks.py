# SPDX-License-Identifier: Apache-2.0
"""How the store keeps an alignment: a head, and its columns in blocks of 64, each compressed by itself.

A crop touches nearly all rows of an alignment (every cycle draws others) but, in a long chain, few of its
columns; blocks of columns are also a quarter smaller than whole rows (docs/benchmarks/alignments.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from foldwright.data.arrays import decode, encode
from foldwright.data.msa import Msa

BLOCK = 64  # columns
_BLOCKED = ("rows", "deletions", "paired_rows", "paired_deletions")


def encode_msa(msa: Msa) -> tuple[bytes, list[bytes]]:
    """The head and the blocks of an alignment that holds all its columns."""
    length = len(msa.columns)
    head = encode({"profile": msa.profile, "deletion_mean": msa.deletion_mean})
    blocks = [
        encode({name: getattr(msa, name)[:, start : start + BLOCK] for name in _BLOCKED})
        for start in range(0, length, BLOCK)
    ]
    return head, blocks


def decode_msa(
    head: bytes, block: Callable[[int], bytes], columns: NDArray[np.integer] | Sequence[int] | None = None
) -> Msa:
    """The alignment with the columns asked for (and others of their blocks), or with all.

    Args:
        head: as `encode_msa` made it.
        block: gives the bytes of a block by its number.
        columns: numbers of the columns needed; None is all.

    Raises:
        ValueError: the bytes are damaged or a column does not exist.
    """
    arrays, _ = decode(head)
    length = len(arrays["deletion_mean"])
    wanted = np.arange(length) if columns is None else np.unique(np.asarray(columns, np.int64))
    if len(wanted) == 0 or wanted[0] < 0 or wanted[-1] >= length:
        raise ValueError(f"got columns {wanted[:1]}..{wanted[-1:]}, expected some of 0..{length - 1}")
    numbers = np.unique(wanted // BLOCK)
    held = (numbers[:, None] * BLOCK + np.arange(BLOCK)).ravel()
    held = held[held < length].astype(np.int32)
    parts = [decode(block(int(number)))[0] for number in numbers]
    blocked = {name: _joined([part[name] for part in parts]) for name in _BLOCKED}
    if blocked["rows"].shape[1] != len(held):
        raise ValueError(f"got blocks of {blocked['rows'].shape[1]} columns, expected {len(held)}")
    return Msa(**blocked, profile=arrays["profile"][held], deletion_mean=arrays["deletion_mean"][held],
               columns=held)  # fmt: skip


def _joined(parts: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
