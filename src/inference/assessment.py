# SPDX-License-Identifier: Apache-2.0
"""The tables of an evaluation: a row a sample, a summary with intervals, and the comparison of two runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.table import Table

from foldwright.data.tables import read_table, write_table
from foldwright.evaluation.bootstrap import Comparison, Interval, compare, mean_interval
from foldwright.evaluation.selection import INITIAL, selection_score

EXAMPLES = "examples"
SUMMARY = "summary.json"
_KEYS = ("target", "seed", "sample")
_LOWER_IS_BETTER = {
    "rmsd", "ligand_rmsd", "gpde", "missing_chains", "plddt_calibration_error", "pae_calibration_error",
    "bad_bonds", "bad_angles", "wrong_hands", "bent_rings", "broken_links", "clashes_per_1000_atoms",
}  # fmt: skip
_SEED = 0


def write_examples(rows: Sequence[dict[str, Any]], out: Path, name: str = EXAMPLES) -> None:
    """OUT/<name>.parquet and .csv; a value that a row lacks is empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = pa.table({column: pa.array([row.get(column) for row in rows]) for column in columns})
    write_table(table, out / f"{name}.parquet")
    with (out / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def per_target(table: pa.Table, metric: str, choice: str) -> dict[str, float]:
    """A metric of each target: of the sample that ranks first (`ranked`), of the one with the least gPDE
    (`gpde`), the best of all (`best`), or their mean (`mean`).
    """
    values: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        values.setdefault(row["target"], []).append(row)
    return {target: _chosen(rows, metric, choice) for target, rows in values.items()}


def _chosen(rows: list[dict[str, Any]], metric: str, choice: str) -> float:
    found = np.array([np.nan if row.get(metric) is None else float(row[metric]) for row in rows])
    if not np.isfinite(found).any():
        return float("nan")
    if choice in ("ranked", "gpde"):
        key = "ranking_score" if choice == "ranked" else "gpde"
        sign = 1.0 if choice == "ranked" else -1.0
        order = [-np.inf if row.get(key) is None else sign * float(row[key]) for row in rows]
        return float(found[int(np.argmax(order))])
    if choice == "best":
        return float(np.nanmin(found) if metric in _LOWER_IS_BETTER else np.nanmax(found))
    return float(np.nanmean(found))


def metrics_of(table: pa.Table) -> list[str]:
    """Columns that hold numbers to average."""
    numbers = [f.name for f in table.schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    return [name for name in numbers if name not in _KEYS]


def summarise(table: pa.Table) -> dict[str, Any]:
    """Means over targets with intervals, ranked first and best of samples; the model-selection score (the
    mean of that of the samples with the least gPDE and of the best ones); ipTM against DockQ.
    """
    rng = np.random.default_rng(_SEED)
    figures: dict[str, Any] = {"targets": len(set(table["target"].to_pylist())), "samples": table.num_rows}
    figures["metrics"] = {
        metric: {
            choice: mean_interval(_values(table, metric, choice), rng)._asdict()
            for choice in ("ranked", "best")
        }
        for metric in metrics_of(table)
    }
    chosen = []
    for choice in ("gpde", "best"):
        means = {kind: _mean(_values(table, kind, choice)) for kind in INITIAL if kind in table.column_names}
        chosen.append(selection_score(means))
    figures["model_selection"] = {
        "score": (chosen[0].score + chosen[1].score) / 2,
        "coverage": chosen[0].coverage,
    }
    if {"iptm", "dockq"} <= set(table.column_names):
        pairs: NDArray[np.float64] = np.array([table[n].to_pylist() for n in ("iptm", "dockq")], np.float64)
        pairs = pairs[:, np.isfinite(pairs[0]) & np.isfinite(pairs[1])]
        varied = pairs.shape[1] > 2 and all(np.ptp(row) > 0 for row in pairs)
        figures["iptm_dockq_correlation"] = float(np.asarray(np.corrcoef(pairs))[0, 1]) if varied else None
    return figures


def write_summary(figures: dict[str, Any], out: Path) -> None:
    (out / SUMMARY).write_text(json.dumps(figures, indent=1) + "\n")


def summary_table(figures: dict[str, Any]) -> Table:
    """The means as they are shown."""
    shown = Table(title=f"{figures['targets']} targets, {figures['samples']} samples: mean [95 % interval]")
    for column in ("metric", "ranked first", "best of samples", "targets"):
        shown.add_column(column, justify="left" if column == "metric" else "right")
    for metric, choices in figures["metrics"].items():
        intervals = [Interval(**choices[choice]) for choice in ("ranked", "best")]
        shown.add_row(metric, *(interval.text() for interval in intervals), str(intervals[0].n))
    selection = figures["model_selection"]
    shown.add_row("model selection", f"{selection['score']:.3f}", "", f"{selection['coverage']:.0%}")
    return shown


def compare_runs(first: Path, second: Path) -> dict[str, Comparison]:
    """second - first of every metric of both, of the targets of both, of the samples that rank first.

    Raises ValueError where a run has no table or both have no target together.
    """
    for run in (first, second):
        if not (run / f"{EXAMPLES}.parquet").is_file():
            raise ValueError(f"--compare: got {run}, expected a folder that evaluate.py wrote with --out")
    tables = [read_table(run / f"{EXAMPLES}.parquet") for run in (first, second)]
    shared = sorted(set(tables[0]["target"].to_pylist()) & set(tables[1]["target"].to_pylist()))
    if not shared:
        raise ValueError(f"--compare: {first} and {second} have no target together; evaluate the same")
    rng = np.random.default_rng(_SEED)
    found = {}
    for metric in [m for m in metrics_of(tables[0]) if m in metrics_of(tables[1])]:
        values = [per_target(table, metric, "ranked") for table in tables]
        pair = [np.array([own[target] for target in shared]) for own in values]
        found[metric] = compare(pair[0], pair[1], rng)
    return found


def comparison_table(found: dict[str, Comparison]) -> Table:
    shown = Table(title="second - first, of the same targets: mean difference [95 % interval]")
    for column in ("metric", "difference", "p", "targets"):
        shown.add_column(column, justify="left" if column == "metric" else "right")
    for metric, result in found.items():
        shown.add_row(metric, result.difference.text(), f"{result.p_value:.3f}", str(result.difference.n))
    return shown


def _values(table: pa.Table, metric: str, choice: str) -> NDArray[np.float64]:
    return np.array(list(per_target(table, metric, choice).values()), np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
