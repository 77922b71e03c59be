# SPDX-License-Identifier: Apache-2.0
"""The confidence losses (AF3 SI 4.3, equations 8 to 14): mean cross-entropies, one value per example.

An example that confidence is not learnt from (SI 4.3: distillation, or a resolution outside 0.1 to 4 Å) gives
zero, attached to the graph. SI divides by the numbers of atoms and of pairs; what is masked does not count.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from foldwright.batch import Batch
from foldwright.confidence.head import ConfidenceLogits
from foldwright.confidence.targets import ConfidenceTargets, counts_for_confidence


def masked_cross_entropy(logits: Tensor, bins: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries that count, [B]: logits [B, ..., bins], bins int64 and mask bool [B, ...]."""
    error = F.cross_entropy(logits.movedim(-1, 1), bins, reduction="none")
    return torch.where(mask, error, 0.0).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)


def confidence_losses(
    logits: ConfidenceLogits, targets: ConfidenceTargets, batch: Batch
) -> dict[str, Tensor]:
    """`plddt`, `pae`, `pde`, `resolved`, each [B]."""
    counted = counts_for_confidence(batch)
    return {
        "plddt": masked_cross_entropy(logits.plddt, targets.plddt, targets.plddt_mask) * counted,
        "pae": masked_cross_entropy(logits.pae, targets.pae, targets.pae_mask) * counted,
        "pde": masked_cross_entropy(logits.pde, targets.pde, targets.pde_mask) * counted,
        "resolved": masked_cross_entropy(logits.resolved, targets.resolved, targets.resolved_mask) * counted,
    }
