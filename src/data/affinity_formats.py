# SPDX-License-Identifier: Apache-2.0
"""Readers of measured affinities: BindingDB TSV, PDBbind index, ChEMBL CSV, Binding MOAD, plain CSV or TSV.

Every reader gives Records, one a measurement, with what the file says and no more; a row without a usable
constant gives the reason instead. The format is known by the header, not by the name of the file.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from foldwright.data.affinity_units import Constant, read_column, read_measurement, read_text, read_value

Row = Mapping[str, str]


@dataclass(frozen=True)
class Record:
    """One row of a file. Empty strings where it says nothing; `structure` is a PDB entry or a pose's name.

    `constant` is None with a `reason` where nothing could be read, and without one for a label of binding
    alone (`is_binder`).
    """

    constant: Constant | None = None
    is_binder: bool | None = None
    reason: str = ""
    smiles: str = ""
    ligand: str = ""  # name, or component code
    target: str = ""
    assay: str = ""
    structure: str = ""
    chain: str = ""


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file (.gz too); ValueError for a format that none of the readers knows."""
    with _open(path) as lines:
        yield from _records(path, lines)


def _open(path: Path):  # type: ignore[no-untyped-def]
    opened = gzip.open if path.suffix == ".gz" else open
    return opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="")  # spreadsheets write a BOM


def _records(path: Path, lines: Iterator[str]) -> Iterator[Record]:
    first = next(iter(lines), "")
    if first.startswith("#") or re.match(r"^\w{4}\s+(\d\.\d+|NMR)\s+\d{4}\s", first):
        yield from _pdbbind(first, lines)
        return
    delimiter = max("\t;,", key=first.count)
    header = next(csv.reader([first], delimiter=delimiter), [])
    if len(header) == 4 and read_text(header[3]) is not None:  # Binding MOAD's list has no header
        yield from (_moad(row) for row in csv.reader([first], delimiter=delimiter))
        yield from (_moad(row) for row in csv.reader(lines, delimiter=delimiter))
        return
    reader = _reader_of(header, path)
    csv.field_size_limit(2**24)
    for cells in csv.reader(lines, delimiter=delimiter):
        if cells:  # not a blank line; a short row lacks its last cells
            yield from reader(
                {
                    name.strip(): cell.strip()
                    for name, cell in zip_longest(header, cells[: len(header)], fillvalue="")
                }
            )


def _reader_of(header: Sequence[str], path: Path) -> Callable[[Row], Iterator[Record]]:
    names = [name.strip() for name in header]
    folded = {name.lower() for name in names}
    if "BindingDB Reactant_set_id" in names or ("Ligand SMILES" in names and "Ki (nM)" in names):
        return _bindingdb
    if {"standard value", "standard units"} <= folded or {"standard_value", "standard_units"} <= folded:
        return _chembl
    known = [name for name in names if read_column(name) is not None]
    if known or {"type", "value"} <= folded or "raw" in folded or "y" in folded:
        return lambda row: _plain(row, known)
    raise ValueError(
        f"{path}: got the columns {', '.join(names)[:300]}; expected BindingDB's, ChEMBL's, a PDBbind index, "
        "or a column with its unit in its name (Kd_nM, IC50_uM, pKi, dG_kcal), type with value and unit, "
        "or y for binder or not"
    )


def _bindingdb(row: Row) -> Iterator[Record]:
    """One record for every kind of constant that a row holds. An assay: target, article and kind."""
    article = row.get("Article DOI") or row.get("PMID") or row.get("BindingDB Entry DOI") or ""
    target = row.get("UniProt (SwissProt) Primary ID of Target Chain") or row.get("Target Name") or ""
    found = False
    for name in row:
        column = read_column(name)
        if column is None or not row[name]:
            continue
        found = True
        constant = read_value(row[name], column)
        yield Record(
            constant,
            reason="" if constant else "no_number",
            smiles=row.get("Ligand SMILES", ""),
            ligand=row.get("BindingDB MonomerID") or row.get("BindingDB Ligand Name", ""),
            target=target,
            assay="|".join((target, article, column.kind)),
            structure=row.get("PDB ID(s) for Ligand-Target Complex", "").split(",")[0].lower(),
        )
    if not found:
        yield Record(reason="no_constant")


def _chembl(row: Row) -> Iterator[Record]:
    cells = {name.lower().replace("_", " "): cell for name, cell in row.items()}
    constant = read_measurement(
        cells.get("standard type", ""),
        cells.get("standard value", ""),
        cells.get("standard units", ""),
        cells.get("standard relation", ""),
    )
    yield Record(
        constant,
        reason="" if constant else "no_constant",
        smiles=cells.get("smiles") or cells.get("canonical smiles", ""),
        ligand=cells.get("molecule chembl id", ""),
        target=cells.get("target chembl id", ""),
        assay=cells.get("assay chembl id", ""),
    )


def _pdbbind(first: str, lines: Iterator[str]) -> Iterator[Record]:
    """`3zzf  2.20  2012  0.40  Ki=400mM  // 3zzf.pdf (NLG)`, comments from "#"."""
    for line in (first, *lines):
        if line.startswith("#") or not line.strip():
            continue
        constant = read_text(line)
        ligand = re.search(r"\(([^()]+)\)", line)
        entry = line.split()[0].lower()
        code = ligand[1] if ligand else ""
        yield Record(constant, reason="" if constant else "no_constant", ligand=code, structure=entry)


def _moad(cells: Sequence[str]) -> Record:
    """entry, component, chain, constant."""
    entry, code, chain, text = (*cells, "", "", "", "")[:4]
    constant = read_text(text)
    reason = "" if constant else "no_constant"
    return Record(constant, reason=reason, ligand=code, structure=entry.lower(), chain=chain)


_NAMES: dict[str, tuple[str, ...]] = {
    "smiles": ("smiles", "smiles_iso", "canonical_smiles", "ligand smiles"),
    "ligand": ("ligand", "ligand_id", "ligand_ccd", "compound", "name", "molecule"),
    "target": ("target", "target_id", "protein", "uniprot", "system"),
    "assay": ("assay", "assay_id", "series", "group"),
    "structure": ("pdb_id", "entry", "structure", "complex"),
    "chain": ("chain", "auth_chains", "ligand_chain"),
}


def _plain(row: Row, columns: Sequence[str]) -> Iterator[Record]:
    """The first of: `raw` text, type/value/unit, the columns with a unit, `y` for binder or not."""
    cells = {name.lower(): cell for name, cell in row.items()}
    said = {field: next((cells[n] for n in names if cells.get(n)), "") for field, names in _NAMES.items()}
    if said["assay"]:
        said["assay"] = "|".join((said["assay"], said["target"]))
    relation = cells.get("relation", "")
    constant = read_text(cells["raw"]) if cells.get("raw") else None
    if constant is None and cells.get("value"):
        kind = cells.get("type", "")
        constant = read_measurement(kind, cells["value"], cells.get("unit", ""), relation)
    for name in columns:
        constant = constant or read_value(row[name], read_column(name), relation)  # type: ignore[arg-type]
    label = cells.get("is_binder", cells.get("y", ""))
    is_binder = {"1": True, "0": False, "1.0": True, "0.0": False}.get(label)
    reason = "" if constant or is_binder is not None else "no_constant"
    yield Record(constant, is_binder, reason, **said)
