# SPDX-License-Identifier: Apache-2.0
"""Reading alignments: a3m, Stockholm and keyed CSV files, plain or gzipped, to arrays.

The first row of a file is the query; its residues are the columns. What other rows have between two columns
is counted as deleted left of the second (AF3 SI 2.2, 2.3).

    .a3m   capitals and - are columns, lower-case letters insertions, dots padding between them
    .sto   Stockholm 1.0, in one block or many; columns are those where the query has a residue
    .csv   header `key,sequence`, then a key and an a3m row a line; rows of two chains with the same key >= 0
           are paired
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldwright.data.species import key_species, row_species
from foldwright.data.structure import Bools, Bytes
from foldwright.vocabulary import GAP, MSA_LETTERS, MoleculeType

Counts = NDArray[np.uint16]

FORMATS = (".a3m", ".sto", ".csv")
_INSERTION, _SKIP, _INVALID = 253, 254, 255
_MAX_COUNT = 65535
_GAPS = b"-._~"  # in Stockholm files
_CHUNK = 1024  # rows of a Stockholm file taken apart at a time, to bound memory


@dataclass(frozen=True)
class Alignment:
    """A file's rows as they stand, duplicates included. M rows (row 0 the query), L columns.

    `deletions` [M, L] counts the residues left of a column that the query lacks; `species` [M] names each
    row's (`foldwright.data.species`).
    """

    rows: Bytes
    deletions: Counts
    species: tuple[str, ...]


def read_alignment(path: Path, molecule: MoleculeType) -> Alignment:
    """Read a file whose name ends in one of FORMATS, with .gz after it or not.

    Raises:
        ValueError: unknown ending, damaged or empty file, rows of unequal length, unknown letters.
    """
    parsers = {".a3m": parse_a3m, ".sto": parse_stockholm, ".csv": parse_csv}
    ending = Path(path.name.removesuffix(".gz")).suffix
    if ending not in parsers:
        raise ValueError(f"{path}: got an alignment ending in {ending!r}, expected one of {FORMATS} (.gz)")
    try:
        return parsers[ending](read_bytes(path), molecule)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_bytes(path: Path) -> bytes:
    """A file's content, decompressed if it ends in .gz. ValueError if that fails."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"cannot decompress it ({error}); fetch or make the file again") from error


def fasta_records(data: bytes) -> tuple[list[bytes], list[bytes]]:
    """Headers without `>` and sequences without blanks; lines that start with # are comments."""
    lines = [line for line in data.splitlines() if not line.startswith(b"#")]
    before, *records = (b"\n" + b"\n".join(lines)).split(b"\n>")
    if before.strip(b" \t\n\x00"):
        raise ValueError(f"got {before.strip()[:40]!r} before the first record, expected a line with '>'")
    parts = [record.partition(b"\n") for record in records]
    return [part[0] for part in parts], [part[2].translate(None, b" \t\r\n\x00") for part in parts]


def parse_a3m(data: bytes, molecule: MoleculeType) -> Alignment:
    """As `read_alignment`, from the bytes of an a3m file."""
    headers, sequences = fasta_records(data)
    if not sequences or not sequences[0]:
        raise ValueError("got no sequence, expected an a3m alignment whose first record is the query")
    return Alignment(*align_sequences(sequences, molecule), row_species(headers))


def parse_csv(data: bytes, molecule: MoleculeType) -> Alignment:
    """As `read_alignment`, from the bytes of a keyed CSV file."""
    header, *lines = data.splitlines() or [b""]
    if header.strip() != b"key,sequence":
        raise ValueError(f"got the header {header[:40]!r}, expected 'key,sequence'")
    fields = [line.split(b",") for line in lines if line.strip()]
    for number, field in enumerate(fields, 2):
        if len(field) != 2 or not field[0].strip().removeprefix(b"-").isdigit():
            raise ValueError(f"line {number}: got {b','.join(field)[:40]!r}, expected 'integer key,sequence'")
    sequences = [field[1].strip() for field in fields]
    if not sequences or not sequences[0]:
        raise ValueError("got no sequence, expected rows of which the first is the query")
    keys = [key_species(int(field[0])) for field in fields]
    return Alignment(*align_sequences(sequences, molecule), ("", *keys[1:]))


