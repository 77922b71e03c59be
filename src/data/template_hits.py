# SPDX-License-Identifier: Apache-2.0
"""Reading template hits: hhr files of HH-suite, and a3m and Stockholm files of hmmsearch. Preparation only.

Hits are named by a PDB entry and its author chain, `1abc_A`, with the range of the chain's sequence after it
in hmmsearch's files (`1abc_A/33-316`); rows of other names (a query, UniRef clusters) are passed over. Every
count that a format repeats is compared, so that a file cut short or damaged is refused.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from Bio import BiopythonWarning, SearchIO
from Bio.SearchIO import HSP

from foldwright.data.alignment_formats import fasta_records, read_bytes, split_stockholm
from foldwright.data.structure import Bools, Ints

_NAME = re.compile(r"([0-9][A-Za-z0-9]{3}|pdb_[0-9a-z]{8})_([A-Za-z0-9]+)(?:/(\d+)-(\d+))?(?:\s|$)")
_GAPS = b"-._~"


@dataclass(frozen=True)
class Hit:
    """K residues of a query aligned with a template chain.

    `sequence` is the stretch of the template's sequence that the hit spans, insertions included; `start` is
    where it begins in that sequence, from 0. Residue `positions[i]` of it is aligned with query residue
    `query[i]`; both ascend.
    """

    entry: str  # lower case
    chain: str  # author chain (auth_asym_id)
    start: int
    sequence: str
    query: Ints  # [K]
    positions: Ints  # [K]


def read_hits(path: Path, query: str) -> list[Hit]:
    """The hits of a file ending in .hhr, .a3m or .sto (.gz), best first: by E-value, or as hmmsearch wrote.

    Args:
        path: the file.
        query: one-letter sequence of the chain, X for what has no letter.

    Raises:
        ValueError: unknown ending, a damaged file, or one for another query.
    """
    parsers = {".hhr": parse_hhr, ".a3m": parse_a3m_hits, ".sto": parse_stockholm_hits}
    ending = Path(path.name.removesuffix(".gz")).suffix
    if ending not in parsers:
        raise ValueError(
            f"{path}: got template hits ending in {ending!r}, expected one of {(*parsers,)} (.gz)"
        )
    try:
        return parsers[ending](read_bytes(path), query)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_hhr(data: bytes, query: str) -> list[Hit]:
    """Hits of an hhr file, sorted by E-value."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BiopythonWarning)
            result = SearchIO.read(io.StringIO(text), "hhsuite3-text")
            pairs = sorted((pair for hit in result for pair in hit.hsps), key=lambda pair: pair.output_index)
            length = result.seq_len
    except (RuntimeError, AttributeError, IndexError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"is no readable hhr file ({type(error).__name__}: {error})") from error
    if length != len(query):
        raise ValueError(f"got hits for a query of {length} residues, the chain has {len(query)}")
    aligned = [int(count) for count in re.findall(r"Aligned_cols=(\d+)", text)]
    listed = len(re.findall(r"^ *\d+ ", text.partition("\n No Hit ")[2].partition("\n\n")[0], re.MULTILINE))
    if not len(pairs) == len(aligned) == listed:
        raise ValueError(
            f"got {len(pairs)} alignments for the {listed} hits listed: the file is cut short, or was made "
            "with unequal limits; run hhsearch with equal -B and -Z"
        )
    hits = []
    for pair, count in sorted(zip(pairs, aligned, strict=True), key=lambda item: _e_value(item[0])):
        if match := _NAME.match(pair.hit_id):
            hits.append(_hhr_hit(pair, match, count, query))
    return hits


def _e_value(pair: HSP) -> float:
    value = getattr(pair, "evalue", None)
    if value is None or not value >= 0:
        raise ValueError(f"hit {pair.hit_id}: got the E-value {value}, expected a number")
    return float(value)


