# SPDX-License-Identifier: Apache-2.0
"""Whole entries of the store predicted from noise by a network: what validation and the summary both run."""

from __future__ import annotations

import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from foldwright.batch import Batch, collate
from foldwright.data.dataset import FullExample, StoreDataset
from foldwright.data.structure import Floats, Structure
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.evaluation.kinds import lddt_by_kind
from foldwright.evaluation.lddt import lddt
from foldwright.evaluation.scores import permuted_truth
from foldwright.model import AlphaFold3
from foldwright.randomness import key
from foldwright.training.judgement import judgement
from foldwright.training.parallel import reshard


@dataclass
class Prediction:
    """Sampled structures: batch of the entry (B = 1), coordinates [D, L, 3] Å, LDDT [D] to the truth, of each
    sample LDDT by kind (`evaluation.kinds`), and, where they were judged, figures of that.
    """

    structure: Structure
    batch: Batch
    coords: Floats
    lddt: Floats
    kinds: list[dict[str, float]]
    figures: dict[str, float] = field(default_factory=dict)


class Predictor(Protocol):
    """Predicts one whole entry: `predict` or `predict_judged`."""

    def __call__(
        self,
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
    ) -> Prediction: ...


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
    example, batch = _open(dataset, entry, n_cycles, msa_rows, device)
    with _evaluating(network):
        x = network.sample(batch, n_samples, sampler, key(batch.sample_number, seed))[0]
    return _scored(example, batch, x)


def predict_judged(
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
    """As `predict`, the same samples, with figures of how well the confidence head judges them."""
    example, batch = _open(dataset, entry, n_cycles, msa_rows, device)
    with _evaluating(network):
        x, judged = network.sample_judged(batch, n_samples, sampler, key(batch.sample_number, seed))
    prediction = _scored(example, batch, x[0])
    return replace(prediction, figures=judgement(batch, x[0], judged, prediction.lddt))


def _open(
    dataset: StoreDataset, entry: str, n_cycles: int, msa_rows: int, device: torch.device
) -> tuple[FullExample, Batch]:
    example = dataset.full_example(entry, n_cycles, msa_rows, zlib.crc32(entry.encode()))
    atoms = -(-example.batch.sizes()["A"] // 32) * 32  # whole query windows of atom attention
    return example, collate([example.batch], {"A": (atoms,)}).to(device)


@contextmanager
def _evaluating(network: AlphaFold3) -> Generator[None, None, None]:
    was_training = network.training
    network.eval()
    yield
    network.train(was_training)
    reshard(network)


def _scored(example: FullExample, batch: Batch, x: Tensor) -> Prediction:
    n_atoms = len(example.structure.atom_residue)
    residue = torch.from_numpy(np.array(example.structure.atom_residue)).to(x.device)
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
