# SPDX-License-Identifier: Apache-2.0
"""What a store prepared again keeps of the one it replaces: clusters of its sequences, and splits.

A chain's cluster goes with its sequence. Ligands, nucleic acids and peptides cluster by themselves; a protein
sequence that was not there yet is a cluster of its own until `cluster_data.py` is run again, and is counted.
A split stays as long as every item of it is still there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from foldwright.data.clusters import clustered_items, with_column
from foldwright.data.store import MANIFEST
from foldwright.data.tables import read_table

_SPLITS = "split_*.parquet"
_ITEM_KEY = ("entry", "chain_1", "chain_2", "cluster_100")


def carry_clusters(old: Path, manifest: pa.Table, items: pa.Table) -> tuple[pa.Table, pa.Table, int | None]:
    """Manifest and items with the clusters of the store `old`, and how many protein sequences have none.

    The tables come back as they are, with None, if there is no such store or it has no clusters.
    """
    known = _known_clusters(old / MANIFEST)
    if known is None:
        return manifest, items, None
    exact = manifest["chain_clusters_100"].to_pylist()
    chains = [[known.get(name, name) for name in row] for row in exact]
    new = {name for row in exact for name in row if name.startswith("PROTEIN:") and name not in known}
    by_entry = dict(zip(manifest["entry"].to_pylist(), chains, strict=True))
    column = pa.array(chains, pa.list_(pa.string()))
    return with_column(manifest, "chain_clusters", column), clustered_items(items, by_entry), len(new)


def _known_clusters(path: Path) -> dict[str, str] | None:
    if not path.is_file() or "chain_clusters" not in pq.read_schema(path).names:
        return None
    table = read_table(path, ["chain_clusters_100", "chain_clusters"])
    pairs = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    return {name: cluster for row in pairs for name, cluster in zip(*row, strict=True)}


def carry_splits(old: Path, new: Path, items: pa.Table) -> list[str]:
    """Copy the splits of `old` whose items are all among `items`; returns the names of the others."""
    stale = stale_splits(old, items)
    for path in sorted(set(old.glob(_SPLITS)) - set(stale)):
        shutil.copyfile(path, new / path.name)
    return list(map(split_name, stale))


def stale_splits(folder: Path, items: pa.Table) -> list[Path]:
    """The splits of a store that have items which are not among `items`."""
    there = set(_keys(items))
    splits = sorted(folder.glob(_SPLITS))
    return [path for path in splits if not there.issuperset(_keys(read_table(path, _ITEM_KEY)))]


def split_name(path: Path) -> str:
    return path.stem.removeprefix("split_")


def _keys(table: pa.Table) -> list[tuple[object, ...]]:
    return list(zip(*(table[name].to_pylist() for name in _ITEM_KEY), strict=True))
