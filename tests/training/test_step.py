# SPDX-License-Identifier: Apache-2.0
"""One step's losses: what the rollout decides, what a stage leaves out."""

from dataclasses import replace

import pytest
import torch

from foldwright.batch import collate
from foldwright.data.dataset import DataConfig, StoreDataset
from foldwright.data.sample import store_path
from foldwright.diffusion.noise import NoiseConfig
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.losses import LossConfig
from foldwright.permutation import truth_of_copies
from foldwright.training import step
from foldwright.training.step import RolloutConfig, step_losses

ROLLOUT = RolloutConfig(sampler=SamplerConfig(steps=2))


def losses(model, batch, ops, losses=LossConfig(bond=1.0), rollout=ROLLOUT):  # noqa: B008
    terms = step_losses(model, batch, 2, 0, NoiseConfig(), losses, rollout, ops)
    return {name: float(term.detach()) for name, term in terms.items()}


@pytest.fixture(scope="module")
def homodimer():
    """A real homodimer of the sample (1a7g, by crystal symmetry), whole, as a batch of one."""
    dataset = StoreDataset(DataConfig(root=str(store_path()), n_templates=0), 0)
    example = dataset.full_example("1a7g", n_cycles=1, msa_rows=4).batch
    assert example.molecule_copies.tolist()[:2] == [2, 2]
    atoms = -(-example.sizes()["A"] // 32) * 32
    return collate([example], {"A": (atoms,)})


def test_swapping_the_truth_of_a_homodimer_changes_nothing(miniature, awake, homodimer, ops):
    """Which copy the file calls A decides nothing: the truth is permuted onto the rollout, then noised."""
    other = homodimer.molecule_copy.clone()
    other[:, :2] = 1 - other[:, :2]
    coords, resolved = truth_of_copies(homodimer, other.long())
    swapped = replace(homodimer, molecule_copy=other, atom_coords=coords, atom_resolved=resolved)
    assert not torch.equal(swapped.atom_coords, homodimer.atom_coords)
    model = awake(miniature).float().eval()
    assert losses(model, swapped, ops) == losses(model, homodimer, ops)
    without = RolloutConfig(enabled=False)
    assert losses(model, swapped, ops, rollout=without) != losses(model, homodimer, ops, rollout=without)


def test_the_confidence_stage_neither_noises_nor_denoises(miniature, awake, batch, ops, monkeypatch):
    def forbidden(*arguments):
        raise AssertionError("nothing is to be noised")

    monkeypatch.setattr(step, "noise_samples", forbidden)
    batch.resolution[:] = 2.0
    terms = losses(
        awake(miniature).float(),
        batch,
        ops,
        LossConfig(0.0, distogram=0.0, confidence=1.0, pae=1.0),
    )
    parts = [terms[name] for name in ("plddt", "pae", "pde", "resolved")]
    assert terms["loss"] == pytest.approx(sum(parts))
    assert all(part > 0 for part in parts)
    assert "mse" not in terms


def test_without_a_rollout_labels_stay_and_no_confidence_is_judged(miniature, awake, batch, ops):
    model = awake(miniature).float().eval()
    terms = losses(model, batch, ops, rollout=RolloutConfig(enabled=False))
    whole = losses(model, batch, ops)
    assert set(whole) - set(terms) == {"plddt", "pae", "pde", "resolved", "rollout_lddt"}
    assert terms["mse"] == whole["mse"]
    assert 0 <= whole["rollout_lddt"] < 1


def test_distogram_and_structure_go_together():
    with pytest.raises(ValueError, match=r"losses.distogram: got 0.03 with losses.diffusion=0"):
        LossConfig(diffusion=0.0).check()
