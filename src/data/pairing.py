# SPDX-License-Identifier: Apache-2.0
"""Pairing the alignment rows of an entry's proteins by species.

Sources: AF3 SI 2.3, AlphaFold-Multimer; spec 2.6 (a)-(f). A paired row holds one sequence of every protein
that has the species, each the r-th of its species in the order of the search, and gaps for the others.
Pairing is a function of an entry's alignments alone, so that preparation does it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foldwright.data.structure import Ints

MAX_PAIRED = 8191  # rows, the query not counted
MAX_PER_SPECIES = 600


class Pairing(NamedTuple):
    """P paired rows of E proteins: `rows` [P, E] indexes each protein's alignment, -1 is a row of gaps."""

    rows: Ints
    species: tuple[str, ...]  # [P]


def pair_rows(
    species: Sequence[Sequence[str]],
    copies: Sequence[int],
    max_rows: int = MAX_PAIRED,
    max_per_species: int = MAX_PER_SPECIES,
) -> Pairing:
    """Pair the rows of E distinct proteins.

    Args:
        species: for each protein, the species of each of its rows; empty is unknown. Row 0 is the query.
        copies: number of chains of each protein: a species counts once for every chain that has it, and the
            copies of a protein have the same row.
        max_rows: most rows in all.
        max_per_species: most rows of one species.

    Returns:
        Species that more chains have go first; among those of as many chains, rows go by the product of
        their indices in the chains' alignments, ties by first appearance. No row for fewer than two proteins.
    """
    if len(species) != len(copies):
        raise ValueError(f"got {len(copies)} numbers of copies for {len(species)} proteins")
    names = list(dict.fromkeys(name for protein in species for name in protein[1:] if name))
    if len(species) < 2 or not names:
        return Pairing(np.zeros((0, len(species)), np.int32), ())
    number = {name: index for index, name in enumerate(names)}
    sorted_rows, starts = zip(*(_by_species(protein, number) for protein in species), strict=True)
    counts = np.stack([np.diff(start) for start in starts])  # [E, S] hits
    weight = np.array(copies)[:, None] * (counts > 0)
    chains = weight.sum(axis=0)
    depth = np.where(counts > 0, counts, max_per_species).min(axis=0).clip(max=max_per_species)
    depth[chains < 2] = 0
    row_species = np.repeat(np.arange(len(names)), depth)
    rank = np.arange(len(row_species)) - np.repeat(np.cumsum(depth) - depth, depth)
    rows = np.full((len(row_species), len(species)), -1, np.int32)
    for protein, (order, start) in enumerate(zip(sorted_rows, starts, strict=True)):
        has = counts[protein, row_species] > 0
        rows[has, protein] = order[start[row_species[has]] + rank[has]]
    order = _order(rows, chains[row_species], copies)[:max_rows]
    return Pairing(rows[order], tuple(names[index] for index in row_species[order]))


def _by_species(protein: Sequence[str], number: dict[str, int]) -> tuple[Ints, NDArray[np.int64]]:
    """Row indices sorted by species, then as they come; and where each species starts among them [S + 1]."""
    ids = np.array([-1, *(number.get(name, -1) for name in protein[1:])])
    order = np.argsort(ids, kind="stable").astype(np.int32)
    return order, np.searchsorted(ids[order], np.arange(len(number) + 1))


def _order(rows: Ints, chains: NDArray[np.int64], copies: Sequence[int]) -> NDArray[np.int64]:
    """More chains first, then the smaller product of row indices over all chains that have the species."""
    indices = np.where(rows >= 0, rows, 1).astype(np.float64)
    product = np.prod(indices ** np.array(copies), axis=1)
    return np.lexsort((product, -chains))
