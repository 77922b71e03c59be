# SPDX-License-Identifier: Apache-2.0
"""Clusters of a store's chains, which decide N_clust of equation 1 and what counts as homologous in a split.

Source: AF3 SI 2.5.1 (spec 2.4): proteins at 40 % identity with MMseqs2; nucleic acids and peptides of fewer
than ten residues at 100 %; ligands by component code; modified residues count as their parents. Two chains of
one sequence need one search, so only distinct sequences go to MMseqs2. Clusters are the connected components
of its hits, as in the archive's own sequence clusters: no two chains that it finds similar are ever apart.

    STORE/manifest.parquet   gains chain_clusters, a list beside chain_names
    STORE/items.parquet      gains cluster; cluster_size counts its members instead of cluster_100's

Preparing the store again keeps the clusters of the sequences that it had (`carry_over`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from foldwright.data.store import ITEMS, MANIFEST, Store
from foldwright.data.structure import Structure
from foldwright.data.tables import write_table
from foldwright.data.weights import NO_CHAIN
from foldwright.vocabulary import ONE_LETTER, RESTYPES

_LETTERS = np.array([ONE_LETTER[name] for name in RESTYPES])


@dataclass(frozen=True)
class ClusterConfig:
    """How proteins are clustered. `coverage` is the share of both sequences that must align."""

    identity: float = 0.4  # AF3 SI 2.5.1
    coverage: float = 0.8
    sensitivity: float = 7.5
    min_length: int = 10  # shorter proteins are peptides, which cluster at 100 % identity
    threads: int = 1


@dataclass(frozen=True)
class ClusterCounts:
    """What a clustering found: chains, distinct sequences given to MMseqs2, clusters of all kinds."""

    chains: int
    searched: int
    clusters: int
    protein_clusters: int


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="cluster_data.py",
        description="Cluster the chains of a store for the sampling weights and for splits.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    defaults = ClusterConfig()
    parser.add_argument("store", type=Path, help="a store made by prepare_data.py")
    parser.add_argument("--identity", type=float, default=defaults.identity, help="of proteins, 0 to 1")
    parser.add_argument(
        "--coverage", type=float, default=defaults.coverage, help="share of both that must align"
    )
    parser.add_argument("--sensitivity", type=float, default=defaults.sensitivity, help="MMseqs2's -s")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of MMseqs2")
    arguments = parser.parse_args(argv)
    config = ClusterConfig(
        identity=arguments.identity,
        coverage=arguments.coverage,
        sensitivity=arguments.sensitivity,
        threads=arguments.threads,
    )
    try:
        counts = cluster_store(arguments.store, config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = Table(title=f"clusters of {arguments.store}", title_justify="left", show_header=False)
    for name, value in asdict(counts).items():
        table.add_row(name.replace("_", " "), str(value))
    Console().print(table)
    return 0


def cluster_store(path: Path, config: ClusterConfig) -> ClusterCounts:
    """Cluster all chains of a store and write the result into its tables, each replaced in one step.

    The same store gives the same names again: a cluster is called after its first member's `cluster_100`.
    Raises ValueError if `path` is no store or MMseqs2 is not there or fails.
    """
    store = Store(path)
    manifest, items = store.manifest(), store.items()
    exact = manifest["chain_clusters_100"].to_pylist()
    sequences = dict(_protein_sequences(store, manifest))
    long = {name: sequence for name, sequence in sequences.items() if len(sequence) >= config.min_length}
    cluster_of = cluster_sequences(long, config)
    chains = [[cluster_of.get(name, name) for name in row] for row in exact]
    entries = manifest["entry"].to_pylist()
    clustered = clustered_items(items, dict(zip(entries, chains, strict=True)))
    write_table(with_column(manifest, "chain_clusters", pa.array(chains)), store.path / MANIFEST)
    write_table(clustered, store.path / ITEMS)
    names = {name for row in chains for name in row}
    proteins = {name for name in names if name.startswith("PROTEIN:")}
    return ClusterCounts(sum(map(len, chains)), len(long), len(names), len(proteins))


def sequence_of(structure: Structure, chain: int) -> str:
    """One-letter sequence of a polymer chain, modified residues as their parents."""
    return "".join(_LETTERS[structure.residue_restype[structure.residue_chain == chain]])


def clustered_items(items: pa.Table, chain_clusters: Mapping[str, Sequence[str]]) -> pa.Table:
    """The items with `cluster`, the unordered pair of their chains' clusters, and its `cluster_size`."""
    rows = zip(*(items[name].to_pylist() for name in ("entry", "chain_1", "chain_2")), strict=True)
    clusters = [
        "|".join(sorted(chain_clusters[entry][chain] for chain in pair if chain != NO_CHAIN))
        for entry, *pair in rows
    ]
    sizes = Counter(clusters)
    counted = pa.array([sizes[name] for name in clusters], pa.int32())
    return with_column(with_column(items, "cluster", pa.array(clusters)), "cluster_size", counted)


