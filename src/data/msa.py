# SPDX-License-Identifier: Apache-2.0
"""Multiple sequence alignments: reading a3m files and drawing the rows of a crop.

Sources: AF3 SI 2.2 (de-duplication, random depth in training), 2.3 (dense concatenation of chains, gap
columns for ligands), Algorithm 8 line 2 (a fresh random subset of rows in every recycling cycle). The query
row is always kept (spec 2.6).
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldwright.data.structure import Bools, Bytes, Floats, Ints
from foldwright.vocabulary import GAP, MSA_LETTERS, N_RESTYPES, RESTYPES, UNKNOWN_RESTYPE, MoleculeType

MAX_DELETION = 255
MIN_CHAIN_LENGTH = 5  # shorter chains use their query alone (AF3 SI 2.3)
_INSERTION, _SKIP, _INVALID = 253, 254, 255


@dataclass(frozen=True)
class Msa:
    """The alignment of one chain. M unique rows (row 0 the query), L residues.

    `deletions` counts the residues deleted left of a column, clipped at 255; `profile` [L, 32] (restype
    frequencies, gaps included) and `deletion_mean` [L] are those of all rows, before any subsampling.
    """

    rows: Bytes
    deletions: Bytes
    profile: Floats
    deletion_mean: Floats


def read_a3m(path: Path, molecule: MoleculeType) -> tuple[Bytes, Ints]:
    """Aligned restypes [M, L] and raw deletion counts [M, L] of an .a3m or .a3m.gz file.

    Raises:
        ValueError: the file is empty, damaged, has rows of unequal length or unknown letters.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return parse_a3m(data, molecule)
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: {error}") from error


def parse_a3m(data: bytes, molecule: MoleculeType) -> tuple[Bytes, Ints]:
    """As `read_a3m`, from bytes. Lower-case letters are insertions, dots are padding between them."""
    lines = [line for line in data.splitlines() if not line.startswith(b"#")]
    records = b"\n".join(lines).split(b">")[1:]
    sequences = [b"".join(record.split(b"\n")[1:]).translate(None, b" \t\r\x00") for record in records]
    if not sequences or not sequences[0]:
        raise ValueError("got no sequence, expected an a3m alignment whose first record is the query")
    letters = np.frombuffer(b"".join(sequences), np.uint8)
    row = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    codes = _letter_codes(molecule)[letters]
    if (codes == _INVALID).any():
        where = int(np.argmax(codes == _INVALID))
        raise ValueError(
            f"got the letter {chr(letters[where])!r} in sequence {row[where] + 1}, expected letters "
            f"of a {molecule.name} alignment"
        )
    return _columns(codes, row, len(sequences))


def _letter_codes(molecule: MoleculeType) -> Bytes:
    """[256] restype of each byte; insertions, padding and invalid bytes have codes of their own."""
    codes = np.full(256, _INVALID, np.uint8)
    codes[ord("a") : ord("z") + 1] = _INSERTION
    codes[ord(".")] = _SKIP
    for letter, restype in MSA_LETTERS[molecule].items():
        codes[ord(letter)] = restype
    return codes


def _columns(codes: Bytes, row: NDArray[np.int64], n_rows: int) -> tuple[Bytes, Ints]:
    """Split letter codes into aligned columns [M, L] and the insertions counted left of each."""
    aligned = codes < _INSERTION
    lengths = np.bincount(row[aligned], minlength=n_rows)
    if (lengths != lengths[0]).any():
        bad = int(np.argmax(lengths != lengths[0]))
        raise ValueError(
            f"got {lengths[bad]} aligned columns in sequence {bad + 1}, expected the query's {lengths[0]}"
        )
    inserted = np.cumsum(codes == _INSERTION)
    first = np.searchsorted(row, np.arange(n_rows))
    before_row = inserted[first] - (codes[first] == _INSERTION)
    at_column = inserted[aligned].reshape(n_rows, lengths[0])
    deletions = np.diff(at_column, axis=1, prepend=before_row[:, None])
    return codes[aligned].reshape(n_rows, lengths[0]), deletions.astype(np.int32)


def check_query(query: Bytes, restypes: Bytes, modified: Bools, molecule: MoleculeType) -> None:
    """Raise ValueError unless an alignment's first row is the chain's sequence.

    Args:
        query: [L'] restypes of the alignment's first row.
        restypes: [L] restypes of the chain.
        modified: [L] True at modified residues, where the parent's letter and the unknown letter both pass.
        molecule: type of the chain.
    """
    if len(query) != len(restypes):
        raise ValueError(
            f"the alignment's first row has {len(query)} residues, the chain has {len(restypes)}; "
            f"first difference at residue {_first_difference(query, restypes)}"
        )
    unequal = (query != restypes) & ~(modified & (query == UNKNOWN_RESTYPE[molecule]))
    if unequal.any():
        where = int(np.argmax(unequal))
        raise ValueError(
            f"the alignment's first row is not the chain's sequence: residue {where + 1} is "
            f"{RESTYPES[query[where]]} in the alignment, {RESTYPES[restypes[where]]} in the "
            f"chain ({int(unequal.sum())} residues differ)"
        )


def _first_difference(query: Bytes, restypes: Bytes) -> str:
    shared = min(len(query), len(restypes))
    unequal = query[:shared] != restypes[:shared]
    if not unequal.any():
        return f"{shared + 1} (one is a prefix of the other)"
    where = int(np.argmax(unequal))
    return (
        f"{where + 1} ({RESTYPES[query[where]]} in the alignment, {RESTYPES[restypes[where]]} in the chain)"
    )


