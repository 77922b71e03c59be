# SPDX-License-Identifier: Apache-2.0
"""The command that makes STORE/affinity.parquet: files of measurements, and what they were measured on.

Complexes come from a store (entries of the PDB code with the component as a ligand chain), or from series of
poses, of which the command makes a store of its own. A measurement without a complex stays in the table, for
baselines and for later.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from foldwright.data.affinity_complexes import (
    Complex,
    ligand_chain,
    read_protein,
    series_folders,
    with_ligand,
    write_store,
)
from foldwright.data.affinity_formats import Record, read_records
from foldwright.data.affinity_table import (
    TABLE,
    AffinityReport,
    Ligand,
    Measured,
    affinity_table,
    censor_ceiling,
)
from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.conformers import build_molecule, make_component
from foldwright.data.ligands import component_from_molecule
from foldwright.data.molecules import describe, read_sdf, read_smiles
from foldwright.data.preparation import BareComponents
from foldwright.data.store import Store
from foldwright.data.structure import Component
from foldwright.data.tables import write_table

REPORT = "affinity_report.json"
_UNKNOWN = Ligand("", float("nan"), bytes(256))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    console = Console()
    try:
        report = prepare_affinity(
            arguments.measurements,
            arguments.store,
            Dictionary.open(arguments.dictionary_cache),
            poses=arguments.poses,
            targets=arguments.targets,
            ligands=_ligand_names(arguments.ligands),
            ceiling=None if arguments.ceiling_uM is None else float(np.log10(arguments.ceiling_uM)),
            n_conformers=arguments.n_conformers,
            console=console,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report.show(console)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prepare_affinity.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--measurements", type=Path, nargs="+", required=True, help="TSV or CSV files, or a PDBbind index")
    add("--store", type=Path, required=True, help="a prepared store; with --poses, the one to make")
    add("--poses", type=Path, help="folder of series: <target>/protein.pdb and <target>/ligands.sdf")
    add("--targets", nargs="*", default=[], help="the series to take; all of them if none is named")
    add("--ligands", type=Path, help="TSV of ligand_id and SMILES, where the measurements name ligands alone")
    add("--ceiling-uM", type=float, help="values from this K on mean: weaker than that")
    add("--n-conformers", type=int, default=5, help="reference conformers of a ligand")
    add("--dictionary-cache", type=Path, default=DEFAULT_CACHE, help="where the parsed dictionary is kept")
    return parser


def prepare_affinity(
    files: Sequence[Path],
    store: Path,
    dictionary: Dictionary,
    *,
    poses: Path | None = None,
    known: Mapping[tuple[str, str], str] | None = None,
    targets: Sequence[str] = (),
    ligands: Mapping[str, str] | None = None,
    ceiling: float | None = None,
    n_conformers: int = 5,
    console: Console | None = None,
) -> AffinityReport:
    """Write STORE/affinity.parquet and its report; make STORE of the poses where there are any.

    `known`: complexes of STORE by target and ligand, beside those that are found. `ceiling`: y from which
    exact values are limits. Raises ValueError for an unreadable file, a store that is missing, or one that is
    there already and should be made of poses.
    """
    report = AffinityReport()
    records = [(path.name.split(".")[0], record) for path in files for record in _read(path, ceiling)]
    report.read = len(records)
    known = known or {}
    if poses is not None:
        folders = {k: v for k, v in series_folders(poses).items() if not targets or k in targets}
        wanted = {(record.target, record.ligand) for _, record in records}
        made = track(
            _series(folders, wanted, dictionary, n_conformers),
            description="complexes", total=None, console=console, disable=console is None,
        )  # fmt: skip
        known = _write(store, made, dictionary)
    find = _Finder(Store(store), known)
    describer = _Describer(dictionary, ligands or {})
    measured = [Measured(record, describer(record), find(record), source) for source, record in records]
    table = affinity_table([_checked(item) for item in measured], report)
    write_table(table, store / TABLE)
    (store / REPORT).write_text(json.dumps(report.plain(), indent=1) + "\n")
    return report


def _read(path: Path, ceiling: float | None) -> Iterable[Record]:
    if not path.is_file():
        raise ValueError(f"--measurements: {path} is no file")
    records = read_records(path)
    return records if ceiling is None else censor_ceiling(records, ceiling)


def _ligand_names(path: Path | None) -> dict[str, str]:
    """ligand id -> SMILES of a TSV (.gz too) with a header; the second column has the SMILES."""
    if path is None:
        return {}
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        return {row[0]: row[1] for row in list(csv.reader(file, delimiter="\t"))[1:] if len(row) > 1}


def _series(
    folders: Mapping[str, tuple[Path, Path]],
    wanted: set[tuple[str, str]],
    dictionary: Dictionary,
    n_conformers: int,
) -> Iterator[Complex]:
    """The complexes of all series whose ligand was measured, each name once."""
    for target, (protein, ligands) in folders.items():
        structure = read_protein(protein, dictionary)
        seen = set()
        for pose in read_sdf(ligands):
            if (target, pose.name) in wanted and pose.name not in seen:
                seen.add(pose.name)
                component = component_from_molecule(
                    f"{target}:{pose.name}", pose.molecule, n_conformers=n_conformers
                )
                yield with_ligand(structure, component, f"{target}:{pose.name}", pose.coords)


def _write(store: Path, made: Iterable[Complex], dictionary: Dictionary) -> dict[tuple[str, str], str]:
    """(target, ligand) -> complex of the store that is written."""
    rows = write_store(store, made, _Prepared(dictionary))
    names = [str(row["entry"]) for row in rows]
    return {tuple(name.split(":", 1)): f"{name}/LIG" for name in names}  # type: ignore[misc]


class _Prepared(BareComponents):
    """The dictionary's components with conformers, made when asked for and kept."""

    def __init__(self, dictionary: Dictionary) -> None:
        super().__init__(dictionary)
        self._made: dict[str, Component] = {}

    def __getitem__(self, code: str) -> Component:
        if code not in self._made:
            self._made[code] = make_component(code, self._dictionary, n_conformers=1)
        return self._made[code]


