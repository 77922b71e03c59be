# SPDX-License-Identifier: Apache-2.0
"""Queries from files of other formats, and from folders of them.

.json            AlphaFold 3's input format (`query_json`)
.fasta .fa .faa  one complex a file; a record a chain. Headers `>NAME|TYPE` or `>TYPE|NAME`, TYPE one of
                 protein, rna, dna, ligand (or smiles), ccd; without TYPE the letters tell: U without T is
                 RNA, nothing but A, C, G, T, N is DNA, everything else is protein
.cif .cif.gz     sequences, ligands and bonds of an existing structure (assembly 1), not its coordinates
.sdf             one ligand, the first molecule
.smi             a ligand a line, each a complex of its own: SMILES, then a name
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from foldwright.data.alignment_formats import fasta_records
from foldwright.data.ccd import Definition, Dictionary
from foldwright.data.filters import Rejection
from foldwright.data.ligands import definition_from_sdf, definition_from_smiles
from foldwright.data.mmcif import read_structure
from foldwright.data.query import BadQueries, ChainInput, Query, components_of_sequence
from foldwright.data.query_json import read_json
from foldwright.vocabulary import MoleculeType

_FASTA = (".fasta", ".fa", ".faa")
ENDINGS = (".json", *_FASTA, ".cif", ".cif.gz", ".sdf", ".smi")
_POLYMERS = {kind.name.lower(): kind for kind in MoleculeType if kind != MoleculeType.LIGAND}
_TYPES = (*_POLYMERS, "ligand", "smiles", "ccd")


class Found(NamedTuple):
    """A file with its good queries, and with what is wrong with it or with others of it."""

    path: Path
    queries: tuple[Query, ...]
    error: str = ""


def find_files(inputs: Iterable[Path]) -> list[Path]:
    """The files given, and those of known endings below the folders given, sorted, each once.

    Raises ValueError for a path that does not exist, or a folder without any such file.
    """
    found: list[Path] = []
    for path in inputs:
        if path.is_dir():
            below = [file for file in sorted(path.rglob("*")) if file.name.lower().endswith(ENDINGS)]
            if not below:
                raise ValueError(
                    f"{path}: got a folder without inputs, expected files of {', '.join(ENDINGS)}"
                )
            found += below
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"{path}: there is no such file or folder")
    return list(dict.fromkeys(found))


def read_queries(paths: Iterable[Path], dictionary: Dictionary) -> Iterator[Found]:
    """Every file's queries; a bad file is told, and does not stop the others."""
    for path in paths:
        try:
            yield Found(path, tuple(read_file(path, dictionary)))
        except (ValueError, OSError, Rejection) as error:
            text = str(error)
            good = error.good if isinstance(error, BadQueries) else ()
            yield Found(path, good, text if str(path) in text else f"{path}: {text}")


def read_file(path: Path, dictionary: Dictionary) -> list[Query]:
    """The queries of one file, by its ending. ValueError says what is wrong with it, BadQueries with some."""
    name = path.name.lower()
    readers: dict[str, Callable[[], list[Query]]] = {
        ".json": lambda: read_json(path),
        ".cif": lambda: [_from_mmcif(path, dictionary)],
        ".cif.gz": lambda: [_from_mmcif(path, dictionary)],
        ".sdf": lambda: [_ligand_alone(path.stem, definition_from_sdf("LIG_A", path))],
        ".smi": lambda: _from_smiles(path),
    } | dict.fromkeys(_FASTA, lambda: [_from_fasta(path)])
    for ending, reader in readers.items():
        if name.endswith(ending):
            return reader()
    raise ValueError(f"{path}: got the ending {path.suffix!r}, expected one of {', '.join(ENDINGS)}")


def _from_mmcif(path: Path, dictionary: Dictionary) -> Query:
    structure = read_structure(path, dictionary)
    unresolved = replace(
        structure,
        atom_coords=np.zeros_like(structure.atom_coords),
        atom_resolved=np.zeros_like(structure.atom_resolved),
    )
    name = path.name.removesuffix(".gz").removesuffix(".cif")
    return Query(name, structure=replace(unresolved, entry_id=name, method="", resolution=0.0))


def _ligand_alone(name: str, definition: Definition) -> Query:
    chain = ChainInput(("A",), MoleculeType.LIGAND, (definition.code,))
    return Query(name, chains=(chain,), definitions={definition.code: definition})


def _from_smiles(path: Path) -> list[Query]:
    queries, errors = [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            try:
                definition = definition_from_smiles("LIG_A", words[0])
            except ValueError as error:
                errors.append(f"{path}: line {number}: {error}")
                continue
            queries.append(_ligand_alone(words[1] if len(words) > 1 else f"{path.stem}-{number}", definition))
    if errors:
        raise BadQueries(errors, queries)
    if not queries:
        raise ValueError(f"{path}: got no SMILES, expected one a line")
    return queries


# --- FASTA ---


def _from_fasta(path: Path) -> Query:
    headers, sequences = fasta_records(path.read_bytes())
    if not headers:
        raise ValueError(f"{path}: got no record, expected '>' lines with sequences")
    definitions: dict[str, Definition] = {}
    chains: list[ChainInput] = []
    for number, (header, sequence) in enumerate(zip(headers, sequences, strict=True), 1):
        given, kind = _header(header.decode(errors="replace"))
        taken = {name for chain in chains for name in chain.names}
        name = given if given and given not in taken else next(n for n in _chain_names() if n not in taken)
        try:
            chains.append(_record(name, kind, sequence.decode(errors="replace"), definitions))
        except ValueError as error:
            raise ValueError(f"{path}: record {number} ({name}): {error}") from error
    return Query(path.stem, chains=tuple(chains), definitions=definitions)


def _header(header: str) -> tuple[str, str]:
    """Chain name and type of a header, "" for what it does not tell."""
    words = [word.strip() for word in header.split("|")]
    kinds = [word.lower() for word in words if word.lower() in _TYPES]
    names = [word.removeprefix("name=") for word in words if word.lower() not in _TYPES]
    first = names[0].split()[0] if names and names[0] else ""
    return (first if first.isascii() and first.isalnum() and len(first) <= 4 else ""), "".join(kinds[:1])


def _record(name: str, kind: str, sequence: str, definitions: dict[str, Definition]) -> ChainInput:
    if kind == "ccd":
        return ChainInput((name,), MoleculeType.LIGAND, tuple(sequence.split(",")))
    if kind in ("ligand", "smiles"):
        code = f"LIG_{name}"
        definitions[code] = definition_from_smiles(code, sequence)
        return ChainInput((name,), MoleculeType.LIGAND, (code,))
    sequence = sequence.upper().removesuffix("*")
    molecule = _POLYMERS[kind] if kind else _kind_of(sequence)
    return ChainInput((name,), molecule, components_of_sequence(sequence, molecule))


def _kind_of(sequence: str) -> MoleculeType:
    letters = set(sequence)
    if letters <= set("ACGUN") and "U" in letters:
        return MoleculeType.RNA
    return MoleculeType.DNA if letters <= set("ACGTN") else MoleculeType.PROTEIN


def _chain_names() -> Iterator[str]:
    """A, B, ..., Z, AA, BA, ...: more than any complex needs."""
    yield from string.ascii_uppercase
    yield from (second + first for first, second in product(string.ascii_uppercase, repeat=2))
