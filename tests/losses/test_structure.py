# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch
from scipy.spatial.transform import Rotation

from foldwright.batch import collate
from foldwright.data.synthetic import synthetic_example
from foldwright.diffusion.noise import NoiseConfig, noise_samples
from foldwright.diffusion.precondition import c_skip
from foldwright.kernels import reference
from foldwright.losses import LossConfig, structure_loss
from foldwright.losses.diffusion import aligned_mse, atom_weights, bond_loss, smooth_lddt_loss
from foldwright.losses.distogram import distogram_bins, distogram_loss
from foldwright.vocabulary import MoleculeType

SEED = torch.tensor([5, 6])


def test_weights_are_those_of_equation_4(batch):
    batch.molecule_type[0, :4] = torch.tensor(
        [MoleculeType.RNA, MoleculeType.DNA, MoleculeType.LIGAND, 0]
    ).to(torch.uint8)
    weights = atom_weights(batch)[0]
    for token, expected in enumerate([6.0, 6.0, 11.0, 1.0]):
        here = batch.atom_mask[0] & (batch.atom_to_token[0] == token)
        assert torch.equal(weights[here], expected * batch.atom_resolved[0, here])


def test_mse_ignores_the_frame_of_the_truth_and_counts_only_resolved_atoms(batch, ops):
    x = torch.randn(2, 1, 160, 3, dtype=torch.float64)
    truth = torch.randn(2, 1, 160, 3, dtype=torch.float64)
    weight = atom_weights(batch)
    expected = aligned_mse(x, truth, weight, batch.atom_resolved, ops)
    motion = torch.tensor(Rotation.random(random_state=1).as_matrix())
    moved = truth @ motion.T + torch.tensor([9.0, -50.0, 3.0])
    moved[0, :, ~batch.atom_resolved[0]] += 1000.0
    torch.testing.assert_close(aligned_mse(x, moved, weight, batch.atom_resolved, ops), expected)
    fitted = ops.weighted_rigid_align(truth, x, weight[:, None].double())
    here = batch.atom_resolved[0]
    by_hand = (fitted - x)[0, 0, here].square().sum(-1).mean() / 3
    torch.testing.assert_close(expected[0, 0], by_hand)


def test_no_gradient_flows_through_the_alignment(batch, ops):
    """A rigid motion of the prediction cannot change the loss, so its gradient has no net force or torque."""
    x = torch.randn(2, 1, 160, 3, dtype=torch.float64, requires_grad=True)
    truth = torch.randn(2, 1, 160, 3, dtype=torch.float64)
    loss = aligned_mse(x, truth, atom_weights(batch), batch.atom_resolved, ops).sum()
    (grad,) = torch.autograd.grad(loss, x)
    assert grad.sum(-2).abs().max() < 1e-10
    assert torch.linalg.cross(x.detach(), grad).sum(-2).abs().max() < 1e-8


def test_weighted_mse_is_about_one_at_initialisation(ops):
    examples = [synthetic_example(100, 1024, seed=s, sample_number=s) for s in range(2)]
    batch = collate(examples, {})
    # scale the coordinates to the data's standard deviation of 16 A
    spread = batch.atom_coords[batch.atom_resolved].std()
    batch.atom_coords *= 16.0 / spread
    noised = noise_samples(batch, 24, NoiseConfig(), SEED)
    x = c_skip(noised.t_hat)[..., None, None] * noised.x_noisy
    logits = torch.zeros(2, 100, 100, 64)
    terms = structure_loss(x, logits, noised, batch, LossConfig(smooth_lddt=0.0), ops)
    assert terms["weighted_mse"] == pytest.approx(1.0, abs=0.25)
    assert terms["distogram"] == pytest.approx(4.1589, abs=1e-3)  # ln 64


def test_the_total_is_the_papers_weighted_sum(batch, ops):
    noised = noise_samples(batch, 2, NoiseConfig(), SEED)
    x = noised.x_noisy * 0.9
    logits = torch.randn(2, 20, 20, 64)
    terms = structure_loss(x, logits, noised, batch, LossConfig(bond=1.0), ops)
    expected = 4 * (terms["weighted_mse"] + terms["smooth_lddt"]) + 0.03 * terms["distogram"]
    torch.testing.assert_close(terms["loss"], expected)  # no polymer-ligand bond in this batch