def cluster_sequences(sequences: Mapping[str, str], config: ClusterConfig) -> dict[str, str]:
    """Name of every protein sequence -> name of its cluster, the smallest name among its members.

    Raises ValueError if the `mmseqs` program is not on the PATH, or fails.
    """
    program = shutil.which("mmseqs")
    if program is None:
        raise ValueError(
            "got no `mmseqs` program on the PATH, expected MMseqs2; install it with "
            "`apt-get install mmseqs2` (Debian, Ubuntu), `brew install mmseqs2` or "
            "`conda install -c conda-forge -c bioconda mmseqs2`"
        )
    if not sequences:
        return {}
    names = sorted(sequences)
    with tempfile.TemporaryDirectory(prefix="clusters-") as folder:
        fasta = Path(folder) / "sequences.fasta"
        fasta.write_text("".join(f">{i}\n{sequences[name]}\n" for i, name in enumerate(names)))
        _run_mmseqs(program, fasta, config)
        pairs = [line.split("\t") for line in Path(folder, "out_cluster.tsv").read_text().splitlines()]
    smallest: dict[str, str] = {}  # names ascend with the numbers
    for representative, member in sorted(pairs, key=lambda pair: int(pair[1])):
        smallest.setdefault(representative, names[int(member)])
    found = {names[int(member)]: smallest[representative] for representative, member in pairs}
    return {name: found.get(name, name) for name in names}  # MMseqs2 drops what is all X


def _run_mmseqs(program: str, fasta: Path, config: ClusterConfig) -> None:
    """Writes out_cluster.tsv beside the FASTA file: representative, member."""
    command = [
        program, "easy-cluster", str(fasta), str(fasta.with_name("out")), str(fasta.with_name("work")),
        "--min-seq-id", f"{config.identity:g}", "-c", f"{config.coverage:g}", "--cov-mode", "0",
        "-s", f"{config.sensitivity:g}", "--max-seqs", "1000", "--cluster-mode", "1",
        "--threads", str(config.threads), "-v", "1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = (done.stdout + done.stderr)[-1500:]
        raise ValueError(f"`{' '.join(command)}` ended with code {done.returncode}; its last words: {tail}")


def _protein_sequences(store: Store, manifest: pa.Table) -> Iterator[tuple[str, str]]:
    """Sequence of every distinct protein by its 100 % cluster; reads as few entries as it can."""
    known: set[str] = set()
    for entry, exact in zip(
        manifest["entry"].to_pylist(), manifest["chain_clusters_100"].to_pylist(), strict=True
    ):
        new = {name: chain for chain, name in enumerate(exact) if name.startswith("PROTEIN:")}
        new = {name: chain for name, chain in new.items() if name not in known}
        if new:
            structure = store.entry(entry).structure
            known |= new.keys()
            yield from ((name, sequence_of(structure, chain)) for name, chain in new.items())


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """The table with a column added, or replaced."""
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)
