# SPDX-License-Identifier: Apache-2.0
"""Writing to LMDB in groups: what belongs together is whole, and many such units share one commit.

A commit is an fsync, milliseconds of disk whatever it holds. A unit is a transaction within that of its
group: an exception undoes the unit alone, and a killed process loses the open group, nothing of it written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import lmdb

MAX_UNITS = 100
MAX_BYTES = 64 * 2**20  # which LMDB holds in memory until the commit
MAX_SECONDS = 1.0


class GroupWriter:
    """Units of writing to an environment; leaving it commits the last group, also after an exception.

    A group is committed with the unit by which it has MAX_UNITS units or MAX_BYTES bytes, or is MAX_SECONDS
    old. No clock runs between units: while none comes, the group stays open.
    """

    def __init__(self, environment: lmdb.Environment) -> None:
        self._environment = environment
        self._group: lmdb.Transaction | None = None
        self._units = self._bytes = 0
        self._start = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._commit()

    @contextmanager
    def unit(self, n_bytes: int = 0) -> Iterator[lmdb.Transaction]:
        """A transaction to write `n_bytes` or so with, which becomes part of the group as a whole."""
        if self._group is None:
            self._group = self._environment.begin(write=True)
            self._units, self._bytes, self._start = 0, 0, time.monotonic()
        with self._environment.begin(parent=self._group, write=True) as transaction:
            yield transaction
        self._units += 1
        self._bytes += n_bytes
        age = time.monotonic() - self._start
        if self._units >= MAX_UNITS or self._bytes >= MAX_BYTES or age >= MAX_SECONDS:
            self._commit()

    def _commit(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.commit()
