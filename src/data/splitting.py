# SPDX-License-Identifier: Apache-2.0
"""Making a split of a store into training, validation and test sets, by date and homology.

Source: AF3 SI 5.8 (spec 9). Training: entries released before a date. Validation and test: chains and
interfaces of later entries that are of low homology, that is no training entry holds partners for all of
their chains (another chain each): a polymer's partner is a chain of its cluster, a ligand's one of Tanimoto
coefficient above 0.85. Validation items are drawn one a cluster, up to a number for each kind of interface;
the test set keeps all. Readings: the paper's validation and test dates overlap; here validation ends where
test begins, so that the sets share no entry. Monomers are chains of entries with one polymer chain.

    STORE/split_<name>.parquet   rows of items.parquet with a column `split`; how it was made, as metadata
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from foldwright.data.ligand_similarity import similar_ligands
from foldwright.data.splits import TEST, TRAIN, VALIDATION, require_disjoint, split_path
from foldwright.data.store import Store
from foldwright.data.tables import write_table
from foldwright.data.weights import NO_CHAIN
from foldwright.randomness import generator

_LIGAND = "LIGAND:"
_VALIDATION_SIZES = {  # AF3 SI 5.8; kinds not named (those with RNA, nucleic-acid monomers) are kept whole
    "PROTEIN-PROTEIN": 600,
    "DNA-PROTEIN": 100,
    "DNA-DNA": 100,
    "LIGAND-PROTEIN": 600,
    "DNA-LIGAND": 50,
    "LIGAND-LIGAND": 200,
    "PROTEIN": 40,
}


@dataclass(frozen=True)
class SplitConfig:
    """Dates are ISO; an `until` is the last day. Resolutions in Å. Defaults: AF3's."""

    train_before: str = "2021-09-30"
    validation_from: str = "2021-09-30"
    validation_until: str = "2022-04-30"
    test_from: str = "2022-05-01"
    test_until: str = "2023-01-12"
    max_resolution: float = 4.5
    validation_max_tokens: int = 2048
    test_max_tokens: int = 5120
    test_min_residues: int = 16  # shorter proteins are peptides, which are not scored
    max_ligand_similarity: float = 0.85
    validation_sizes: Mapping[str, int] = field(default_factory=lambda: dict(_VALIDATION_SIZES))
    seed: int = 0


