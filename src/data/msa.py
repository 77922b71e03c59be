# SPDX-License-Identifier: Apache-2.0
"""Multiple sequence alignments of the chains of an entry, and drawing the rows of a crop.

Sources: AF3 SI 2.2 (de-duplication, random depth in training), 2.3 (paired rows, then the dense concatenation
of the chains' other rows, gap columns for ligands), Algorithm 8 line 2 (a fresh random subset of rows in
every recycling cycle). The query row is always kept (spec 2.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldwright.data.alignment_formats import Alignment, Counts
from foldwright.data.structure import Bools, Bytes, Floats, Ints
from foldwright.vocabulary import GAP, N_RESTYPES, RESTYPES, UNKNOWN_RESTYPE, MoleculeType

MAX_DELETION = 255
MIN_CHAIN_LENGTH = 5  # shorter chains use their query alone (AF3 SI 2.3)


@dataclass(frozen=True)
class Msa:
    """The alignment of one chain. L columns of it, M rows of its own (row 0 the query), P paired rows.

    `rows` are unique and none but the query is among `paired_rows`, whose row r belongs beside row r of the
    entry's other chains (P is theirs too, or 0 for a chain that is not paired). Deletions count the residues
    deleted left of a column, clipped at 255. `profile` [L, 32] (restype frequencies, gaps included) and
    `deletion_mean` [L] are those of all unpaired rows, before any subsampling. `columns` [L] are the chain's
    residues that this object holds, counted from 0, ascending: all, or those read for a crop.
    """

    rows: Bytes
    deletions: Bytes
    paired_rows: Bytes
    paired_deletions: Bytes
    profile: Floats
    deletion_mean: Floats
    columns: Ints

    def find_columns(self, wanted: Ints) -> Ints:
        """Where residues of the chain are among `columns`; ValueError for one that was not read."""
        found = np.searchsorted(self.columns, wanted)
        if len(wanted) and not np.array_equal(self.columns.take(found, mode="clip"), wanted):
            raise ValueError(f"got residues {wanted.min()}..{wanted.max()}, of which some are not among the "
                             f"{len(self.columns)} columns that were read")  # fmt: skip
        return found.astype(np.int32)


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


def paired_block(alignment: Alignment, rows: Ints) -> tuple[Bytes, Bytes]:
    """Restypes and clipped deletions [P, L] of the rows that pairing chose; -1 gives a row of gaps."""
    gap = rows[:, None] < 0
    letters = np.where(gap, np.uint8(GAP), alignment.rows[rows])
    return letters, np.where(gap, np.uint8(0), _clipped(alignment.deletions[rows]))


def make_msa(
    alignment: Alignment, restypes: Bytes, max_rows: int, paired: tuple[Bytes, Bytes] | None = None
) -> Msa:
    """The alignment of a chain: unique rows (first one wins), their profile and mean deletions, cut to depth.

    Row 0 becomes `restypes`, the chain's own sequence, so that a modified residue shows its parent. Rows that
    are among the `paired` ones (restypes and deletions [P, L]) then go, and the first `max_rows` - P stay.
    """
    none = np.zeros((0, len(restypes)), np.uint8)
    paired_rows, paired_deletions = paired or (none, none)
    rows = np.concatenate([restypes[None], alignment.rows[1:]])
    kept = np.sort(np.unique(_keys(rows), return_index=True)[1])
    rows, deletions = rows[kept], alignment.deletions[kept]
    mean = deletions.mean(axis=0, dtype=np.float64).astype(np.float32)
    new = ~np.isin(_keys(rows), _keys(paired_rows))
    new[0] = True
    own = np.flatnonzero(new)[: max(max_rows - len(paired_rows), 1)]
    columns = np.arange(len(restypes), dtype=np.int32)
    return Msa(
        rows[own], _clipped(deletions[own]), paired_rows, paired_deletions, profile(rows), mean, columns
    )


def _keys(rows: Bytes) -> NDArray[np.void]:
    """[M] one comparable value a row."""
    rows = np.ascontiguousarray(rows)
    return rows.view(np.dtype((np.void, rows.shape[1])))[:, 0]


def _clipped(deletions: Counts) -> Bytes:
    return np.minimum(deletions, MAX_DELETION).astype(np.uint8)


def profile(rows: Bytes) -> Floats:
    """float32 [L, 32]: frequency of each restype (gap included) in every column of rows [M, L]."""
    counts = np.stack([(rows == restype).sum(axis=0) for restype in range(N_RESTYPES)], axis=1)
    return (counts / len(rows)).astype(np.float32)


def query_msa(restypes: Bytes) -> Msa:
    """The alignment of a chain that has none: its own sequence [L] as the only row."""
    rows = restypes[None]
    return make_msa(Alignment(rows, np.zeros(rows.shape, np.uint16), ("",)), restypes, 1)


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
        token_column: [N] column of each token among those that its alignment holds.
        n_rows: most rows a cycle, the query included.
        n_cycles: recycling cycles R.
        rng: source of every draw.
        random_depth: first keep k ~ U{1..M} unpaired rows of every alignment (training, AF3 SI 2.2).

    Returns:
        Restypes and deletion counts, uint8 [R, M, N] each. Row 0 is the query, then come paired rows, then
        the chains' own rows side by side, shorter ones padded with gaps. Rows are drawn without replacement
        from all of them; rows with gaps in all columns of the crop are left out.
    """
    kept = [_kept_rows(len(msa.rows), rng, random_depth) for msa in msas]
    stack = _Stack(msas, kept, _runs(token_msa, token_column), len(token_msa))
    drawn = [_draw_rows(stack, n_rows, rng) for _ in range(n_cycles)]
    return np.stack([rows for rows, _ in drawn]), np.stack([deletions for _, deletions in drawn])


