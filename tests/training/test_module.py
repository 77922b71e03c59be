# SPDX-License-Identifier: Apache-2.0
"""Steps that must not count, and what a phase changes, through the whole training loop."""

import pytest

import foldwright.training.step as step


def test_too_many_bad_steps_in_a_row_stop_the_run(runs, monkeypatch):
    sound = step.structure_loss

    def poisoned(*arguments):
        terms = sound(*arguments)
        return terms | {"loss": terms["loss"] * float("inf")}

    monkeypatch.setattr(step, "structure_loss", poisoned)
    with pytest.raises(RuntimeError, match="3 steps in a row"):
        runs.here("hopeless", "optimizer.max_skipped_in_a_row=2", "loader.workers=0")


def test_phases_switch_without_a_restart(runs, monkeypatch):
    seen = []
    sound = step.noise_samples

    def watching(batch, n_samples, config, seed):
        seen.append((batch.sizes()["N"], batch.sizes()["A"], n_samples))
        return sound(batch, n_samples, config, seed)

    monkeypatch.setattr(step, "noise_samples", watching)
    wider = ["crop_tokens=64", "crop_atoms=640", "diffusion_samples=3", "until=3"]
    runs.here(
        "phases",
        "curriculum.initial.until=2",
        *(f"+curriculum.wider.{setting}" for setting in wider),
        "global_batch=1",
        "loader.workers=0",
        "data.datasets.pdb.entries=[2ofg]",
    )
    assert seen == [(32, 320, 2)] * 2 + [(64, 640, 3)]