def test_bond_loss_by_hand(batch):
    batch.bond_atoms = torch.tensor([[[0, 5], [3, 9]], [[1, 2], [0, 0]]], dtype=torch.int32)
    batch.bond_mask = torch.tensor([[True, True], [True, False]])
    x, truth = torch.randn(2, 3, 160, 3), torch.randn(2, 3, 160, 3)

    def length(y, b, i, j):
        return (y[b, 1, i] - y[b, 1, j]).norm()

    loss = bond_loss(x, truth, batch)
    pairs = [(length(x, 0, i, j) - length(truth, 0, i, j)) ** 2 for i, j in [(0, 5), (3, 9)]]
    torch.testing.assert_close(loss[0, 1], sum(pairs) / 2)
    torch.testing.assert_close(loss[1, 1], (length(x, 1, 1, 2) - length(truth, 1, 1, 2)) ** 2)


@pytest.mark.parametrize("samples", [0, 1, 2])
def test_smooth_lddt_of_some_samples_at_a_time_equals_the_whole(batch, ops, samples, monkeypatch):
    truth = torch.randn(2, 5, 160, 3, dtype=torch.float64) * 5
    x = (truth + torch.randn_like(truth)).requires_grad_()
    losses = [smooth_lddt_loss(x, truth, batch, ops)]
    monkeypatch.setattr(reference, "_ATOM_PAIRS", samples * 160**2)
    losses.append(smooth_lddt_loss(x, truth, batch, ops))
    torch.testing.assert_close(losses[0], losses[1])
    grads = [torch.autograd.grad(loss.sum(), x)[0] for loss in losses]
    torch.testing.assert_close(grads[0], grads[1])


def test_distogram_bins_and_mask(batch):
    distances = torch.tensor([0.0, 2.3, 2.4, 2.7, 21.6, 21.7, 90.0])
    assert distogram_bins(distances, 64).tolist() == [0, 0, 1, 2, 62, 63, 63]
    logits = torch.randn(2, 20, 20, 64, dtype=torch.float64)
    loss = distogram_loss(logits, batch)
    changed = logits.clone()
    missing = ~batch.atom_resolved.gather(1, batch.representative_atom.long())
    missing |= ~batch.token_mask
    changed[missing[:, :, None].expand(-1, -1, 20)] = 100.0
    torch.testing.assert_close(distogram_loss(changed, batch), loss)


def test_nothing_resolved_gives_a_zero_that_can_be_differentiated(batch, ops):
    batch.atom_resolved[:] = False
    noised = noise_samples(batch, 2, NoiseConfig(), SEED)
    x = noised.x_noisy.clone().requires_grad_()
    logits = torch.zeros(2, 20, 20, 64, requires_grad=True)
    terms = structure_loss(x, logits, noised, batch, LossConfig(smooth_lddt=0.0), ops)
    terms["loss"].backward()
    assert terms["loss"] == 0.0
    assert torch.isfinite(x.grad).all()


def test_only_what_the_data_set_supervises_counts(batch, ops):
    """Equal to dropping the atoms by hand; nothing left gives zero and a gradient of zero."""
    kind = batch.molecule_type
    kind[:, 15:] = MoleculeType.LIGAND
    noised = noise_samples(batch, 2, NoiseConfig(), SEED)
    x = (noised.x_noisy * 0.9).requires_grad_()
    logits = torch.randn(2, 20, 20, 64)
    batch.supervises_non_protein[1] = False
    batch.supervises_diffusion[0] = False
    batch.supervises_distogram[1] = False
    terms = structure_loss(x, logits, noised, batch, LossConfig(bond=1.0), ops)
    (grad,) = torch.autograd.grad(terms["loss"], x)
    assert not grad[0].any()
    ligand = torch.gather(kind, 1, batch.atom_to_token.long())[1] == MoleculeType.LIGAND
    assert not grad[1][:, ligand].any()
    assert grad[1][:, ~ligand & batch.atom_resolved[1]].any()
    by_hand = replace(batch, atom_resolved=batch.atom_resolved.clone())
    by_hand.atom_resolved[1, ligand] = False
    by_hand.supervises_non_protein = torch.ones(2, dtype=torch.bool)
    same = structure_loss(x, logits, noised, by_hand, LossConfig(bond=1.0), ops)
    for name in ("mse", "weighted_mse", "smooth_lddt"):
        torch.testing.assert_close(terms[name], same[name])
    whole = distogram_loss(logits, batch)
    assert whole[1] == 0
    assert whole[0] > 0
