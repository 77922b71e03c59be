# SPDX-License-Identifier: Apache-2.0
"""The cache of pockets: what the affinity head reads of each complex, made ahead of time, in one LMDB file.

A key names the checkpoint, the settings of the poses and the complex, so that pockets of several models live
side by side and a run that was interrupted goes on where it stopped. Pairs are bfloat16, kept as their bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from foldwright.data.arrays import decode, encode
from foldwright.data.store import GROWTH, open_for_writing, read_value
from foldwright.data.structure import Bools, Floats

FILE = "pockets.lmdb"


@dataclass(frozen=True)
class PocketRecord:
    """A pocket of N tokens. `z` are the bits of bfloat16 numbers."""

    s_inputs: Floats  # [N, c_s_inputs]
    z: NDArray[np.uint16]  # [N, N, c_z]
    x: Floats  # [N, 3] Å
    is_ligand: Bools  # [N]


class PocketCache:
    """Pockets below one name (`scope`) of a folder. Writing is for one process at a time."""

    def __init__(self, folder: Path, scope: str) -> None:
        self.folder, self.scope = folder, scope

    def read(self, complex_name: str) -> PocketRecord:
        """Raises KeyError for a complex that the cache lacks, ValueError for damaged bytes."""
        file = self.folder / FILE
        value = read_value(file, self._key(complex_name), GROWTH) if file.is_file() else None
        if value is None:
            raise KeyError(f"{complex_name} has no pocket of {self.scope} in {self.folder}")
        arrays: dict[str, Any] = decode(value)[0]
        return PocketRecord(**arrays)

    def missing(self, complexes: Iterable[str]) -> list[str]:
        """Those of the complexes that the cache lacks, in order."""
        file = self.folder / FILE
        if not file.is_file():
            return list(complexes)
        return [name for name in complexes if read_value(file, self._key(name), GROWTH) is None]

    def open(self) -> lmdb.Environment:
        """The writable file, made if missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return open_for_writing(self.folder / FILE)

    def write(self, environment: lmdb.Environment, complex_name: str, record: PocketRecord) -> int:
        """Bytes written, in a transaction of its own."""
        value = encode(vars(record))
        with environment.begin(write=True) as transaction:
            transaction.put(self._key(complex_name), value)
        return len(value)

    def _key(self, complex_name: str) -> bytes:
        return f"{self.scope}/{complex_name}".encode()[:500]


def pocket_bytes(tokens: int, c_z: int) -> int:
    """Bytes of the pairs of one pocket, uncompressed: nearly all that it takes."""
    return tokens * tokens * c_z * 2
