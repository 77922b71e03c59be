# SPDX-License-Identifier: Apache-2.0
"""Reading a store's splits: the entries to train on, and the proof that none of the sets leaks into another.

`splitting` makes splits; STORE/split_<name>.parquet holds the rows of items.parquet that are in a set, with a
column `split`.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pyarrow as pa

from foldwright.data.store import Store
from foldwright.data.tables import read_table

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def split_path(store: Store, name: str) -> Path:
    """Where a split of a store is kept."""
    return store.path / f"split_{name}.parquet"


def require_disjoint(split: pa.Table) -> None:
    """Raise ValueError if an entry is in two sets, or a cluster of evaluated items is in training too."""
    entries: dict[str, set[str]] = defaultdict(set)
    clusters: dict[str, set[str]] = defaultdict(set)
    for name, entry, cluster in zip(
        *(split[column].to_pylist() for column in ("split", "entry", "cluster")), strict=True
    ):
        entries[name].add(entry)
        clusters[name].add(cluster)
    pairs = [(TRAIN, VALIDATION), (TRAIN, TEST), (VALIDATION, TEST)]
    for first, second in pairs:
        shared = {"entries": entries[first] & entries[second]}
        if first == TRAIN:
            shared["clusters"] = clusters[first] & clusters[second]
        for what, names in shared.items():
            if names:
                raise ValueError(
                    f"{first} and {second} share {len(names)} {what}, such as {min(names)}; expected none: "
                    "make the split again with `split_data.py`"
                )


def split_entries(
    store: Store, name: str, allow_overlap: bool, key: str = "data.datasets.NAME.split"
) -> dict[str, list[str]]:
    """Entries of each set of a split; it is checked again, unless overlap is allowed.

    `key` is what errors call the setting. Raises ValueError if the store has no such split, the split
    overlaps, or it names entries that the store does not hold.
    """
    path = split_path(store, name)
    if not path.is_file():
        there = ", ".join(sorted(p.stem.removeprefix("split_") for p in store.path.glob("split_*.parquet")))
        raise ValueError(
            f"{key}: got {name!r}, expected one of the splits of {store.path}: "
            f"{there or 'it has none'}; make one with `split_data.py`"
        )
    split = read_table(path)
    if not allow_overlap:
        try:
            require_disjoint(split)
        except ValueError as error:
            raise ValueError(f"{error}; or train on it all the same with data.allow_overlap=true") from error
    sets: dict[str, set[str]] = {TRAIN: set(), VALIDATION: set(), TEST: set()}
    for entry, part in zip(split["entry"].to_pylist(), split["split"].to_pylist(), strict=True):
        sets[part].add(entry)
    missing = (sets[TRAIN] | sets[VALIDATION]) - set(store.manifest()["entry"].to_pylist())
    if missing or not sets[TRAIN]:
        raise ValueError(
            f"{key}={name}: {len(sets[TRAIN])} entries to train and {len(sets[VALIDATION])} to validate "
            f"on, of which the store {store.path} lacks {len(missing)}; expected one or more to train on, "
            "all there: run `split_data.py` again"
        )
    return {part: sorted(entries) for part, entries in sets.items()}
