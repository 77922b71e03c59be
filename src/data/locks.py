# SPDX-License-Identifier: Apache-2.0
"""Locks between processes, as files; the system drops a lock should its holder die."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def lock_of(path: Path) -> Path:
    """The lock of what is made at a path, beside it."""
    return path.with_name(path.name + ".lock")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made, and stays; waits while another process holds it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which goes with it; ValueError if another process holds it."""
    descriptor = _take(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):  # the last holder may have removed it meanwhile
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise ValueError(
                f"another process is at {path.with_suffix('')}; let it end, or end it (it holds {path})"
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise ValueError(f"{path} cannot be locked ({error}); the file system must have flock") from error
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
