# SPDX-License-Identifier: Apache-2.0
"""Steps that must not count, and what a phase changes, through the whole training loop."""

import pytest

import foldwright.training.step as step
from foldwright.data import dataset
from foldwright.training.config import ConfigError


def test_too_many_bad_steps_in_a_row_stop_the_run(runs, monkeypatch):
    sound = step.structure_loss

    def poisoned(*arguments):
        terms = sound(*arguments)
        return terms | {"loss": terms["loss"] * float("inf")}

    monkeypatch.setattr(step, "structure_loss", poisoned)
    with pytest.raises(RuntimeError, match="3 steps in a row") as error:
        runs.here("hopeless", "optimizer.max_skipped_in_a_row=2", "loader.workers=0")
    assert "step 3 of samples 4 to 5: loss, grad_norm)" in str(error.value)


def test_phases_switch_without_a_restart(runs, monkeypatch):
    seen = []
    sound = step.noise_samples

    def watching(batch, n_samples, config, seed):
        seen.append((batch.sizes()["N"], batch.sizes()["A"], n_samples))
        return sound(batch, n_samples, config, seed)

    monkeypatch.setattr(step, "noise_samples", watching)
    contiguous = "dataset_crops.pdb={contiguous:1.0,spatial:0.0,spatial_interface:0.0}"
    wider = [
        "crop_tokens=64",
        "crop_atoms=640",
        "diffusion_samples=3",
        "until=3",
        "lr_factor=0.5",
        contiguous,
    ]
    strategies = []
    crop = dataset.crop

    def watching_crops(inputs, budget, mixture, preferred, rng):
        strategies.append(mixture.contiguous)
        return crop(inputs, budget, mixture, preferred, rng)

    monkeypatch.setattr(dataset, "crop", watching_crops)
    runs.here(
        "phases",
        "curriculum.initial.until=2",
        *(f"+curriculum.wider.{setting}" for setting in wider),
        "global_batch=1",
        "loader.workers=0",
        "data.datasets.pdb.entries=[2ofg]",
    )
    assert seen == [(32, 320, 2)] * 2 + [(64, 640, 3)]
    assert strategies[:3] == [0.2, 0.2, 1.0]
    rates = [row["lr"] / step for step, row in enumerate(runs.metrics("phases"), 1)]
    assert rates == pytest.approx([rates[0], rates[0], rates[0] / 2]), (
        "warm-up is linear, the factor halves it"
    )


def test_a_data_set_whose_croppers_are_overridden_must_be_there(runs):
    with pytest.raises(ConfigError, match=r"initial.dataset_crops: got 'rna', expected names .*: pdb"):
        runs.here("croppers", "+curriculum.initial.dataset_crops.rna.contiguous=1.0")