def _hhr_hit(pair: HSP, name: re.Match[str], n_aligned: int, query: str) -> Hit:
    top, bottom = (np.frombuffer(bytes(part.seq), np.uint8) for part in (pair.query, pair.hit))
    if len(top) != len(bottom):
        raise ValueError(f"hit {pair.hit_id}: rows of {len(top)} and {len(bottom)} columns, expected as many")
    in_query, in_hit = top != ord("-"), bottom != ord("-")
    spans = (pair.query_end - pair.query_start, pair.hit_end - pair.hit_start)
    if (int(in_query.sum()), int(in_hit.sum())) != spans or int((in_query & in_hit).sum()) != n_aligned:
        raise ValueError(f"hit {pair.hit_id}: its rows do not hold the residues that it counts")
    expected = query[pair.query_start : pair.query_end]
    found = bytes(top[in_query]).decode("ascii", "replace").upper()
    if len(found) != len(expected) or not all(map(_agree, found, expected)):
        raise ValueError(f"hit {pair.hit_id}: its query row is not the chain's sequence")
    both = in_query & in_hit
    columns = pair.query_start + np.cumsum(in_query) - 1
    return _hit(name, pair.hit_start, bytes(bottom[in_hit]), columns[both], (np.cumsum(in_hit) - 1)[both])


def _agree(one: str, other: str) -> bool:
    return one == other or "X" in (one, other)


def parse_a3m_hits(data: bytes, query: str) -> list[Hit]:
    """Hits of an a3m file without query row (rows that are no hit are passed over)."""
    headers, sequences = fasta_records(data)
    hits = []
    for header, sequence in zip(headers, sequences, strict=True):
        letters = np.frombuffer(sequence.replace(b".", b""), np.uint8)
        column = ~((letters >= ord("a")) & (letters <= ord("z")))
        hit = _row_hit(header, letters, column, letters != ord("-"), query)
        hits += [hit] if hit else []
    if not headers:
        raise ValueError("got no record, expected hits in a3m format")
    return hits


def parse_stockholm_hits(data: bytes, query: str) -> list[Hit]:
    """Hits of a Stockholm file whose `#=GC RF` row, or else first row, marks the columns of the query."""
    file = split_stockholm(data)
    marks = np.frombuffer(file.reference or file.sequences[0], np.uint8)
    column = ~np.isin(marks, np.frombuffer(_GAPS, np.uint8))
    hits = []
    for name, sequence in zip(file.names, file.sequences, strict=True):
        letters = np.frombuffer(sequence, np.uint8)
        hit = _row_hit(name, letters, column, ~np.isin(letters, np.frombuffer(_GAPS, np.uint8)), query)
        hits += [hit] if hit else []
    return hits


def _row_hit(header: bytes, letters: np.ndarray, column: Bools, residue: Bools, query: str) -> Hit | None:
    """The hit of one row: `column` marks the query's columns, `residue` where the row has a residue."""
    name = _NAME.match(header.decode("utf-8", "replace"))
    if int(column.sum()) != len(query):
        raise ValueError(
            f"row {header[:40]!r} has {int(column.sum())} columns, the chain has {len(query)} residues; "
            "expected hits aligned with the chain"
        )
    if name is None:
        return None
    start = int(name[3] or 1)
    n_residues = int(residue.sum())
    if name[3] and int(name[4]) - start + 1 != n_residues:
        raise ValueError(f"row {header[:40]!r} has {n_residues} residues, its range says otherwise")
    both = column & residue
    return _hit(name, start - 1, bytes(letters[residue]), (np.cumsum(column) - 1)[both],
                (np.cumsum(residue) - 1)[both])  # fmt: skip


def _hit(name: re.Match[str], start: int, sequence: bytes, query: np.ndarray, positions: np.ndarray) -> Hit:
    text = sequence.decode("ascii", "replace").upper()
    if not (text.isalpha() and text.isascii()):
        raise ValueError(f"hit {name[0].strip()}: got {text[:20]!r}, expected residues in one-letter code")
    return Hit(name[1].lower(), name[2], start, text, query.astype(np.int32), positions.astype(np.int32))
