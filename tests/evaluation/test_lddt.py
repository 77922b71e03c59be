# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from foldwright.evaluation.lddt import lddt


def test_agrees_with_biotite():
    """Referee: biotite's LDDT on a random chain of residues and on noisy copies of it."""
    struc = pytest.importorskip("biotite.structure")
    rng = np.random.default_rng(0)
    residue = np.repeat(np.arange(40), 5)
    truth = np.repeat(np.cumsum(rng.normal(size=(40, 3)) * 2.2, axis=0), 5, axis=0) + rng.normal(
        size=(200, 3)
    )
    array = struc.AtomArray(200)
    array.coord, array.res_id, array.chain_id = truth.astype(np.float32), residue, np.full(200, "A")
    for scale in (0.2, 0.7, 3.0):
        other = array.copy()
        other.coord = (array.coord + rng.normal(size=(200, 3)) * scale).astype(np.float32)
        expected = struc.lddt(array, other, aggregation="atom").mean()
        value = lddt(
            torch.tensor(other.coord),
            torch.tensor(array.coord),
            torch.ones(200, dtype=torch.bool),
            torch.tensor(residue),
        )
        assert float(value) == pytest.approx(float(expected), abs=1e-6)
        assert 0.05 < expected < 0.99


def test_unresolved_atoms_and_rigid_motions_do_not_matter():
    truth, residue = torch.randn(30, 3) * 6, torch.arange(30) // 3
    resolved = torch.arange(30) % 7 != 0
    moved = truth @ torch.linalg.qr(torch.randn(3, 3))[0] + 10
    moved[~resolved] = 999.0
    assert float(lddt(moved, truth, resolved, residue)) == pytest.approx(1.0)


def test_many_structures_in_chunks_of_rows_score_what_each_scores_alone(monkeypatch):
    torch.manual_seed(0)
    truth, residue = torch.randn(30, 3) * 6, torch.arange(30) // 3
    x = truth + torch.randn(2, 3, 30, 3)
    resolved = torch.arange(30) % 7 != 0
    together = lddt(x, truth, resolved, residue)
    monkeypatch.setattr("foldwright.evaluation.lddt._ROWS", 7)
    assert torch.allclose(lddt(x, truth, resolved, residue), together)
    alone = torch.stack([lddt(one, truth, resolved, residue) for one in x.view(-1, 30, 3)])
    assert torch.allclose(alone.view(2, 3), together)
    assert together.unique().numel() == 6
    assert lddt(x[0, 0], truth, torch.zeros_like(resolved), residue).isnan()
