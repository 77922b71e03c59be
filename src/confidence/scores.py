# SPDX-License-Identifier: Apache-2.0
"""Scores derived from the confidence head's logits (AF3 SI 5.9): pLDDT, PAE, PDE, pTM, ipTM, ranking score.

Of one prediction each, without axis B: N tokens, A atoms. Float32 or wider; no gradient is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass
class PairScores:
    """All that the scores of a structure need of its pairs, float32 [N, N] each: expected errors in Å, and
    expected TM terms with the length scale of all tokens, and with that of the two chains that a pair is of.
    """

    pae: Tensor
    pde: Tensor
    tm: Tensor
    tm_of_chains: Tensor

    def ptm(self, has_frame: Tensor) -> Tensor:
        """pTM of all tokens; has_frame [N]."""
        return _best(self.tm, has_frame, torch.ones_like(has_frame)[None])

    def iptm(self, has_frame: Tensor, asym_id: Tensor) -> Tensor:
        """ipTM of all tokens; has_frame, asym_id [N]."""
        return _best(self.tm, has_frame, asym_id[:, None] != asym_id[None, :])

    def chain_ptm(self, has_frame: Tensor, asym_id: Tensor, a: int, b: int) -> Tensor:
        """pTM of the tokens of chain a alone, or ipTM of those of chains a and b."""
        own = ((asym_id == a) | (asym_id == b)).nonzero()[:, 0]
        terms, chain = self.tm_of_chains[own][:, own], asym_id[own]
        return _best(terms, has_frame[own], (chain[:, None] != chain[None, :]) | (a == b))


def pair_scores(logits: Callable[[slice], tuple[Tensor, Tensor]], asym_id: Tensor) -> PairScores:
    """From the pae and pde logits [n, N, 64] of any rows, a few of which are there at a time; asym_id [N]."""
    n = len(asym_id)
    found = PairScores(*(torch.empty(n, n, device=asym_id.device) for _ in range(4)))
    chains, size = asym_id.unique(return_counts=True)
    sizes = dict(zip(chains.tolist(), size.tolist(), strict=True))
    columns = {chain: (asym_id == chain).nonzero()[:, 0] for chain in sizes}
    for start in range(0, n, _ROWS):
        rows = slice(start, min(start + _ROWS, n))
        pae, pde = (part.softmax(-1) for part in logits(rows))
        centres = _error_centres(pae)
        found.pae[rows], found.pde[rows] = pae @ centres, pde @ centres
        found.tm[rows] = pae @ _tm_terms(centres, n)
        for a in asym_id[rows].unique().tolist():
            own = (asym_id[rows] == a).nonzero()[:, 0]
            for b, others in columns.items():
                terms = _tm_terms(centres, sizes[a] + sizes[b] * (a != b))
                found.tm_of_chains[start + own[:, None], others] = pae[own[:, None], others] @ terms
    return found


def has_clash(x: Tensor, atom_asym_id: Tensor, is_polymer: Tensor) -> bool:
    """Whether two polymer chains have more than 100 atom pairs, or pairs for more than half of the smaller
    chain's atoms, closer than 1.1 Å. x [A, 3], atom_asym_id [A], is_polymer [A].
    """
    chains = [x[is_polymer & (atom_asym_id == chain)] for chain in atom_asym_id[is_polymer].unique()]
    for first, second in combinations(chains, 2):
        distance = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
        pairs = int((distance < CLASH_DISTANCE).sum())
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
    return _expectation(pae_logits, _tm_terms(_error_centres(pae_logits), n))


def _tm_terms(errors: Tensor, n: int) -> Tensor:
    return 1.0 / (1.0 + (errors / d0(n)) ** 2)


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
