# SPDX-License-Identifier: Apache-2.0
"""Croppers: choose the tokens of one training example.

Sources: AF3 SI 2.7 and AlphaFold-Multimer 7.2 (contiguous, spatial and spatial-interface crops), with the
corrected contiguous loop of spec 2.5. Readings taken: there is an atom budget beside the token budget, kept
by leaving out whole tokens; the tokens of a residue (a ligand, one sugar, an atomised modified residue) come
together or not at all, unless the residue alone is over the budget, when it is cut by tokens. Homomer
copies keep their given labels; `permutation` matches them with a prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldwright.data.neighbours import pairs_within
from foldwright.data.structure import Bools, Floats, Ints, Structure, Tokens

INTERFACE_DISTANCE = 15.0  # Å between token centres of two chains (AF3 SI 2.7)
TIE_BREAK = 1e-3  # Å a token index, so that copies at equal distance are ordered
MIN_RESOLVED = 4  # a contiguous crop with fewer resolved tokens is replaced by a spatial one


@dataclass
class CropMixture:
    """Probabilities of the three croppers; AF3 SI 2.7 for PDB sets (distillation: .25/.75/0)."""

    contiguous: float = 0.2
    spatial: float = 0.4
    spatial_interface: float = 0.4


@dataclass(frozen=True)
class Budget:
    """Most tokens and most atoms of a crop."""

    tokens: int
    atoms: int

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.atoms < 32:
            raise ValueError(
                f"got a crop of {self.tokens} tokens and {self.atoms} atoms, expected at least "
                "1 token and 32 atoms; raise the crop sizes"
            )


@dataclass(frozen=True)
class CropInput:
    """What the croppers read: per token the chain, the unit kept whole, its atoms, and its centre. N tokens.

    `centre` [N, 3] is in Å; rows where `resolved` is False are ignored. `unit` ascends with the token.
    """

    chain: Ints
    unit: Ints
    n_atoms: Ints
    centre: Floats
    resolved: Bools


def crop_input(structure: Structure, tokens: Tokens) -> CropInput:
    """The croppers' view of a tokenised structure."""
    return CropInput(
        chain=tokens.token_chain,
        unit=tokens.token_residue,
        n_atoms=np.diff(tokens.token_first_atom),
        centre=structure.atom_coords[tokens.token_centre],
        resolved=structure.atom_resolved[tokens.token_centre],
    )