def _kept_rows(depth: int, rng: np.random.Generator, random_depth: bool) -> NDArray[np.int64]:
    """Unpaired rows that take part in this example, ascending, the query first."""
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


class _Stack:
    """All rows a crop could have, numbered: 0 the query, 1..P the paired, then the unpaired ones."""

    def __init__(
        self, msas: Sequence[Msa], kept: Sequence[NDArray[np.int64]], runs: Sequence[_Run], n_tokens: int
    ) -> None:
        self._msas, self._kept, self._runs, self._n_tokens = msas, kept, runs, n_tokens
        used = {index for index, _, _ in runs}
        self._n_paired = max((len(msas[index].paired_rows) for index in used), default=0)
        self.depth = self._n_paired + max((len(kept[index]) for index in used), default=1)

    def restypes(self, rows: NDArray[np.int64]) -> Bytes:
        """[len(rows), N] restypes of ascending row numbers."""
        return self._gather([(msa.rows, msa.paired_rows) for msa in self._msas], rows, GAP)

    def deletions(self, rows: NDArray[np.int64]) -> Bytes:
        """[len(rows), N] deletion counts of ascending row numbers."""
        return self._gather([(msa.deletions, msa.paired_deletions) for msa in self._msas], rows, 0)

    def _gather(self, sources: Sequence[tuple[Bytes, Bytes]], rows: NDArray[np.int64], fill: int) -> Bytes:
        """The chains side by side. Rows ascend, so that those a chain has of either kind are a stretch."""
        out = np.full((len(rows), self._n_tokens), fill, np.uint8)
        shift = self._n_paired
        for index, tokens, columns in self._runs:
            own, paired = sources[index]
            kept = self._kept[index]
            first, last_paired, unpaired, end = np.searchsorted(
                rows, [1, 1 + len(paired), 1 + shift, shift + len(kept)]
            )
            out[:first, tokens] = own[0].take(columns)
            out[first:last_paired, tokens] = paired.take(rows[first:last_paired] - 1, axis=0).take(
                columns, axis=1
            )
            mine = kept[rows[unpaired:end] - shift]
            out[unpaired:end, tokens] = own.take(mine, axis=0).take(columns, axis=1)
        return out


def _draw_rows(stack: _Stack, n_rows: int, rng: np.random.Generator) -> tuple[Bytes, Bytes]:
    """One cycle's rows: the query and random others, refilled while some are gaps throughout the crop."""
    order = rng.permutation(stack.depth - 1) + 1
    wanted = np.zeros(1, np.int64)
    taken = 0
    while taken < len(order) and len(wanted) < n_rows:
        more = order[taken : taken + n_rows - len(wanted)]
        taken += len(more)
        picked = np.sort(more)
        letters = stack.restypes(picked)
        wanted = np.concatenate([wanted, picked[(letters != GAP).any(axis=1)]])
    wanted.sort()
    return stack.restypes(wanted), stack.deletions(wanted)
