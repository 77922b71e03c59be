# SPDX-License-Identifier: Apache-2.0
"""Confidence targets against loops over the definitions in float64, and their invariances."""

import math

import numpy as np
import pytest
import torch

from foldwright.confidence.targets import (
    bisector_axes,
    confidence_targets,
    counts_for_confidence,
    error_bins,
)
from foldwright.geometry import rotation_from_quaternion
from foldwright.vocabulary import MoleculeType


@pytest.fixture
def labelled(batch):
    """Unresolved atoms, a nucleotide stretch and ligand tokens among the protein; a noisy prediction."""
    rng = torch.Generator().manual_seed(0)
    batch.atom_resolved = batch.atom_mask & (torch.rand(batch.atom_mask.shape, generator=rng) > 0.15)
    batch.molecule_type[:, 5:9] = MoleculeType.RNA
    batch.molecule_type[:, 9:11] = MoleculeType.LIGAND
    batch.is_atomised[:, 9:12] = True
    batch.atom_coords = batch.atom_coords * batch.atom_resolved[..., None]
    x = batch.atom_coords.double() + torch.randn(batch.atom_coords.shape, generator=rng).double()
    return batch, x


def distance(x, i, j):
    return math.dist(x[i].tolist(), x[j].tolist())


def loop_lddt(batch, b, x):
    scores = {}
    true, resolved = batch.atom_coords[b].double(), batch.atom_resolved[b]
    for atom in range(len(true)):
        kept = []
        for token in range(batch.token_mask.shape[1]):
            kind, m = int(batch.molecule_type[b, token]), int(batch.centre_atom[b, token])
            if not batch.token_mask[b, token] or batch.is_atomised[b, token] or m == atom:
                continue
            if kind == MoleculeType.LIGAND or not resolved[m]:
                continue
            d = distance(true, atom, m)
            if d < (15.0 if kind == MoleculeType.PROTEIN else 30.0):
                error = abs(distance(x[b], atom, m) - d)
                kept.append(sum(error < t for t in (0.5, 1, 2, 4)) / 4)
        if resolved[atom] and kept:
            scores[atom] = sum(kept) / len(kept)
    return scores


def test_lddt_is_that_of_a_loop(labelled):
    batch, x = labelled
    targets = confidence_targets(x, batch)
    for b in range(2):
        scores = loop_lddt(batch, b, x)
        assert set(scores) == set(torch.nonzero(targets.plddt_mask[b])[:, 0].tolist())
        assert np.std(list(scores.values())) * 10 > 0.2
        for atom, score in scores.items():
            assert float(targets.lddt[b, atom]) == pytest.approx(score)
            assert int(targets.plddt[b, atom]) == min(int(50 * score + 1e-9), 49)


def frame(a, b, c):
    """Algorithm 29 by hand."""
    w1, w2 = (a - b) / np.linalg.norm(a - b), (c - b) / np.linalg.norm(c - b)
    e1 = (w1 + w2) / np.linalg.norm(w1 + w2)
    e2 = (w2 - w1) / np.linalg.norm(w2 - w1)
    return np.stack([e1, e2, np.cross(e1, e2)])


def test_errors_are_those_of_a_loop(labelled):
    batch, x = labelled
    targets = confidence_targets(x, batch)
    true, resolved = batch.atom_coords.double().numpy(), batch.atom_resolved.numpy()
    predicted, n = x.numpy(), batch.token_mask.shape[1]
    for b in range(2):
        for i in range(n):
            frame_atoms, p = batch.frame_atoms[b, i].tolist(), int(batch.representative_atom[b, i])
            has_frame = (
                bool(batch.has_frame[b, i] & batch.token_mask[b, i]) and resolved[b, frame_atoms].all()
            )
            for j in range(n):
                q = int(batch.representative_atom[b, j])
                has_point = bool(batch.token_mask[b, j]) and resolved[b, q]
                assert bool(targets.pae_mask[b, i, j]) == (has_frame and has_point)
                if has_frame and has_point:
                    local = [
                        frame(*y[b, frame_atoms]) @ (y[b, q] - y[b, frame_atoms[1]])
                        for y in (predicted, true)
                    ]
                    error = np.linalg.norm(local[0] - local[1])
                    assert int(targets.pae[b, i, j]) == min(int(2 * error), 63)
                known = has_point and bool(batch.token_mask[b, i]) and resolved[b, p]
                assert bool(targets.pde_mask[b, i, j]) == known
                if known:
                    error = abs(
                        math.dist(predicted[b, p], predicted[b, q]) - math.dist(true[b, p], true[b, q])
                    )
                    assert int(targets.pde[b, i, j]) == min(int(2 * error), 63)
    assert targets.pae_mask.any()
    assert (targets.pae[targets.pae_mask] > 3).any()


def test_rigid_motions_change_nothing_and_the_truth_is_perfect(labelled):
    batch, x = labelled
    turn = rotation_from_quaternion(torch.tensor([0.3, -0.5, 0.7, 0.2], dtype=torch.float64))
    targets, moved = confidence_targets(x, batch), confidence_targets(x @ turn.T + 20.0, batch)
    for name in ("plddt", "plddt_mask", "pae_mask", "pde", "pde_mask"):
        assert torch.equal(getattr(targets, name), getattr(moved, name)), name
    assert torch.equal(targets.pae[targets.pae_mask], moved.pae[targets.pae_mask])
    perfect = confidence_targets(batch.atom_coords.double() @ turn.T - 3.0, batch)
    assert (perfect.plddt[perfect.plddt_mask] == 49).all()
    assert (perfect.pae[perfect.pae_mask] == 0).all()
    assert (perfect.pde[perfect.pde_mask] == 0).all()
    mirrored = confidence_targets(batch.atom_coords.double() * torch.tensor([1.0, 1.0, -1.0]), batch)
    assert (mirrored.pde[mirrored.pde_mask] == 0).all()
    assert (mirrored.pae[mirrored.pae_mask] > 0).any(), "aligned errors must see the handedness"


def test_axes_are_right_handed_and_orthonormal():
    axes = bisector_axes(*torch.randn(3, 10, 3, dtype=torch.float64))
    torch.testing.assert_close(axes.transpose(-1, -2) @ axes, torch.eye(3).double().expand(10, 3, 3))
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(10).double())


def test_bins_are_half_an_angstrom_and_the_last_is_open():
    errors = torch.tensor([0.0, 0.49, 0.5, 31.4, 31.5, 400.0, 1e30, torch.inf, torch.nan])
    assert error_bins(errors).tolist() == [0, 0, 1, 62, *[63] * 5]


def test_only_experimental_structures_of_sound_resolution_count(batch):
    wide = batch.map(lambda tensor: tensor[:1].expand(6, *tensor.shape[1:]).clone())
    wide.resolution = torch.tensor([0.0, 0.1, 2.0, 4.0, 4.1, 2.0])
    wide.supervises_confidence = torch.tensor([True] * 5 + [False])
    assert counts_for_confidence(wide).tolist() == [False, True, True, True, False, False]
