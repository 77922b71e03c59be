# SPDX-License-Identifier: Apache-2.0
"""Whole entries of the store predicted from noise by a network: what validation and the summary both run."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foldwright.batch import Batch, collate
from foldwright.data.dataset import StoreDataset
from foldwright.data.structure import Floats, Structure
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.evaluation.lddt import lddt
from foldwright.model import AlphaFold3
from foldwright.permutation import permute_truth
from foldwright.randomness import key
from foldwright.training.parallel import reshard


@dataclass
class Prediction:
    """Sampled structures: batch of the entry (B = 1), coordinates [D, L, 3] Å, LDDT [D] to the truth."""

    structure: Structure
    batch: Batch
    coords: Floats
    lddt: Floats


def predict(
    network: AlphaFold3,
    dataset: StoreDataset,
    entry: str,
    sampler: SamplerConfig,
    *,
    n_samples: int,
    n_cycles: int,
    msa_rows: int,
    seed: int,
    device: torch.device,
) -> Prediction:
    """Sample one whole entry, in evaluation mode; its noise and MSA rows are keyed by (seed, entry) alone.

    Collective where the network is sharded: every rank must call it equally often, for whatever entry.
    """
    number = zlib.crc32(entry.encode())
    example = dataset.full_example(entry, n_cycles, msa_rows, number)
    atoms = -(-example.batch.sizes()["A"] // 32) * 32  # whole query windows of atom attention
    batch = collate([example.batch], {"A": (atoms,)}).to(device)
    was_training = network.training
    network.eval()
    x = network.sample(batch, n_samples, sampler, key(batch.sample_number, seed))[0]
    network.train(was_training)
    reshard(network)
    n_atoms = len(example.structure.atom_residue)
    residue = torch.from_numpy(np.array(example.structure.atom_residue)).to(device)
    scores = torch.stack([_score(sample, batch, n_atoms, residue) for sample in x])
    coords = x[:, :n_atoms].float().cpu().numpy()
    return Prediction(example.structure, batch, coords, scores.float().cpu().numpy())


def _score(x: Tensor, batch: Batch, n_atoms: int, residue: Tensor) -> Tensor:
    """LDDT of one sample x [A, 3] to the truth, whose identical chains and equivalent atoms are exchanged so
    that it fits best.
    """
    truth = permute_truth(batch, torch.nan_to_num(x[None], 0.0, 0.0, 0.0))
    coords, resolved = truth.atom_coords[0, :n_atoms], truth.atom_resolved[0, :n_atoms]
    return lddt(x[:n_atoms], coords, resolved, residue)
