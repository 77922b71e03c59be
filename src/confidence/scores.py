# SPDX-License-Identifier: Apache-2.0
"""Scores derived from the confidence head's logits (AF3 SI 5.9): pLDDT, PAE, PDE, pTM, ipTM, ranking score.

Of one prediction each, without axis B: N tokens, A atoms. Float32 or wider; no gradient is meant.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from foldwright.confidence.targets import BINS_PER_ANGSTROM

_ROWS = 256
CLASH_DISTANCE = 1.1  # Å
CLASH_PAIRS, CLASH_FRACTION = 100, 0.5  # more contacts than either, of the smaller chain's atoms, is a clash


def plddt(logits: Tensor) -> Tensor:
    """Expected LDDT in per cent: logits [..., bins] -> [...] in (0, 100)."""
    n_bins = logits.shape[-1]
    centres = (torch.arange(n_bins, device=logits.device, dtype=logits.dtype) + 0.5) * (100.0 / n_bins)
    return logits.softmax(-1) @ centres


def expected_error(logits: Tensor) -> Tensor:
    """PAE or PDE in Å: logits [..., 64] -> [...]."""
    return _expectation(logits, _error_centres(logits))


def global_pde(pde: Tensor, contact_probability: Tensor) -> Tensor:
    """gPDE (eq. 16) in Å: mean of pde [N, N] weighted by the probability of contact [N, N]."""
    return (contact_probability * pde).sum() / contact_probability.sum().clamp(min=1e-8)


def d0(n: int) -> float:
    """TM-score's length scale in Å of n residues, with the floor of 19 residues."""
    return float(1.24 * (max(n, 19) - 15) ** (1 / 3) - 1.8)


def ptm(pae_logits: Tensor, tokens: Tensor, has_frame: Tensor) -> Tensor:
    """pTM (eq. 17) of the tokens [N] (bool): pae_logits [N, N, 64], has_frame [N]. Zero without a frame."""
    scores = _tm(pae_logits, int(tokens.sum()))
    return _best(scores, has_frame & tokens, tokens[None, :])


def iptm(pae_logits: Tensor, tokens: Tensor, has_frame: Tensor, asym_id: Tensor) -> Tensor:
    """ipTM (eq. 18): only pairs of different chains count; zero for a single chain."""
    scores = _tm(pae_logits, int(tokens.sum()))
    other = tokens[None, :] & (asym_id[:, None] != asym_id[None, :])
    return _best(scores, has_frame & tokens, other)


def chain_pair_iptm(pae_logits: Tensor, has_frame: Tensor, asym_id: Tensor, a: int, b: int) -> Tensor:
    """ipTM of the tokens of chains a and b alone."""
    own = ((asym_id == a) | (asym_id == b)).nonzero()[:, 0]
    every = torch.ones(len(own), dtype=torch.bool, device=own.device)
    return iptm(pae_logits[own][:, own], every, has_frame[own], asym_id[own])


def has_clash(x: Tensor, atom_asym_id: Tensor, is_polymer: Tensor) -> bool:
    """Whether two polymer chains have more than 100 atom pairs, or pairs for more than half of the smaller
    chain's atoms, closer than 1.1 Å. x [A, 3], atom_asym_id [A], is_polymer [A].
    """
    chains = [x[is_polymer & (atom_asym_id == chain)] for chain in atom_asym_id[is_polymer].unique()]
    for first, second in combinations(chains, 2):
        pairs = int((torch.cdist(first, second) < CLASH_DISTANCE).sum())
        if pairs > CLASH_PAIRS or pairs > CLASH_FRACTION * min(len(first), len(second)):
            return True
    return False


def ranking_score(ptm: float, iptm: float | None, disorder: float, clash: bool) -> float:
    """Eq. 19: 0.8 ipTM + 0.2 pTM + 0.5 disorder - 100 clash; `iptm` is None for a single chain.

    disorder: fraction of protein residues with a relative accessible surface above 0.581.
    """
    interface = ptm if iptm is None else iptm
    return 0.8 * interface + 0.2 * ptm + 0.5 * disorder - 100.0 * clash


def _error_centres(logits: Tensor) -> Tensor:
    number = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return (number + 0.5) / BINS_PER_ANGSTROM


def _tm(pae_logits: Tensor, n: int) -> Tensor:
    """Expected TM term of each pair, [N, N]."""
    return _expectation(pae_logits, 1.0 / (1.0 + (_error_centres(pae_logits) / d0(n)) ** 2))


def _expectation(logits: Tensor, values: Tensor) -> Tensor:
    """Expected value of the bins' values, some rows at a time: probabilities of all pairs are never there."""
    if logits.dim() < 3:
        return logits.softmax(-1) @ values
    return torch.cat([rows.softmax(-1) @ values for rows in logits.split(_ROWS)])


def _best(scores: Tensor, frames: Tensor, pairs: Tensor) -> Tensor:
    """Largest mean over its pairs of any frame's row; zero where no frame has a pair."""
    weight = pairs.expand_as(scores).to(scores.dtype)
    mean = (scores * weight).sum(-1) / weight.sum(-1).clamp(min=1.0)
    return torch.where(frames & (weight.sum(-1) > 0), mean, 0.0).max()
