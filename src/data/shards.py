# SPDX-License-Identifier: Apache-2.0
"""How a store is laid out in shards: parts that jobs make on their own, each a store by itself.

    STORE/shards/003-of-064/   the entries that fall to the third of 64 by a hash of their names
    STORE/manifest.parquet     and the other tables and reports: of all shards together (`join`)

An entry's shard depends on its name and on the number of shards alone, so files may come and go.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

FOLDER = "shards"
MAX_SHARDS = 512  # files that a process has open at a time, of the 1024 that systems allow it
_NAME = re.compile(r"(\d+)-of-(\d+)(\.partial|\.old|\.lock)?")


class Shard(NamedTuple):
    """One of `of` shards; `number` counts from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def below(self, store: Path) -> Path:
        """The folder of this shard of a store."""
        return store / FOLDER / f"{self.number:03d}-of-{self.of:03d}"

    def holds(self, name: str) -> bool:
        """Whether the entry of this name falls to this shard."""
        return shard_number(name, self.of) == self.number


def parse_shard(text: str) -> Shard:
    """The shard that "3/64" names; ValueError for what is no such thing."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    shard = Shard(int(found[1]), int(found[2])) if found else Shard(0, 0)
    if not 1 <= shard.number <= shard.of <= MAX_SHARDS:
        raise ValueError(f"--shard: got {text!r}, expected NUMBER/COUNT, as 3/64, COUNT at most {MAX_SHARDS}")
    return shard


def shard_number(name: str, count: int) -> int:
    """The shard, from 1 to `count`, of an entry: the same on every machine, today and later."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % count + 1


def shards_of(store: Path) -> list[Shard]:
    """All shards that a store must have, made or not, by the folders of any of them; none: it has no shards.

    Raises ValueError if they are of several counts.
    """
    folder = store / FOLDER
    counts = _counts(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else set()
    if len(counts) > 1:
        raise ValueError(
            f"{folder} has shards of {' and of '.join(map(str, sorted(counts)))}, expected one number; "
            "remove the shards of the other"
        )
    return [Shard(number, count) for count in counts for number in range(1, count + 1)]


def require_count(store: Path, shard: Shard) -> None:
    """Raise ValueError if the store is no place for this shard: it has another number of them, or none."""
    folder = store / FOLDER
    if not folder.is_dir() and store.is_dir() and any(store.iterdir()):
        raise ValueError(
            f"--shard: {store} is not empty and has no shards, expected a new folder or a store made with "
            "--shard; prepare it without --shard, or give another path"
        )
    counts = _counts(path.name for path in folder.iterdir()) if folder.is_dir() else set()
    if counts - {shard.of}:
        there = ", ".join(map(str, sorted(counts - {shard.of})))
        raise ValueError(
            f"--shard: got {shard}, but {store} is made of {there} shards; give --shard NUMBER/{there}, or "
            "another path to make it anew"
        )


def require_no_shards(store: Path) -> None:
    """Raise ValueError if a store to be made as a whole has shards."""
    if shards := shards_of(store):
        raise ValueError(
            f"--out: {store} is made of {len(shards)} shards; give --shard NUMBER/{len(shards)}, or another "
            "path to make it as a whole"
        )


def missing_shards(store: Path, shards: Sequence[Shard]) -> str:
    """Which shards are not there, and what to do; "" if all are."""
    missing = [
        f"{shard} (half-made or under way)" if _begun(shard.below(store)) else str(shard)
        for shard in shards
        if not shard.below(store).is_dir()
    ]
    return _again(f"{store} lacks {len(missing)} of its shards", missing) if missing else ""


def rerun(store: Path, what: str, shards: Iterable[Shard]) -> str:
    """A sentence: what is wrong with some shards of a store, and the command that mends it."""
    return _again(f"{store}: {what}", list(map(str, shards)))


def shards_under_way(store: Path, shards: Iterable[Shard]) -> list[Shard]:
    """Those that a job is at, or was killed at."""
    return [shard for shard in shards if _begun(shard.below(store))]


def _begun(folder: Path) -> bool:
    return folder.with_name(folder.name + ".partial").is_dir()


def _again(what: str, shards: list[str]) -> str:
    named = ", ".join(shards[:20]) + f" and {len(shards) - 20} more" * (len(shards) > 20)
    return f"{what}: {named}; run prepare_data.py with --shard {shards[0].split()[0]}" + (
        " and so on" * (len(shards) > 1)
    )


def _counts(names: Iterable[str]) -> set[int]:
    return {int(found[2]) for name in names if (found := _NAME.fullmatch(name))}
