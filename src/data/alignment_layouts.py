# SPDX-License-Identifier: Apache-2.0
"""Alignments as other projects lay them out, which name their chains in ways of their own.

    OpenProteinSet   <entry>_<author chain>/ with uniref90_hits, bfd_uniclust_hits, mgnify_hits (.a3m or
                     .sto) and others of OPEN_PROTEIN_SET below, joined in this order, perhaps within a3m/;
                     hhr/pdb70_hits.hhr holds template hits. duplicate_pdb_chains.txt lists, a line a group,
                     chains that share the folder of one of them
    ColabFold        <entry>.a3m: `#lengths<TAB>copies`, then rows over all chains side by side, which are
                     paired, then each chain's own; or <entry>_env/ as its server answers: uniref.a3m,
                     bfd.*.a3m, and pair.a3m whose row r of every chain are paired; chains are apart by NUL

Which chain an alignment belongs to is told by its first row, not by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from foldwright.data.alignment_formats import (
    Alignment,
    a3m_row,
    align_sequences,
    fasta_records,
    read_bytes,
    split_stockholm,
)
from foldwright.data.species import key_species, row_species
from foldwright.vocabulary import MoleculeType

OPEN_PROTEIN_SET = ("uniref90_hits", "bfd_uniclust_hits", "bfd_uniref_hits", "small_bfd_hits", "uniclust30",
                    "mgnify_hits", "uniprot_hits")  # fmt: skip
HIT_NAMES = ("pdb70_hits", "hmm_output")
DUPLICATES = "duplicate_pdb_chains.txt"
_PAIRABLE = "uniprot_hits"
_COLABFOLD = re.compile(r"uniref\.a3m|bfd\..*\.a3m|pair\.a3m")
_COLABFOLD_FOLDER = re.compile(r"_(env|all|env_nofilter|pairgreedy|paircomplete)$")
_BLOCK = re.compile(rb"1\d\d(\t1\d\d)*$")  # the headers of ColabFold's queries: 101, 102, ...


@dataclass
class Rows:
    """Rows in a3m, the query first, and the species of each."""

    sequences: list[bytes] = field(default_factory=list)
    species: list[str] = field(default_factory=list)

    def alignment(self, molecule: MoleculeType) -> Alignment:
        """ValueError for rows of unequal length or unknown letters."""
        return Alignment(*align_sequences(self.sequences, molecule), tuple(self.species))


@dataclass
class ChainSearch:
    """What was found for one query: rows of its own, and rows to pair (none: those of its own)."""

    main: Rows
    pairing: Rows

    def extend(self, part: Part) -> None:
        """Append the rows of a part, without its query."""
        target = self.pairing if part.paired else self.main
        target.sequences += part.rows[1:]
        target.species += part.species[1:]


class Part(NamedTuple):
    """Rows of one query, the query first, and their species."""

    rows: list[bytes]
    species: Sequence[str]
    paired: bool


def layout_key(path: Path) -> tuple[str, bool] | None:
    """Name of what a file belongs to, and whether it is template hits; None for a file of no layout.

    The name is that of the folder, `1abc_A` or `1abc`.
    """
    stem = path.name.removesuffix(".gz").rpartition(".")[0]
    folder = path.parent.parent if path.parent.name in ("a3m", "hhr") else path.parent
    if stem in OPEN_PROTEIN_SET or stem in HIT_NAMES:
        return folder.name, stem in HIT_NAMES
    if _COLABFOLD.fullmatch(path.name.removesuffix(".gz")):
        return _COLABFOLD_FOLDER.sub("", folder.name), False
    return None


def read_duplicates(folder: Path) -> dict[str, list[str]]:
    """All names of a group by each of its names, from the files that list chains of one sequence."""
    groups = (
        line.split() for path in sorted(folder.rglob(DUPLICATES)) for line in path.read_text().splitlines()
    )
    return {name: group for group in groups for name in group}


def read_layout(files: Sequence[Path]) -> list[ChainSearch]:
    """The searches that the files of one folder, or one file, hold: one for each query.

    Raises:
        ValueError: a damaged file, or one whose rows are not as wide as its queries.
    """
    found: dict[bytes, ChainSearch] = {}
    for path in sorted(files, key=_rank):
        try:
            for part in _parts(path):
                query = part.rows[0]
                empty = ChainSearch(Rows([query], [""]), Rows([query], [""]))
                found.setdefault(query, empty).extend(part)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error
    return list(found.values())


def _rank(path: Path) -> tuple[int, str]:
    stem = path.name.partition(".")[0]
    names = (*OPEN_PROTEIN_SET, "uniref", "bfd")
    return (names.index(stem) if stem in names else len(names)), path.name


def _parts(path: Path) -> Iterator[Part]:
    data, name = read_bytes(path), path.name
    if name.removesuffix(".gz").endswith(".sto"):
        yield _plain(*_stockholm_records(data), name)
    elif data.lstrip(b"\0").startswith(b"#"):
        yield from _colabfold(data.replace(b"\0", b"\n"))
    else:
        for text in data.split(b"\0"):
            if text.strip():
                yield _plain(*fasta_records(text), name)


def _plain(headers: Sequence[bytes], rows: list[bytes], name: str) -> Part:
    if not rows or not rows[0]:
        raise ValueError("got no sequence, expected an alignment whose first row is the query")
    if name.startswith("pair.a3m"):
        return Part(rows, _numbered(len(rows)), True)
    return Part(rows, row_species(headers), name.startswith(_PAIRABLE))


def _numbered(count: int) -> list[str]:
    """Species of rows that belong beside the rows of the same number of other chains."""
    return ["", *map(key_species, range(1, count))]


def _stockholm_records(data: bytes) -> tuple[list[bytes], list[bytes]]:
    file = split_stockholm(data)
    column = np.array([letter not in b"-._~" for letter in file.sequences[0]])
    headers = [name + b" " + file.descriptions.get(name, b"") for name in file.names]
    return headers, [a3m_row(sequence, column) for sequence in file.sequences]


# --- ColabFold's files of several chains ---


def _colabfold(data: bytes) -> Iterator[Part]:
    """Parts of a file that says its chains' lengths; columns beyond a part's own chains are cut away."""
    lengths = [int(number) for number in re.findall(rb"\d+", data.split(b"\n", 1)[0].partition(b"\t")[0])]
    headers, rows = fasta_records(data)
    starts = [number for number, header in enumerate(headers) if _BLOCK.match(header.strip())]
    if not lengths or starts[:1] != [0]:
        raise ValueError("expected '#lengths<TAB>copies' and then the queries 101, 102, ...")
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        numbers = [int(number) - 101 for number in headers[start].split()]
        if max(numbers) >= len(lengths):
            raise ValueError(f"got the query {headers[start].decode()!r} of {len(lengths)} chains")
        pieces = [split_row(row, lengths) for row in rows[start:end]]
        whole = len(numbers) > 1
        for number in numbers:
            own = [piece[number] for piece in pieces]
            species = _numbered(len(own)) if whole else row_species(headers[start:end])
            empty = [not row.strip(b"-") for row in own]
            kept = [(row, name) for row, name, gap in zip(own, species, empty, strict=True) if not gap]
            yield Part([row for row, _ in kept], [name for _, name in kept], whole)


def split_row(row: bytes, lengths: Sequence[int]) -> list[bytes]:
    """The a3m row of each of several chains side by side; an insertion goes with the column before it.

    ValueError unless the row has as many columns as all chains together.
    """
    letters = np.frombuffer(row, np.uint8)
    column = np.cumsum((letters < ord("a")) & (letters != ord(".")))
    if not len(column) or column[-1] != sum(lengths):
        raise ValueError(f"got a row of {int(column[-1:].sum())} columns, the chains have {sum(lengths)}")
    ends = np.searchsorted(column, np.cumsum(lengths), side="right")
    return [row[start:end] for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]
