# SPDX-License-Identifier: Apache-2.0
"""The score that AF3 selects models by: a weighted mean of LDDTs by kind (SI 5.8, Table 7).

Weights are those of the initial training and of the fine-tuning. A kind that no target shows is left out and
the others' weights are scaled up, so that a small set can be scored; `coverage` says the share of the weight
that was there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

INITIAL: dict[str, float] = {
    "interface_protein_protein": 20,
    "interface_dna_protein": 10,
    "interface_protein_rna": 10,
    "interface_dna_ligand": 5,
    "interface_ligand_protein": 10,
    "interface_ligand_rna": 5,
    "intra_protein": 20,
    "intra_dna": 4,
    "intra_rna": 16,
    "intra_ligand": 20,
    "intra_modified": 10,
    "unresolved_rasa": 10,
}
FINE_TUNING = INITIAL | {"interface_protein_rna": 2, "interface_ligand_rna": 2, "intra_modified": 0}


class Selection(NamedTuple):
    """The score, 0 to 1, and the share of the weight that the kinds found carry."""

    score: float
    coverage: float


def selection_score(means: Mapping[str, float], weights: Mapping[str, float] = INITIAL) -> Selection:
    """Of the mean over targets of each kind; NaN or missing where there is none. NaN without any kind."""
    known = {
        kind: weight
        for kind, weight in weights.items()
        if weight and not math.isnan(means.get(kind, math.nan))
    }
    total = sum(known.values())
    if not total:
        return Selection(math.nan, 0.0)
    score = sum(weight * means[kind] for kind, weight in known.items()) / total
    return Selection(score, total / sum(weights.values()))
