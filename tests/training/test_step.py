# SPDX-License-Identifier: Apache-2.0
"""One step's losses: what the rollout decides, what a stage leaves out."""

from dataclasses import replace

import pytest

from foldwright.diffusion.noise import NoiseConfig
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.losses import LossConfig
from foldwright.training import step
from foldwright.training.step import RolloutConfig, step_losses

ROLLOUT = RolloutConfig(sampler=SamplerConfig(steps=2))


def losses(model, batch, ops, losses=LossConfig(bond=1.0), rollout=ROLLOUT):  # noqa: B008
    terms = step_losses(model, batch, 2, 0, NoiseConfig(), losses, rollout, ops)
    return {name: float(term.detach()) for name, term in terms.items()}


def with_truth(batch, coords, resolved):
    return replace(batch, atom_coords=coords, atom_resolved=resolved)


def test_the_truth_is_permuted_before_anything_is_noised_or_compared(
    miniature, awake, batch, ops, monkeypatch
):
    """Whatever labels come in, an assignment that restores them gives the same losses, all of them."""
    batch.resolution[:] = 2.0
    model = awake(miniature).float().eval()
    expected = losses(model, batch, ops)
    swapped = with_truth(batch, batch.atom_coords.roll(8, 1), batch.atom_resolved.roll(8, 1))
    assert losses(model, swapped, ops)["loss"] != pytest.approx(expected["loss"], rel=1e-3)
    seen = []

    def restoring(given, x_rollout):
        seen.append(x_rollout.shape)
        return with_truth(given, given.atom_coords.roll(-8, 1), given.atom_resolved.roll(-8, 1))

    monkeypatch.setattr(step, "permute_truth", restoring)
    assert losses(model, swapped, ops) == expected
    assert seen == [(2, 160, 3)]


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
