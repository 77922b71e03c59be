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

from foldwright.affinity.head import Pocket
from foldwright.affinity.scores import ensemble, pic50
from foldwright.batch import Batch, collate
from foldwright.data.query_example import Target
from foldwright.data.structure import Floats
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.inference.confidence import Confidence, assess, contact_probability
from foldwright.model import AlphaFold3, Representation
from foldwright.randomness import key
from foldwright.training.pockets import PoseConfig, choose_pocket
from foldwright.vocabulary import MoleculeType

_MIN_LIGAND = 6  # heavy atoms of what an affinity is predicted for: no ion, no buffer


@dataclass(frozen=True)
class SamplingConfig:
    """Defaults: AF3's inference. `at_once`: diffusion samples that go through the network together."""

    samples: int = 5
    cycles: int = 10
    msa_rows: int = 1024
    templates: int = 4
    at_once: int = 5
    sampler: SamplerConfig = field(default_factory=SamplerConfig)


@dataclass
class Sample:
    """One predicted structure, coords [L, 3] Å of all atoms of the target's structure."""

    seed: int
    number: int
    coords: Floats
    confidence: Confidence
    affinity: dict[str, dict[str, float]] = field(default_factory=dict)  # by ligand chain


@torch.no_grad()
def predict_target(
    network: AlphaFold3, target: Target, config: SamplingConfig, seed: int, device: torch.device
) -> Iterator[Sample]:
    """The samples of one seed, in order. The last carries affinities where the network has the head, of the
    sample that ranks first.

    Raises ValueError for coordinates that are not finite.
    """
    batch = target_batch(target, config, seed).to(device)
    seeds = torch.tensor([seed], dtype=torch.int64, device=device)
    trunk = network.represent(batch, seeds)
    contacts = contact_probability(network.distogram(trunk.z)[0])
    n_atoms = len(target.structure.atom_name)
    best: tuple[float, torch.Tensor] = (-np.inf, torch.empty(0))
    for start in range(0, config.samples, config.at_once):
        numbers = torch.arange(start, min(start + config.at_once, config.samples))
        portion = network.sample_numbers(batch, trunk, numbers, config.sampler, seeds)
        for number, x in zip(numbers.tolist(), portion, strict=True):
            if not torch.isfinite(x[:n_atoms]).all():
                raise ValueError(f"seed {seed}, sample {number}: coordinates are not finite")
            logits = network.judge(batch, trunk, x[None], seeds)
            confidence = assess(target.structure, batch, x, logits, contacts)
            best = max(best, (confidence.ranking_score, x), key=lambda pair: pair[0])
            sample = Sample(seed, number, x[:n_atoms].float().cpu().numpy(), confidence)
            if number == config.samples - 1 and network.affinity is not None:
                sample.affinity = _affinities(network, target, batch, trunk, best[1], seeds)
            yield sample


def target_batch(
    target: Target, config: SamplingConfig, seed: int, kept: NDArray[np.int64] | None = None
) -> Batch:
    """The batch of one that the network sees: all tokens of a target, or those `kept` [N], ascending."""
    example = target.example(seed, config.cycles, config.msa_rows, config.templates, kept)
    atoms = -(-example.sizes()["A"] // 32) * 32  # whole query windows of atom attention
    return collate([example], {"A": (atoms,)})


def _affinities(
    network: AlphaFold3,
    target: Target,
    batch: Batch,
    trunk: Representation,
    x: torch.Tensor,
    seeds: torch.Tensor,
) -> dict[str, dict[str, float]]:
    """log10(K / µM) and the probability of binding of every ligand of six atoms or more, beside a protein.

    A ligand over the head's budget is left out.
    """
    structure, tokens = target.structure, target.entry.tokens
    found: dict[str, dict[str, float]] = {}
    if not (structure.chain_type == MoleculeType.PROTEIN).any():
        return found
    for chain in np.flatnonzero(structure.chain_type == MoleculeType.LIGAND).tolist():
        is_ligand = tokens.token_chain == chain
        if is_ligand.sum() < _MIN_LIGAND:
            continue
        try:
            kept = choose_pocket(x, batch, is_ligand, PoseConfig().pocket)
        except ValueError:
            continue
        index = torch.from_numpy(kept).to(x.device)
        pocket = Pocket(
            trunk.s_inputs[:, index],
            trunk.z[:, index][:, :, index],
            x[batch.representative_atom[0].long()[index]][None].float(),
            torch.from_numpy(is_ligand[kept]).to(x.device)[None],
            torch.ones(1, len(kept), dtype=torch.bool, device=x.device),
        )
        scores = ensemble(network.predict_affinity(pocket, key(seeds, "affinity")))
        found[str(structure.chain_name[chain])] = {
            "log10_k_um": float(scores.value[0]),
            "pic50": float(pic50(scores.value)[0]),
            "probability_binder": float(scores.probability[0]),
        }
    return found
