# SPDX-License-Identifier: Apache-2.0
"""The table of measured affinities that training reads: validated, one row a complex and assay, as Parquet.

`low` and `high` bound y = log10(K / µM): equal for an exact value, one of them infinite for a censored label.
What can be known of a ligand without a network, its weight and fingerprint, is worked out here, so that
training and its baselines need no chemistry.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from foldwright.data.affinity_formats import Record

TABLE = "affinity.parquet"  # in a store
PLAUSIBLE = (-8.0, 6.0)  # y: K from 10 fM to 1 M
MAX_SPREAD = 1.0  # decades that repeated measurements of one ligand in one assay may differ
SCHEMA = pa.schema([
    ("complex", pa.string()),  # <entry>/<ligand chain> of a store, "" if there is none
    ("ligand", pa.string()),
    ("smiles", pa.string()),
    ("target", pa.string()),
    ("assay", pa.string()),
    ("kind", pa.string()),
    ("low", pa.float64()),
    ("high", pa.float64()),
    ("is_binder", pa.int8()),  # 1, 0, or -1 where unknown
    ("molecular_weight", pa.float64()),
    ("fingerprint", pa.binary(256)),  # 2048 bits, Morgan of radius 2
    ("source", pa.string()),
])  # fmt: skip


@dataclass(frozen=True)
class Ligand:
    """What the table says of a ligand. `weight` g/mol with hydrogens; `bits` 256 bytes of fingerprint."""

    smiles: str
    weight: float
    bits: bytes


@dataclass(frozen=True)
class Measured:
    """A record with its ligand and the complex that stands for it in a store ("" without)."""

    record: Record
    ligand: Ligand
    complex: str
    source: str


@dataclass
class AffinityReport:
    """What a table was made of. `dropped` counts by reason, `ranges` are those of y by kind."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    relations: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    assays: int = 0
    with_complex: int = 0

    def plain(self) -> dict[str, Any]:
        """As JSON-ready containers."""
        return {name: dict(v) if isinstance(v, Counter) else v for name, v in vars(self).items()}

    def show(self, console: Console) -> None:
        table = Table(title="measured affinities", title_justify="left", show_header=False)
        rows = [("read", self.read), ("kept", self.kept), ("merged duplicates", self.duplicates)]
        rows += [("assays", self.assays), ("with a complex in the store", self.with_complex)]
        rows += [(f"dropped: {reason}", count) for reason, count in self.dropped.most_common()]
        for name, count in rows:
            table.add_row(name, f"{count:,}")
        for kind, count in self.kinds.most_common():
            low, high = self.ranges.get(kind, (math.nan, math.nan))
            table.add_row(kind, f"{count:,}, log10(K/µM) from {low:.2f} to {high:.2f}")
        table.add_row("relations", ", ".join(f"{k} {v:,}" for k, v in self.relations.most_common()))
        console.print(table)


def affinity_table(measured: Sequence[Measured], report: AffinityReport) -> pa.Table:
    """Rows that pass, in order of complex and assay; repeats of one ligand in one assay become one row.

    Exact values that agree within a decade are averaged; others, and limits that exclude each other, are
    contradictions and dropped.
    Drops are counted in `report`.
    """
    groups: dict[tuple[str, ...], list[Measured]] = defaultdict(list)
    for item in measured:
        if (reason := _fault(item)) is not None:
            report.dropped[reason] += 1
            continue
        record = item.record
        ligand = item.ligand.smiles or record.ligand
        kind = record.constant.kind if record.constant else "binary"
        groups[(_assay(item), record.target, kind, ligand, item.complex)].append(item)
    rows = [row for _, group in sorted(groups.items()) if (row := _merged(group, report)) is not None]
    report.kept, report.assays = len(rows), len({row["assay"] for row in rows})
    report.with_complex = sum(bool(row["complex"]) for row in rows)
    report.kinds.update(row["kind"] for row in rows)
    for kind in report.kinds:
        values = [
            v for row in rows if row["kind"] == kind for v in (row["low"], row["high"]) if math.isfinite(v)
        ]
        if values:
            report.ranges[kind] = (min(values), max(values))
    return pa.Table.from_pylist(rows, SCHEMA)


def _fault(item: Measured) -> str | None:
    constant = item.record.constant
    if item.record.reason:
        return item.record.reason
    if constant is not None and not PLAUSIBLE[0] <= constant.y <= PLAUSIBLE[1]:
        return "implausible"
    return None


def _assay(item: Measured) -> str:
    record = item.record
    kind = record.constant.kind if record.constant else "binary"
    return record.assay or "|".join((item.source, record.target or record.structure, kind))


def _merged(group: Sequence[Measured], report: AffinityReport) -> dict[str, Any] | None:
    """The row of repeated measurements, or None where they contradict each other."""
    constants = [item.record.constant for item in group]
    exact = [c.y for c in constants if c is not None and c.relation == "="]
    if exact and max(exact) - min(exact) > MAX_SPREAD:
        report.dropped["contradicting"] += len(group)
        return None
    binders = {item.record.is_binder for item in group}
    if binders >= {True, False}:
        report.dropped["contradicting"] += len(group)
        return None
    first = group[0]
    low, high = _bounds(exact, [c for c in constants if c is not None])
    if low > high:
        report.dropped["contradicting"] += len(group)
        return None
    report.duplicates += len(group) - 1
    is_binder = first.record.is_binder
    report.relations["=" if low == high else ">" if high == math.inf and low > -math.inf else
                     "<" if low == -math.inf and high < math.inf else "-"] += 1  # fmt: skip
    return {
        "complex": first.complex,
        "ligand": first.record.ligand,
        "smiles": first.ligand.smiles,
        "target": first.record.target or first.record.structure,
        "assay": _assay(first),
        "kind": first.record.constant.kind if first.record.constant else "binary",
        "low": low,
        "high": high,
        "is_binder": -1 if is_binder is None else int(is_binder),
        "molecular_weight": first.ligand.weight,
        "fingerprint": first.ligand.bits,
        "source": first.source,
    }


def _bounds(exact: Sequence[float], constants: Iterable[Any]) -> tuple[float, float]:
    """An exact value counts above all limits; of limits of one side the tightest. Limits that exclude each
    other give a low bound above the high one.
    """
    if exact:
        mean = statistics.fmean(exact)
        return mean, mean
    above = [c.y for c in constants if c.relation == ">"]
    below = [c.y for c in constants if c.relation == "<"]
    return (max(above, default=-math.inf), min(below, default=math.inf))


def censor_ceiling(records: Iterable[Record], ceiling: float) -> list[Record]:
    """Exact values from `ceiling` (y) on as "> ceiling", the highest concentration that an assay tried."""
    return [
        replace(record, constant=record.constant._replace(y=ceiling, relation=">"))
        if record.constant and record.constant.relation == "=" and record.constant.y >= ceiling - 1e-9
        else record
        for record in records
    ]


def fingerprints(table: pa.Table) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """[rows, 2048] bits of 0 and 1."""
    raw = np.frombuffer(b"".join(table["fingerprint"].to_pylist()), np.uint8)
    return np.unpackbits(raw.reshape(len(table), -1), axis=1)
