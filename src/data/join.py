# SPDX-License-Identifier: Apache-2.0
"""Making one store of shards: its tables and its report, from those of all shards.

Every job joins when its shard is made and no other is missing or under way, so that the last one does. The
tables name the shards that they were made of by their stamps. A reader refuses tables of shards that are no
longer so, as after a job that was killed between its shard and the join; run again, that job joins.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

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
    shards = shards_of(out)
    if missing := missing_shards(out, shards):
        return missing
    return unjoined(out, shards, [read_meta(file) for file in array_files(out, shards)])


def join(out: Path) -> None:
    """Write the tables and the report of all shards of a store, if they are there, and are not written yet.

    Clusters and splits stay, as when a store is prepared again (`carry_over`). Raises ValueError if no shard
    kept any entry, or if one has entries of another.
    """
    with locked(out / FOLDER / "join.lock"):
        shards = shards_of(out)
        if missing_shards(out, shards) or shards_under_way(out, shards):
            return
        metas = [read_meta(file) for file in array_files(out, shards)]
        if not at_odds(out, shards, metas) and unjoined(out, shards, metas):
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
    clusters = items["cluster_100"].combine_chunks()
    counts = clusters.value_counts()
    sizes = counts.field("counts").take(pc.index_in(clusters, counts.field("values")))
    return with_column(items, "cluster_size", sizes.cast(pa.int32()))


def _joined_report(out: Path, shards: Sequence[Shard]) -> Report:
    """The report of all shards, as of one store that holds what they hold."""
    files = array_files(out, shards)
    told = [json.loads((shard.below(out) / reports.JSON).read_text()) for shard in shards]
    unmatched = [name for file in files for name in json.loads(read_value(file, b"unmatched") or b"[]")]
    report = Report(sorted(unmatched))
    report.account(heapq.merge(*(_own_records(out, shard) for shard in shards), key=itemgetter(0)))
    if not report.n_kept:
        raise ValueError(f"not one entry of {out} could be kept: {report.summary()}")
    made = sorted((code, record["source"]) for file in files for code, record in read_records(file, b"made/"))
    report.components = dict(made)
    report.unchanged = sum(own["unchanged_since_last_run"] for own in told)
    report.settings = told[0]["settings"]
    return report


def _own_records(out: Path, shard: Shard) -> Iterator[tuple[str, Any]]:
    """The done records of a shard, sorted by entry; ValueError for one of another shard."""
    for entry, record in read_records(shard.below(out) / ARRAYS, b"done/"):
        if not shard.holds(entry):
            raise ValueError(rerun(out, f"a shard holds {entry}, which is not its own", [shard]))
        yield entry, record
