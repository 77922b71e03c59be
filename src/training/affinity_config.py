# SPDX-License-Identifier: Apache-2.0
"""Settings of the affinity stage beyond those of every stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from foldwright.data.affinity_sampler import GroupConfig
from foldwright.losses.affinity import AffinityLossConfig
from foldwright.training.pockets import PoseConfig


class Features(Enum):
    """Whether pockets are read from the cache of `affinity_features.py`, or computed in each step."""

    cache = "cache"
    recompute = "recompute"


@dataclass
class AffinityStageConfig:
    """`table`: STORE/affinity.parquet if empty. `held_out`: assays or targets by name, else a fraction of the
    targets. `correct_by_weight`: Boltz-2's correction of values by molecular weight, in validation.
    """

    table: str = ""
    features: Features = Features.cache
    cache: str = "${paths.output_root}/pockets"
    held_out: list[str] = field(default_factory=list)
    held_out_fraction: float = 0.1
    correct_by_weight: bool = False
    batch: int = 8  # complexes that validation takes at once
    groups: GroupConfig = field(default_factory=GroupConfig)
    loss: AffinityLossConfig = field(default_factory=AffinityLossConfig)
    pose: PoseConfig = field(default_factory=PoseConfig)