def make_msa(rows: Bytes, deletions: Ints, restypes: Bytes, max_rows: int) -> Msa:
    """De-duplicate rows (first one wins), take profile and mean deletions, then keep the first `max_rows`.

    Row 0 becomes `restypes`, the chain's own sequence, so that a modified residue shows its parent.
    """
    rows = np.concatenate([restypes[None], rows[1:]])
    keys = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1])))[:, 0]
    _, first = np.unique(keys, return_index=True)
    kept = np.sort(first)
    rows, deletions = rows[kept], deletions[kept]
    clipped = np.minimum(deletions[:max_rows], MAX_DELETION).astype(np.uint8)
    mean = deletions.mean(axis=0, dtype=np.float64).astype(np.float32)
    return Msa(rows[:max_rows], clipped, profile(rows), mean)


def profile(rows: Bytes) -> Floats:
    """float32 [L, 32]: frequency of each restype (gap included) in every column of rows [M, L]."""
    counts = np.stack([(rows == restype).sum(axis=0) for restype in range(N_RESTYPES)], axis=1)
    return (counts / len(rows)).astype(np.float32)


def query_msa(restypes: Bytes) -> Msa:
    """The alignment of a chain that has none: its own sequence [L] as the only row."""
    rows = restypes[None]
    return Msa(rows, np.zeros_like(rows), profile(rows), np.zeros(len(restypes), np.float32))


def assemble(
    msas: Sequence[Msa],
    token_msa: Ints,
    token_column: Ints,
    n_rows: int,
    n_cycles: int,
    rng: np.random.Generator,
    random_depth: bool,
) -> tuple[Bytes, Bytes]:
    """Draw the alignment rows of a crop, one set a recycling cycle.

    Args:
        msas: one alignment a distinct chain sequence.
        token_msa: [N] index into `msas` of each token; -1 gives gap columns (ligands).
        token_column: [N] column of each token in its alignment.
        n_rows: most rows a cycle, the query included.
        n_cycles: recycling cycles R.
        rng: source of every draw.
        random_depth: first keep k ~ U{1..M} rows of every alignment (training, AF3 SI 2.2).

    Returns:
        Restypes and deletion counts, uint8 [R, M, N] each. Row 0 is the query. Rows are drawn without
        replacement; rows with gaps in all columns of the crop are left out.
    """
    kept = [_kept_rows(len(msa.rows), rng, random_depth) for msa in msas]
    runs = _runs(token_msa, token_column)
    depth = max((len(kept[index]) for index, _, _ in runs), default=1)
    drawn = [_draw_rows(msas, kept, runs, len(token_msa), depth, n_rows, rng) for _ in range(n_cycles)]
    return np.stack([rows for rows, _ in drawn]), np.stack([deletions for _, deletions in drawn])


def _kept_rows(depth: int, rng: np.random.Generator, random_depth: bool) -> NDArray[np.int64]:
    """Rows that take part in this example, ascending, the query first."""
    if not random_depth or depth == 1:
        return np.arange(depth)
    others = rng.permutation(depth - 1)[: rng.integers(depth)] + 1
    return np.concatenate([[0], np.sort(others)])


_Run = tuple[int, slice, Ints]  # alignment, tokens, their columns


def _runs(token_msa: Ints, token_column: Ints) -> list[_Run]:
    """Stretches of consecutive tokens that read the same alignment; ligand tokens belong to none."""
    starts = np.flatnonzero(np.diff(token_msa, prepend=-2))
    ends = np.append(starts[1:], len(token_msa))
    return [
        (int(token_msa[start]), slice(int(start), int(end)), token_column[start:end])
        for start, end in zip(starts, ends, strict=True)
        if token_msa[start] >= 0
    ]


def _draw_rows(
    msas: Sequence[Msa],
    kept: Sequence[NDArray[np.int64]],
    runs: Sequence[_Run],
    n_tokens: int,
    depth: int,
    n_rows: int,
    rng: np.random.Generator,
) -> tuple[Bytes, Bytes]:
    """One cycle's rows: the query and random others, refilled while some are gaps throughout the crop."""
    order = rng.permutation(depth - 1) + 1
    wanted = np.zeros(1, np.int64)
    taken = 0
    while taken < len(order) and len(wanted) < n_rows:
        more = order[taken : taken + n_rows - len(wanted)]
        taken += len(more)
        picked = np.sort(more)
        letters = _gather([msa.rows for msa in msas], kept, runs, picked, n_tokens, GAP)
        wanted = np.concatenate([wanted, picked[(letters != GAP).any(axis=1)]])
    wanted.sort()
    rows = _gather([msa.rows for msa in msas], kept, runs, wanted, n_tokens, GAP)
    return rows, _gather([msa.deletions for msa in msas], kept, runs, wanted, n_tokens, 0)


def _gather(
    sources: Sequence[Bytes],
    kept: Sequence[NDArray[np.int64]],
    runs: Sequence[_Run],
    rows: NDArray[np.int64],
    n_tokens: int,
    fill: int,
) -> Bytes:
    """[len(rows), N] of the chains side by side; `rows` ascend, so those a chain still has are a prefix."""
    out = np.full((len(rows), n_tokens), fill, np.uint8)
    for index, tokens, columns in runs:
        present = int(np.searchsorted(rows, len(kept[index])))
        out[:present, tokens] = sources[index].take(kept[index][rows[:present]], axis=0).take(columns, axis=1)
    return out
