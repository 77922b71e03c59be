# SPDX-License-Identifier: Apache-2.0
"""Staging: a store copied from a network file system to a node's local disk, once for all ranks of the node.

The copy lies under a key of the store's content: the sizes of all files and the bytes of its tables, among
which the manifest names the digest of every entry's file. So a store that was prepared anew is copied anew,
and one that was not is found again by later runs. A copy is made beside its place, checked and renamed; one
rank makes it, under a lock, and the others wait.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from foldwright.data.locks import locked
from foldwright.data.shards import shards_of
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
    with locked(folder / f"{key}.lock"):
        if not target.is_dir():
            _copy(source, target, key)
    if content_key(target) != key:
        raise ValueError(f"{target} is no sound copy of {source}; remove it, and the next start copies again")
    return target


def content_key(store: Path) -> str:
    """Digest of a store's content: names and sizes of all files, bytes of all but the arrays."""
    digest = hashlib.sha256()
    for path in _files(store):
        digest.update(f"{path.relative_to(store)}\0{path.stat().st_size}\0".encode())
        if path.name != ARRAYS:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _files(store: Path) -> list[Path]:
    """The store's own files and those of its shards, without what a job at one of them has lying about."""
    folders = [store, *(shard.below(store) for shard in shards_of(store))]
    files = (path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_file())
    return sorted(path for path in files if not path.name.endswith("-lock"))


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
        copy = partial / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    if content_key(partial) != key:
        raise ValueError(f"the copy of {source} in {partial} differs from it; was it changed meanwhile?")
    os.replace(partial, target)
