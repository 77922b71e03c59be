# SPDX-License-Identifier: Apache-2.0
"""What is reported of an affinity prediction: ensemble mean, correction by molecular weight, other units.

Source: Boltz-2 (spec 6). A value is y = log10(K / µM), whatever K was measured: smaller binds more strongly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foldwright.affinity.head import AffinityPrediction

_SLOPE, _WEIGHT_FACTOR, _WEIGHT_POWER, _OFFSET = 1.03525938, -0.59992683, 0.3, 2.83288489
KCAL_PER_DECADE = 1.364  # RT ln 10 at 298 K, kcal/mol


@dataclass
class AffinityScores:
    """Of each complex, [B]: `value` log10(K / µM) and the probability that the ligand binds."""

    value: Tensor
    probability: Tensor


def ensemble(prediction: AffinityPrediction, molecular_weight: Tensor | None = None) -> AffinityScores:
    """Means over the members; with molecular weights [B] in g/mol the value is corrected by them."""
    value = prediction.value.mean(0)
    if molecular_weight is not None:
        value = correct_by_weight(value, molecular_weight)
    return AffinityScores(value, torch.sigmoid(prediction.logit).mean(0))


def correct_by_weight(value: Tensor, molecular_weight: Tensor) -> Tensor:
    """Boltz-2's linear correction of the mean value: 1.035 y - 0.600 MW^0.3 + 2.833."""
    return _SLOPE * value + _WEIGHT_FACTOR * molecular_weight**_WEIGHT_POWER + _OFFSET


def pic50(value: Tensor) -> Tensor:
    """-log10(K / M) of values log10(K / µM)."""
    return 6.0 - value


def binding_energy(value: Tensor) -> Tensor:
    """Free energy of dissociation in kcal/mol at 298 K: more positive binds more strongly."""
    return pic50(value) * KCAL_PER_DECADE
