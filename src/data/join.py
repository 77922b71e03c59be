# SPDX-License-Identifier: Apache-2.0
"""Making one store of shards: its tables and its report, from those of all shards.

Every job joins when its shard is made and no other is missing or under way, so that the last one does. The
tables name the shards that they were made of by their stamps. A reader refuses tables of shards that are no
longer so, as after a job that was killed between its shard and the join; run again, that job joins.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from foldwright.data import report as reports
from foldwright.data.carry_over import carry_clusters, split_name, stale_splits
from foldwright.data.clusters import with_column
from foldwright.data.locks import locked
from foldwright.data.report import Report
from foldwright.data.shards import FOLDER, Shard, missing_shards, rerun, shards_of, shards_under_way
from foldwright.data.store import (
    ARRAYS,
    ITEMS,
    MANIFEST,
    array_files,
    at_odds,
    read_meta,
    read_records,
    read_value,
    stamped,
    unjoined,
)
from foldwright.data.tables import read_table, write_table


def unready(out: Path) -> str:
    """Why the shards of a store are not yet one, with what to do; "" if they are."""
    missing = missing_shards(out, shards_of(out))
    return missing or unjoined(out, [read_meta(file) for file in array_files(out)])


def join(out: Path) -> None:
    """Write the tables and the report of all shards of a store, if they are there, and are not written yet.

    Clusters and splits stay, as when a store is prepared again (`carry_over`). Raises ValueError if no shard
    kept any entry, or if one has entries of another.
    """
    with locked(out / FOLDER / "join.lock"):
        shards = shards_of(out)
        if missing_shards(out, shards) or shards_under_way(out, shards):
            return
        metas = [read_meta(file) for file in array_files(out)]
        if not at_odds(out, metas) and unjoined(out, metas):
            _join(out, shards, [meta["stamp"] for meta in metas])


def _join(out: Path, shards: Sequence[Shard], stamps: list[str]) -> None:
    report = _joined_report(out, shards)
    manifest = _together([read_table(shard.below(out) / MANIFEST) for shard in shards])
    items = _counted(_together([read_table(shard.below(out) / ITEMS) for shard in shards]))
    manifest, items, report.unclustered = carry_clusters(out, manifest, items)
    stale = stale_splits(out, items)
    report.dropped_splits = list(map(split_name, stale))
    for path in stale:
        path.unlink()
    report.write(out)
    write_table(stamped(manifest, stamps), out / MANIFEST)
    write_table(stamped(items, stamps), out / ITEMS)


def _together(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of all tables, sorted by entry, those of one entry in their order."""
    filled = [table for table in tables if len(table)] or tables[:1]
    return pa.concat_tables(filled, promote_options="permissive").sort_by("entry").combine_chunks()


def _counted(items: pa.Table) -> pa.Table:
    """Items with the size of their clusters in the whole store."""
    names = items["cluster_100"].to_pylist()
    sizes = Counter(names)
    return with_column(items, "cluster_size", pa.array([sizes[name] for name in names], pa.int32()))


def _joined_report(out: Path, shards: Sequence[Shard]) -> Report:
    """The report of all shards, as of one store that holds what they hold."""
    records: dict[str, dict[str, Any]] = {}
    unmatched: list[str] = []
    sources: dict[str, str] = {}
    told = [json.loads((shard.below(out) / reports.JSON).read_text()) for shard in shards]
    for shard in shards:
        file = shard.below(out) / ARRAYS
        own = read_records(file, b"done/")
        if stray := [entry for entry in own if not shard.holds(entry)]:
            raise ValueError(rerun(out, f"a shard holds {stray[0]}, which is not its own", [shard]))
        records |= own
        unmatched += json.loads(read_value(file, b"unmatched") or b"[]")
        sources |= {code: made["source"] for code, made in read_records(file, b"made/").items()}
    report = Report(sorted(unmatched))
    kept = report.account(dict(sorted(records.items())))
    if not kept:
        raise ValueError(f"not one of {len(records)} entries could be kept: {report.summary()}")
    report.components = dict(sorted(sources.items()))
    report.unchanged = sum(own["unchanged_since_last_run"] for own in told)
    report.settings = told[0]["settings"]
    return report