def align_sequences(sequences: Sequence[bytes], molecule: MoleculeType) -> tuple[Bytes, Counts]:
    """Restypes and deletion counts [M, L] of a3m rows; ValueError for unequal rows or unknown letters."""
    letters = np.frombuffer(b"".join(sequences), np.uint8)
    row = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    codes = _a3m_codes(molecule)[letters]
    _refuse(codes == _INVALID, letters, row, molecule)
    return _columns(codes, row, len(sequences))


def _a3m_codes(molecule: MoleculeType) -> Bytes:
    """[256] restype of each byte; insertions, padding and invalid bytes have codes of their own."""
    codes = np.full(256, _INVALID, np.uint8)
    codes[ord("a") : ord("z") + 1] = _INSERTION
    codes[ord(".")] = _SKIP
    for letter, restype in MSA_LETTERS[molecule].items():
        codes[ord(letter)] = restype
    return codes


def _refuse(bad: Bools, letters: Bytes, row: NDArray[np.int64], molecule: MoleculeType) -> None:
    if bad.any():
        where = int(np.argmax(bad))
        raise ValueError(
            f"got the letter {chr(letters[where])!r} in sequence {row[where] + 1}, expected letters "
            f"of a {molecule.name} alignment"
        )


def _columns(codes: Bytes, row: NDArray[np.int64], n_rows: int) -> tuple[Bytes, Counts]:
    """Split letter codes into aligned columns [M, L] and the insertions counted left of each."""
    aligned = codes < _INSERTION
    lengths = np.bincount(row[aligned], minlength=n_rows)
    if (lengths != lengths[0]).any():
        bad = int(np.argmax(lengths != lengths[0]))
        raise ValueError(
            f"got {lengths[bad]} aligned columns in sequence {bad + 1}, expected the query's {lengths[0]}"
        )
    inserted = np.cumsum(codes == _INSERTION, dtype=np.int32)
    first = np.searchsorted(row, np.arange(n_rows))
    before_row = inserted[first] - (codes[first] == _INSERTION)
    at_column = inserted[aligned].reshape(n_rows, lengths[0])
    deletions = np.diff(at_column, axis=1, prepend=before_row[:, None])
    return codes[aligned].reshape(n_rows, lengths[0]), _counts(deletions)


def _counts(deletions: NDArray[np.int32]) -> Counts:
    return np.minimum(deletions, _MAX_COUNT).astype(np.uint16)


def parse_stockholm(data: bytes, molecule: MoleculeType) -> Alignment:
    """As `read_alignment`, from the bytes of a Stockholm file."""
    file = split_stockholm(data)
    codes = _stockholm_codes(molecule)
    query = codes[np.frombuffer(file.sequences[0], np.uint8)]
    columns = query != GAP
    if not columns.any():
        raise ValueError("got a first sequence without residues, expected the query")
    rows = np.empty((len(file.sequences), int(columns.sum())), np.uint8)
    deletions = np.empty(rows.shape, np.uint16)
    for start in range(0, len(rows), _CHUNK):
        chunk = file.sequences[start : start + _CHUNK]
        letters = np.frombuffer(b"".join(chunk), np.uint8).reshape(len(chunk), -1)
        here = codes[letters]
        row = np.repeat(np.arange(start, start + len(chunk)), letters.shape[1])
        _refuse((here == _INVALID).ravel(), letters.ravel(), row, molecule)
        inserted = np.cumsum((here != GAP) & ~columns, axis=1, dtype=np.int32)[:, columns]
        rows[start : start + _CHUNK] = here[:, columns]
        deletions[start : start + _CHUNK] = _counts(np.diff(inserted, axis=1, prepend=0))
    headers = [name + b" " + file.descriptions.get(name, b"") for name in file.names]
    return Alignment(rows, deletions, row_species(headers))


