# SPDX-License-Identifier: Apache-2.0
"""How well the confidence head judges sampled structures: its scores against what they should be.

The targets are those of training (AF3 SI 4.3), without bins: LDDT of every atom, aligned and distance errors
of every pair, to the truth permuted onto each sample.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from foldwright.batch import Batch
from foldwright.confidence.head import ConfidenceLogits
from foldwright.confidence.scores import expected_error, iptm, plddt, ptm, ranking_score
from foldwright.confidence.targets import BINS_PER_ANGSTROM, aligned_errors, atom_lddt, distance_errors
from foldwright.data.structure import Floats
from foldwright.permutation import permute_truth


def judgement(batch: Batch, x: Tensor, judged: list[ConfidenceLogits], lddt: Floats) -> dict[str, float]:
    """The figures of `judge`, averaged over samples x [D, A, 3] Å with LDDT [D], and `lddt_chosen`: that of
    the sample which the ranking score puts first. A figure that no sample has is NaN.
    """
    each = [judge(batch, sample, logits) for sample, logits in zip(x, judged, strict=True)]
    figures = {name: _mean([of_sample[name] for of_sample in each]) for name in each[0]}
    best = int(np.argmax([of_sample["ranking"] for of_sample in each]))
    return {**figures, "lddt_chosen": float(lddt[best])}


@torch.no_grad()
def judge(batch: Batch, x: Tensor, logits: ConfidenceLogits) -> dict[str, float]:
    """Of a batch of one and a structure x [A, 3] Å of it.

    `plddt` and its mean absolute error against the atoms' LDDT (both 0 to 1), the correlation of the two over
    atoms; mean absolute errors in Å of PAE and PDE; pTM, ipTM (NaN for one chain) and the ranking score
    (without its terms for disorder and clashes).
    """
    x = torch.nan_to_num(x[None], 0.0, 0.0, 0.0)
    truth = permute_truth(batch, x)
    x_true = truth.atom_coords.to(x.dtype)
    lddt, scored = atom_lddt(x, x_true, truth)
    predicted = plddt(logits.plddt) / 100.0
    tokens, frame, chain = batch.token_mask[0], batch.has_frame[0], batch.asym_id[0]
    tm = float(ptm(logits.pae[0], tokens, frame))
    has_interface = len(chain[tokens].unique()) > 1
    interface = float(iptm(logits.pae[0], tokens, frame, chain)) if has_interface else None
    return {
        "plddt": float(predicted[scored].mean()),
        "plddt_error": float((predicted - lddt)[scored].abs().mean()),
        "plddt_correlation": _correlation(predicted[scored], lddt[scored]),
        "pae_error": _error(logits.pae, *aligned_errors(x, x_true, truth)),
        "pde_error": _error(logits.pde, *distance_errors(x, x_true, truth)),
        "ptm": tm,
        "iptm": np.nan if interface is None else interface,
        "ranking": ranking_score(tm, interface, 0.0, False),
    }


def _error(logits: Tensor, true: Tensor, known: Tensor) -> float:
    """Mean absolute error in Å of the expected error; true ones count up to the last bin's centre."""
    most = (logits.shape[-1] - 0.5) / BINS_PER_ANGSTROM
    return float((expected_error(logits) - true.clamp(max=most))[known].abs().mean())


def _correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's; NaN where either does not vary."""
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(torch.corrcoef(torch.stack([a, b.to(a.dtype)]))[0, 1])


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
