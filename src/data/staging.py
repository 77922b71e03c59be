# SPDX-License-Identifier: Apache-2.0
"""Staging: a store copied from a network file system to a node's local disk, once for all ranks of the node.

The copy lies under a key of the store's content: the sizes of all files and the bytes of its tables, among
which the manifest names the digest of every entry's file. So a store that was prepared anew is copied anew,
and one that was not is found again by later runs. A copy is made beside its place, checked and renamed; one
rank makes it, under a lock, and the others wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foldwright.data.store import ARRAYS, Store


def stage(store: Path | str, folder: Path | str) -> Path:
    """The path of a complete copy of a store below `folder`, made if it is not there.

    Raises ValueError if `store` is no complete store, the disk has no room for it, or the copy differs.
    """
    source, folder = Path(store), Path(folder)
    Store(source)
    key = content_key(source)
    target = folder / key
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f"{key}.lock"):
        if not target.is_dir():
            _copy(source, target, key)
    if content_key(target) != key:
        raise ValueError(f"{target} is no sound copy of {source}; remove it, and the next start copies again")
    return target


def content_key(store: Path) -> str:
    """Digest of a store's content: names and sizes of all files, bytes of all but the arrays."""
    digest = hashlib.sha256()
    for path in _files(store):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        if path.name != ARRAYS:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _files(store: Path) -> list[Path]:
    return sorted(path for path in store.iterdir() if path.is_file() and not path.name.endswith("-lock"))


def _copy(source: Path, target: Path, key: str) -> None:
    partial = target.with_name(key + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a rank that was killed; the lock is ours
    size = sum(path.stat().st_size for path in _files(source))
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise ValueError(
            f"loader.stage_to: {target.parent} has {free / 2**30:.1f} GiB left, the store {source} takes "
            f"{size / 2**30:.1f} GiB; name another disk, or none"
        )
    partial.mkdir()
    for path in _files(source):
        shutil.copyfile(path, partial / path.name)
    if content_key(partial) != key:
        raise ValueError(f"the copy of {source} in {partial} differs from it; was it changed meanwhile?")
    os.replace(partial, target)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes of a node; the system drops it should its holder die."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