@dataclass(frozen=True)
class StockholmFile:
    """What a Stockholm file says: rows of equal width, descriptions by name, and the reference row or b""."""

    names: list[bytes]
    sequences: list[bytes]
    descriptions: dict[bytes, bytes]
    reference: bytes


def split_stockholm(data: bytes) -> StockholmFile:
    """Join the blocks of a Stockholm 1.0 file; ValueError if it is cut short, uneven or something else."""
    lines = data.split(b"\n")
    if not lines[0].startswith(b"# STOCKHOLM 1."):
        raise ValueError(f"got {lines[0][:40]!r} as first line, expected '# STOCKHOLM 1.0'")
    end = next((number for number, line in enumerate(lines) if line.rstrip() == b"//"), None)
    if end is None or any(line.strip() for line in lines[end + 1 :]):
        raise ValueError(
            "expected one alignment that ends with a line '//': the file is cut short or holds more"
        )
    blocks: dict[tuple[bytes, int], list[bytes]] = {}
    occurrences: Counter[bytes] = Counter()  # in this block: Rfam repeats names
    descriptions: dict[bytes, bytes] = {}
    reference: list[bytes] = []
    for number, line in enumerate(lines[1:end], 2):
        fields = line.split(None, 3)
        if not fields:
            occurrences.clear()
        elif line.startswith(b"#=GS") and len(fields) == 4 and fields[2] == b"DE":
            descriptions[fields[1]] = fields[3]
        elif line.startswith(b"#=GC RF") and len(fields) == 3:
            reference.append(fields[2])
        elif not line.startswith(b"#"):
            if len(fields) != 2:
                raise ValueError(f"line {number}: got {line[:40]!r}, expected a name and a sequence")
            blocks.setdefault((fields[0], occurrences[fields[0]]), []).append(fields[1])
            occurrences[fields[0]] += 1
    names = [name for name, _ in blocks]
    sequences = [b"".join(parts) for parts in blocks.values()]
    _check_widths(names, sequences, b"".join(reference))
    return StockholmFile(names, sequences, descriptions, b"".join(reference))


def _check_widths(names: Sequence[bytes], sequences: Sequence[bytes], reference: bytes) -> None:
    if not sequences:
        raise ValueError("got no sequence, expected an alignment whose first row is the query")
    width = len(sequences[0])
    rows = [*zip(names, sequences, strict=True), *([(b"#=GC RF", reference)] if reference else [])]
    for name, sequence in rows:
        if len(sequence) != width:
            raise ValueError(
                f"row {name.decode('utf-8', 'replace')!r} has {len(sequence)} columns, the first {width}; "
                "the file is damaged"
            )


def a3m_row(sequence: bytes, column: Bools) -> bytes:
    """A row of a Stockholm file in a3m: capitals and - where `column` is True, lower-case insertions else."""
    letters = np.frombuffer(sequence, np.uint8)
    gap = np.isin(letters, np.frombuffer(_GAPS, np.uint8))
    cased = np.where(column, letters & 95, letters | 32)  # capitals have bit 32 clear
    return np.where(gap, ord("-"), cased).astype(np.uint8)[column | ~gap].tobytes()


def _stockholm_codes(molecule: MoleculeType) -> Bytes:
    """[256] restype of each byte, capital or not; all of HMMER's gap signs are gaps."""
    codes = np.full(256, _INVALID, np.uint8)
    for letter, restype in MSA_LETTERS[molecule].items():
        codes[ord(letter)] = codes[ord(letter.lower())] = restype
    codes[[*_GAPS]] = GAP
    return codes