_OPTIONS = {  # what SplitConfig's settings are, which are options of the same names
    "train_before": "entries released before this ISO date may be trained on",
    "validation_from": "first day of the validation set's releases",
    "validation_until": "last day of them",
    "test_from": "first day of the test set's releases",
    "test_until": "last day of them",
    "max_resolution": "in Å, of validation and test entries",
    "validation_max_tokens": "larger validation entries are left out",
    "test_max_tokens": "larger test entries are left out",
    "test_min_residues": "shorter proteins of the test set are not scored",
    "max_ligand_similarity": "Tanimoto similarity to a ligand trained on from which one is not new",
    "seed": "of the choice of clusters",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    defaults = SplitConfig()
    parser = argparse.ArgumentParser(
        prog="split_data.py",
        description="Split a store by date and homology; train with data.datasets.pdb.split=NAME.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("store", type=Path, help="a store that cluster_data.py has clustered")
    parser.add_argument("--name", default="af3", help="of the split; a store may have several")
    for name, meaning in _OPTIONS.items():
        value = getattr(defaults, name)
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value, help=meaning)
    arguments = parser.parse_args(argv)
    config = SplitConfig(**{name: getattr(arguments, name) for name in _OPTIONS})
    try:
        split = split_store(arguments.store, arguments.name, config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _show(split, f"split {arguments.name} of {arguments.store}")
    return 0


def _show(split: pa.Table, title: str) -> None:
    table = Table("set", "entries", "chains", "interfaces", "clusters", title=title, title_justify="left")
    for name in (TRAIN, VALIDATION, TEST):
        rows = [row for row in split.to_pylist() if row["split"] == name]
        entries, clusters = ({row[key] for row in rows} for key in ("entry", "cluster"))
        chains = sum(row["chain_2"] == NO_CHAIN for row in rows)
        table.add_row(name, *map(str, (len(entries), chains, len(rows) - chains, len(clusters))))
    Console().print(table)


def split_store(path: Path, name: str, config: SplitConfig) -> pa.Table:
    """Make a split of a store, prove it free of overlap and write it in one step.

    Raises ValueError if the store has no clusters, or if a set would leak into another.
    """
    if not name.isidentifier():
        raise ValueError(f"--name: got {name!r}, expected letters, digits and underscores")
    store = Store(path)
    items = store.items()
    if "cluster" not in items.column_names:
        raise ValueError(f"the store {path} has no clusters; run `cluster_data.py {path}` first")
    split = make_split(store, config)
    require_disjoint(split)
    split = split.replace_schema_metadata({"settings": json.dumps(asdict(config))})
    target = split_path(store, name)
    write_table(split, target)
    return split


def make_split(store: Store, config: SplitConfig) -> pa.Table:
    """The items of the three sets, with a column `split`; see the module for the rules."""
    rows = {row["entry"]: row for row in store.manifest().to_pylist()}
    train = {e for e, row in rows.items() if "" < row["release_date"] < config.train_before}
    windows = {
        VALIDATION: (config.validation_from, config.validation_until, config.validation_max_tokens),
        TEST: (config.test_from, config.test_until, config.test_max_tokens),
    }
    candidates: dict[str, list[dict[str, Any]]] = {name: [] for name in (TRAIN, *windows)}
    for item in store.items().to_pylist():
        row = rows[item["entry"]]
        if item["entry"] in train:
            candidates[TRAIN].append(item)
        for name, (first, last, max_tokens) in windows.items():
            is_sharp = 0 < row["resolution"] <= config.max_resolution
            is_later = first <= row["release_date"] <= last and item["entry"] not in train
            if is_later and is_sharp and row["n_tokens"] <= max_tokens and _is_scored(item, row):
                candidates[name].append(item)
    later = [item for name in windows for item in candidates[name]]
    homologous = Homology(store, [rows[e] for e in sorted(train)], [rows[i["entry"]] for i in later], config)
    for name in windows:
        low = [item for item in candidates[name] if not homologous(item, rows[item["entry"]])]
        candidates[name] = low
    candidates[VALIDATION] = _one_a_cluster(candidates[VALIDATION], rows, config)
    candidates[TEST] = _without_peptides(candidates[TEST], rows, store, config)
    flat = [item | {"split": name} for name, kept in candidates.items() for item in kept]
    schema = store.items().schema.append(pa.field("split", pa.string()))
    return pa.Table.from_pylist(flat, schema=schema)


def _chains(item: Mapping[str, Any]) -> list[int]:
    return [chain for chain in (item["chain_1"], item["chain_2"]) if chain != NO_CHAIN]


def _is_scored(item: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Interfaces, and the only polymer chain of an entry."""
    polymers = [chain for chain, kind in enumerate(row["chain_types"]) if kind != "LIGAND"]
    return item["chain_2"] != NO_CHAIN or polymers == [item["chain_1"]]


class Homology:
    """Whether a training entry holds partners for all chains of an item."""

    def __init__(
        self,
        store: Store,
        train: Sequence[Mapping[str, Any]],
        later: Iterable[Mapping[str, Any]],
        config: SplitConfig,
    ) -> None:
        self._counts = [Counter(row["chain_clusters"]) for row in train]
        self._holders: dict[str, set[int]] = defaultdict(set)
        for number, counts in enumerate(self._counts):
            for cluster in counts:
                self._holders[cluster].add(number)
        codes = [name.removeprefix(_LIGAND) for name in self._holders if name.startswith(_LIGAND)]
        wanted = {name for row in later for name in row["chain_clusters"] if name.startswith(_LIGAND)}
        self._similar = similar_ligands(
            [name.removeprefix(_LIGAND) for name in wanted],
            codes,
            store.components,
            config.max_ligand_similarity,
        )

    def __call__(self, item: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
        partners = [self._partners(row["chain_clusters"][chain]) for chain in _chains(item)]
        holders = [set().union(*(self._holders[name] for name in names)) for names in partners]
        for entry in set.intersection(*holders):
            counts = self._counts[entry]
            if sum(counts[name] for name in set().union(*partners)) >= len(partners):
                return True
        return False

    def _partners(self, cluster: str) -> set[str]:
        if cluster.startswith(_LIGAND):
            names = self._similar[cluster.removeprefix(_LIGAND)]
            return {_LIGAND + name for name in names}
        return {cluster} if cluster in self._holders else set()


def _one_a_cluster(
    items: list[dict[str, Any]], rows: Mapping[str, Mapping[str, Any]], config: SplitConfig
) -> list[dict[str, Any]]:
    """One random item of each cluster, and of the clusters of a kind a random choice of the number wanted."""
    rng = generator(config.seed, 0, "validation set")
    kinds: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        types = rows[item["entry"]]["chain_types"]
        kind = "-".join(sorted(types[chain] for chain in _chains(item)))
        kinds[kind][item["cluster"]].append(item)
    chosen = []
    for kind in sorted(kinds):
        clusters = sorted(kinds[kind])
        size = min(config.validation_sizes.get(kind, len(clusters)), len(clusters))
        for index in sorted(rng.permutation(len(clusters))[:size].tolist()):
            members = kinds[kind][clusters[index]]
            chosen.append(members[int(rng.integers(len(members)))])
    return chosen


def _without_peptides(
    items: list[dict[str, Any]], rows: Mapping[str, Mapping[str, Any]], store: Store, config: SplitConfig
) -> list[dict[str, Any]]:
    """Items without a protein chain of fewer residues than are scored."""
    lengths: dict[str, Any] = {}
    kept = []
    for item in items:
        entry = item["entry"]
        if entry not in lengths:
            structure = store.entry(entry).structure
            lengths[entry] = np.bincount(structure.residue_chain, minlength=len(structure.chain_name))
        types = rows[entry]["chain_types"]
        if not any(
            types[chain] == "PROTEIN" and lengths[entry][chain] < config.test_min_residues
            for chain in _chains(item)
        ):
            kept.append(item)
    return kept
