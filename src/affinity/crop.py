# SPDX-License-Identifier: Apache-2.0
"""The pocket: the ligand and the protein around it, within the budget that the affinity head is trained for.

Source: Boltz-2 (spec 6). Protein tokens come by their distance to the ligand, each with its neighbours in the
chain, until the next neighbourhood would break the budget. Other ligands, ions and nucleic acids stay out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class PocketConfig:
    """Most tokens, protein tokens among them, and atoms; tokens of a chain that come together."""

    tokens: int = 256
    protein_tokens: int = 200
    atoms: int = 2048
    neighbourhood: int = 10


def pocket_tokens(
    x: NDArray[np.floating],
    chain: NDArray[np.integer],
    n_atoms: NDArray[np.integer],
    is_ligand: NDArray[np.bool_],
    is_protein: NDArray[np.bool_],
    config: PocketConfig,
) -> NDArray[np.int64]:
    """Ascending indices of the tokens to keep.

    Args:
        x: [N, 3] Å, centres of the tokens in the predicted pose.
        chain: [N] chain of each token.
        n_atoms: [N] atoms of each token.
        is_ligand: [N] tokens of the ligand that is scored; all of them are kept.
        is_protein: [N] tokens that may be kept beside it.
        config: the budget.

    Raises ValueError if there is no ligand, or it alone is over the budget.
    """
    kept = is_ligand.copy()
    size, atoms = int(kept.sum()), int(n_atoms[kept].sum())
    if not 0 < size <= config.tokens or atoms > config.atoms:
        raise ValueError(
            f"got a ligand of {size} tokens and {atoms} atoms, expected 1 to {config.tokens} tokens and "
            f"at most {config.atoms} atoms; leave the complex out, or raise affinity.pocket"
        )
    candidates = np.flatnonzero(is_protein & ~is_ligand)
    offsets = x[candidates, None].astype(np.float64) - x[None, is_ligand]
    order = np.argsort(np.linalg.norm(offsets, axis=-1).min(axis=1), kind="stable")
    most = min(config.protein_tokens, config.tokens - size)
    for token in candidates[order]:
        if kept[token]:
            continue
        new = _neighbourhood(token, candidates[chain[candidates] == chain[token]], config.neighbourhood)
        new = new[~kept[new]]
        if (
            int(kept[candidates].sum()) + len(new) > most
            or n_atoms[kept].sum() + n_atoms[new].sum() > config.atoms
        ):
            break
        kept[new] = True
    return np.flatnonzero(kept)


def _neighbourhood(token: int, chain: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """`size` consecutive tokens of a chain with `token` amid them, as far as the ends allow."""
    place = int(np.searchsorted(chain, token))
    start = min(max(place - size // 2, 0), max(len(chain) - size, 0))
    return chain[start : start + size]
