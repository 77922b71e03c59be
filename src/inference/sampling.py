# SPDX-License-Identifier: Apache-2.0
"""A target's structures from noise with their confidence: the trunk once a seed, samples in portions.

Memory is bounded by the pairs of one trunk pass and of one confidence head, which judges a sample at a time.
A sample depends on target, seed and number alone, whatever the portions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from foldwright.affinity.crop import PocketConfig
from foldwright.batch import Batch, collate
from foldwright.data.query_example import Target
from foldwright.data.structure import Floats
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.inference.affinity import Affinities, affinities
from foldwright.inference.confidence import Confidence, assess, contact_probability
from foldwright.model import AlphaFold3


@dataclass(frozen=True)
class SamplingConfig:
    """Defaults: AF3's inference. `at_once`: diffusion samples that go through the network together; `pocket`:
    the budget that the affinity head was trained with.
    """

    samples: int = 5
    cycles: int = 10
    msa_rows: int = 1024
    templates: int = 4
    at_once: int = 5
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    pocket: PocketConfig = field(default_factory=PocketConfig)


@dataclass
class Sample:
    """One predicted structure, coords [L, 3] Å of all atoms of the target's structure."""

    seed: int
    number: int
    coords: Floats
    confidence: Confidence
    affinity: Affinities


@torch.no_grad()
def predict_target(
    network: AlphaFold3, target: Target, config: SamplingConfig, seed: int, device: torch.device
) -> Iterator[Sample]:
    """The samples of one seed, in order, each with the affinities of its own pose where the network has the
    head.

    Raises ValueError for coordinates that are not finite.
    """
    batch = target_batch(target, config, seed).to(device)
    seeds = torch.tensor([seed], dtype=torch.int64, device=device)
    trunk = network.represent(batch, seeds)
    contacts = contact_probability(network.distogram, trunk.z)
    n_atoms = len(target.structure.atom_name)
    for start in range(0, config.samples, config.at_once):
        numbers = torch.arange(start, min(start + config.at_once, config.samples))
        portion = network.sample_numbers(batch, trunk, numbers, config.sampler, seeds)
        for number, x in zip(numbers.tolist(), portion, strict=True):
            if not torch.isfinite(x[:n_atoms]).all():
                raise ValueError(f"seed {seed}, sample {number}: coordinates are not finite")
            judged = network.judge(batch, trunk, x[None], seeds)
            confidence = assess(target.structure, batch, x, judged, contacts)
            del judged  # its pairs, before the affinity head or the next sample makes others
            affinity = affinities(network, target, batch, trunk, x, config.pocket, seeds)
            yield Sample(seed, number, x[:n_atoms].float().cpu().numpy(), confidence, affinity)


def target_batch(
    target: Target, config: SamplingConfig, seed: int, kept: NDArray[np.int64] | None = None
) -> Batch:
    """The batch of one that the network sees: all tokens of a target, or those `kept` [N], ascending."""
    example = target.example(seed, config.cycles, config.msa_rows, config.templates, kept)
    atoms = -(-example.sizes()["A"] // 32) * 32  # whole query windows of atom attention
    return collate([example], {"A": (atoms,)})