def crop(
    inputs: CropInput, budget: Budget, mixture: CropMixture, preferred: Ints, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Ascending indices of the tokens to keep; all of them when the budget holds them.

    Args:
        inputs: the tokenised structure.
        budget: most tokens and atoms.
        mixture: probabilities of the croppers, renormalised.
        preferred: chains the spatial croppers centre on; empty for any chain.
        rng: source of every draw.
    """
    n_tokens = len(inputs.chain)
    if n_tokens <= budget.tokens and int(inputs.n_atoms.sum()) <= budget.atoms:
        return np.arange(n_tokens)
    weights = np.array([mixture.contiguous, mixture.spatial, mixture.spatial_interface])
    strategy = int(rng.choice(3, p=weights / weights.sum()))
    if strategy == 0:
        kept = contiguous_crop(inputs, budget, rng)
        if inputs.resolved[kept].sum() >= min(MIN_RESOLVED, int(inputs.resolved.sum())):
            return kept
    if strategy == 2:
        return spatial_interface_crop(inputs, budget, preferred, rng)
    return spatial_crop(inputs, budget, preferred, rng)


def contiguous_crop(inputs: CropInput, budget: Budget, rng: np.random.Generator) -> NDArray[np.int64]:
    """One stretch of every chain, chains in random order (spec 2.5); preferred chains play no part in it.

    A unit is in when its middle token is inside the drawn window: window ends snap to residue ends.
    """
    chains = [np.flatnonzero(inputs.chain == chain) for chain in np.unique(inputs.chain)]
    n_left = len(inputs.chain)
    tokens_left, atoms_left = budget.tokens, budget.atoms
    kept: list[NDArray[np.int64]] = []
    for number in rng.permutation(len(chains)):
        chain = chains[number]
        n_left -= len(chain)
        most = min(tokens_left, len(chain))
        least = min(len(chain), max(0, tokens_left - n_left))
        size = int(rng.integers(least, most, endpoint=True))
        start = int(rng.integers(0, len(chain) - size, endpoint=True))
        units = _units(_snap(chain, inputs.unit, start, size), inputs, budget)
        taken = _take(units, inputs, tokens_left, atoms_left, pass_over=False)
        tokens_left -= len(taken)
        atoms_left -= int(inputs.n_atoms[taken].sum())
        kept.append(taken)
    return np.sort(np.concatenate(kept))


def spatial_crop(
    inputs: CropInput, budget: Budget, preferred: Ints, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The tokens nearest to a random resolved token (of a preferred chain, where one is resolved)."""
    candidates = np.flatnonzero(inputs.resolved & _is_preferred(inputs, preferred))
    if len(candidates) == 0:
        candidates = np.flatnonzero(inputs.resolved)
    return _nearest(inputs, budget, candidates, rng)


def spatial_interface_crop(
    inputs: CropInput, budget: Budget, preferred: Ints, rng: np.random.Generator
) -> NDArray[np.int64]:
    """As `spatial_crop`, around a token of an interface (`interface_tokens`); spatial where there is none."""
    candidates = interface_tokens(inputs, preferred)
    if len(candidates) == 0:
        return spatial_crop(inputs, budget, preferred, rng)
    return _nearest(inputs, budget, candidates, rng)


def interface_tokens(inputs: CropInput, preferred: Ints) -> NDArray[np.int64]:
    """Resolved tokens whose centre is within 15 Å of another chain's token centre. Of two preferred chains:
    those near the other of them, so that the crop shows the interface that was drawn; of one: near any.
    """
    candidates = np.flatnonzero(inputs.resolved & _is_preferred(inputs, preferred))
    others = candidates if len(preferred) > 1 else np.flatnonzero(inputs.resolved)
    first, second, _ = pairs_within(inputs.centre[candidates], inputs.centre[others], INTERFACE_DISTANCE)
    other_chain = inputs.chain[candidates[first]] != inputs.chain[others[second]]
    return candidates[np.unique(first[other_chain])]


def _is_preferred(inputs: CropInput, preferred: Ints) -> Bools:
    return np.isin(inputs.chain, preferred) if len(preferred) else np.ones(len(inputs.chain), np.bool_)


def _nearest(
    inputs: CropInput, budget: Budget, candidates: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    if len(candidates) == 0:
        raise ValueError(
            "got a structure without any resolved token centre, expected at least one to crop around; "
            "drop the entry"
        )
    reference = candidates[rng.integers(len(candidates))]
    distance = np.linalg.norm(inputs.centre - inputs.centre[reference], axis=1).astype(np.float64)
    distance[~inputs.resolved] = np.inf
    order = np.argsort(distance + TIE_BREAK * np.arange(len(distance)), kind="stable")
    within_reach = np.isin(inputs.unit, inputs.unit[order[: 2 * budget.tokens]])
    units = _units(order[within_reach[order]], inputs, budget)
    return np.sort(_take(units, inputs, budget.tokens, budget.atoms, pass_over=True))


def _snap(chain: NDArray[np.int64], unit: Ints, start: int, size: int) -> NDArray[np.int64]:
    """Tokens of all units of a chain whose middle token lies in the window [start, start + size)."""
    _, first, inverse, counts = np.unique(
        unit[chain], return_index=True, return_inverse=True, return_counts=True
    )
    middle = first + (counts - 1) // 2
    inside = (middle >= start) & (middle < start + size)
    return chain[inside[inverse]]


def _units(order: NDArray[np.int64], inputs: CropInput, budget: Budget) -> list[NDArray[np.int64]]:
    """Tokens of each unit, in the order of their first-listed token; units over the budget are split."""
    if len(order) == 0:
        return []
    _, first, inverse = np.unique(inputs.unit[order], return_index=True, return_inverse=True)
    tokens = np.bincount(inverse)
    atoms = np.bincount(inverse, weights=inputs.n_atoms[order])
    too_large = (tokens > budget.tokens) | (atoms > budget.atoms)
    rank = np.where(too_large[inverse], np.arange(len(order)), first[inverse])
    by_rank = np.argsort(rank, kind="stable")
    return np.split(order[by_rank], np.flatnonzero(np.diff(rank[by_rank])) + 1)


def _take(
    units: list[NDArray[np.int64]], inputs: CropInput, tokens_left: int, atoms_left: int, pass_over: bool
) -> NDArray[np.int64]:
    """Tokens of the units taken in order while the budget lasts.

    The first one-token unit that does not fit ends the crop. A larger one (a ligand) ends it too, unless it
    may be passed over so that the rest of its neighbourhood still gets in.
    """
    taken: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for unit in units:
        atoms = int(inputs.n_atoms[unit].sum())
        if len(unit) <= tokens_left and atoms <= atoms_left:
            taken.append(unit)
            tokens_left, atoms_left = tokens_left - len(unit), atoms_left - atoms
        elif len(unit) == 1 or not pass_over:
            break
    return np.concatenate(taken)
