# SPDX-License-Identifier: Apache-2.0
"""Which complexes are sample number n of the affinity stage: a group of five, keyed by (seed, n) alone.

Source: Boltz-2 (spec 6). A value group is drawn from one assay, assays in proportion to their activity cliffs
(the interquartile range of their values); a binary group is one binder and four others of the same target.
Deviation: measurements that are alone in their assay may be drawn together, as `singles`; their differences
count for nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foldwright.randomness import generator


@dataclass
class GroupConfig:
    """Complexes a group, and the shares of value groups, binary groups and groups of single measurements;
    a share of which there is no data falls to the others.
    """

    size: int = 5
    values: float = 0.5
    binary: float = 0.5
    singles: float = 0.0


class GroupSampler:
    """Draws groups of rows of an affinity table. ValueError if no group can be made of it."""

    def __init__(self, table: pa.Table, config: GroupConfig, seed: int) -> None:
        if config.size < 2:
            raise ValueError(f"affinity.groups.size: got {config.size}, expected at least 2")
        self.config, self.seed = config, seed
        value = np.array(table["kind"].to_pylist(), object) != "binary"
        assays = _by(table["assay"].to_pylist(), np.flatnonzero(value))
        self.assays = [rows for rows in assays if len(rows) > 1]
        cliffs = np.array([activity_cliff(table, rows) for rows in self.assays])
        self.cliffs = cliffs if cliffs.sum() > 0 else np.ones(len(cliffs))
        self.singles = np.array([rows[0] for rows in assays if len(rows) == 1], np.int64)
        self.targets = _binary_targets(table)
        shares = np.array([
            config.values * bool(self.assays),
            config.binary * bool(self.targets),
            config.singles * bool(len(self.singles)),
        ])  # fmt: skip
        if not shares.sum() > 0:
            raise ValueError(
                f"got {len(table)} measurements, expected an assay with two, a target with a binder and a "
                "non-binder, or single ones with affinity.groups.singles above 0; look at the report"
            )
        self.shares = shares / shares.sum()

    def draw(self, n: int) -> NDArray[np.int64]:
        """Rows of group number `n`: `size` of them, or fewer where its assay or target has no more."""
        rng = generator(self.seed, n, "affinity group")
        kind = int(rng.choice(3, p=self.shares))
        if kind == 0:
            rows = self.assays[int(rng.choice(len(self.assays), p=self.cliffs / self.cliffs.sum()))]
        elif kind == 1:
            binders, others = self.targets[int(rng.integers(len(self.targets)))]
            chosen = rng.choice(others, min(self.config.size - 1, len(others)), replace=False)
            return np.concatenate([rng.choice(binders, 1), chosen])
        else:
            rows = self.singles
        return rng.choice(rows, min(self.config.size, len(rows)), replace=False)


def activity_cliff(table: pa.Table, rows: NDArray[np.int64]) -> float:
    """Interquartile range of the values of an assay's rows; a censored one counts as its limit."""
    low, high = (np.array(table[name].to_pylist())[rows] for name in ("low", "high"))
    values = np.where(np.isfinite(low), low, high)
    values = values[np.isfinite(values)]
    return float(np.subtract(*np.percentile(values, [75, 25]))) if len(values) else 0.0


def _by(names: list[str], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    found: dict[str, list[int]] = defaultdict(list)
    for row in rows.tolist():
        found[names[row]].append(row)
    return [np.array(found[name], np.int64) for name in sorted(found)]


def _binary_targets(table: pa.Table) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(binders, others) of every target that has both."""
    label = np.array(table["is_binder"].to_pylist())
    targets = _by(table["target"].to_pylist(), np.flatnonzero(label >= 0))
    split = [(rows[label[rows] == 1], rows[label[rows] == 0]) for rows in targets]
    return [(binders, others) for binders, others in split if len(binders) and len(others)]
