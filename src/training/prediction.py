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
from foldwright.evaluation.kinds import lddt_by_kind
from foldwright.evaluation.lddt import lddt
from foldwright.evaluation.scores import permuted_truth
from foldwright.model import AlphaFold3
from foldwright.randomness import key
from foldwright.training.parallel import reshard


@dataclass
class Prediction:
    """Sampled structures: batch of the entry (B = 1), coordinates [D, L, 3] Å, LDDT [D] to the truth, and of
    each sample LDDT by kind (`evaluation.kinds`).
    """

    structure: Structure
    batch: Batch
    coords: Floats
    lddt: Floats
    kinds: list[dict[str, float]]


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
    scores = [_score(sample[:n_atoms], batch, example.structure, residue) for sample in x]
    coords = x[:, :n_atoms].float().cpu().numpy()
    figures = torch.stack([own for own, _ in scores]).float().cpu().numpy()
    return Prediction(example.structure, batch, coords, figures, [kinds for _, kinds in scores])


def _score(x: Tensor, batch: Batch, structure: Structure, residue: Tensor) -> tuple[Tensor, dict[str, float]]:
    """LDDT of one sample x [L, 3] to the truth, whose identical chains and equivalent atoms are exchanged so
    that it fits best; and the same by kind.
    """
    known = torch.nan_to_num(x, 0.0, 0.0, 0.0)
    coords, resolved = permuted_truth(batch, known.cpu().numpy())
    true, shown = torch.from_numpy(coords).to(x.device), torch.from_numpy(resolved).to(x.device)
    kinds = lddt_by_kind(structure, known.double().cpu().numpy(), coords, resolved)
    return lddt(x, true, shown, residue), kinds