class _Finder:
    """The complex of a record: of a series, or an entry of the store that has its component as a chain."""

    def __init__(self, store: Store, known: Mapping[tuple[str, str], str]) -> None:
        self.store, self.known = store, known
        self.entries = set(store.manifest()["entry"].to_pylist())

    def __call__(self, record: Record) -> str:
        if found := self.known.get((record.target, record.ligand)):
            return found
        if record.structure not in self.entries:
            return ""
        structure = self.store.entry(record.structure).structure
        chain = ligand_chain(structure, record.ligand, record.chain.split(","))
        return f"{record.structure}/{chain}" if chain else ""


class _Describer:
    """The ligand of a record by its SMILES, a table of names, or its component code."""

    def __init__(self, dictionary: Dictionary, names: Mapping[str, str]) -> None:
        self.dictionary, self.names = dictionary, names
        self.made: dict[str, Ligand] = {}

    def __call__(self, record: Record) -> Ligand:
        smiles = record.smiles or self.names.get(record.ligand, "")
        key = smiles or record.ligand
        if key not in self.made:
            self.made[key] = self._make(smiles, record.ligand)
        return self.made[key]

    def _make(self, smiles: str, code: str) -> Ligand:
        if smiles:
            try:
                return Ligand(*describe(read_smiles(smiles)))
            except ValueError:
                return _UNKNOWN
        if code not in self.dictionary:
            return _UNKNOWN
        molecule = build_molecule(self.dictionary.with_hydrogens(code))
        return Ligand(*describe(molecule)) if molecule is not None else _UNKNOWN


def _checked(item: Measured) -> Measured:
    """A ligand that chemistry cannot read is a reason to drop its measurement."""
    if item.ligand is not _UNKNOWN or item.record.reason:
        return item
    reason = "unreadable_smiles" if item.record.smiles else "unknown_ligand"
    return replace(item, record=replace(item.record, reason=reason))
