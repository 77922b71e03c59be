# SPDX-License-Identifier: Apache-2.0
"""Validation: shared over ranks without repeats, kept apart from training, and the same after a resume."""

import csv
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch

from foldwright.data.dataset import DataConfig, StoreDataset
from foldwright.data.sample import store_path
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.training import validation
from foldwright.training.callbacks import MetricsFile
from foldwright.training.held_out import HeldOut, ValidationConfig
from foldwright.training.validation import describe, share, validate

CHEAP = ("validation.every_steps=2", "validation.sampler.steps=2", "validation.entries=[5pti,1as5,1ubi]")


def read(runs, name):
    with (runs.root / name / "validation.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_every_rank_runs_as_often_and_every_entry_counts_once(world_size):
    entries = ("a", "b", "c", "d", "e")
    shares = [share(entries, rank, world_size) for rank in range(world_size)]
    assert len({len(own) for own in shares}) == 1
    counted = [entry for own in shares for entry, counts in own if counts]
    assert sorted(counted) == sorted(entries)


def test_a_banner_without_validation_says_what_to_do_about_it():
    split, fraction = ValidationConfig(split="af3"), ValidationConfig(fraction=0.1)
    assert "validation set of the split 'af3' is empty" in describe(HeldOut(excluded=3), split)
    assert "all 2 that are held out are above validation.max_tokens=384" in describe(
        HeldOut(too_large=2), split
    )
    assert "larger validation.fraction" in describe(HeldOut(), fraction)


def test_scores_are_means_over_entries_of_their_samples():
    dataset = StoreDataset(DataConfig(root=str(store_path()), n_templates=1), seed=0)

    class HalfOracle(torch.nn.Module):
        """Of two samples the first is the truth, the second a point."""

        def sample(self, batch, n_samples, config, seed):
            return torch.stack([batch.atom_coords, torch.zeros_like(batch.atom_coords)], 1)

    config = ValidationConfig(n_samples=2, cycles=1, msa_rows=4, sampler=SamplerConfig(steps=1))
    figures = validate(HalfOracle(), dataset, ("1as5", "5pti"), config, 0, torch.device("cpu"))
    assert figures["lddt_best"] == pytest.approx(1.0)
    assert 0.5 <= figures["lddt"] < 0.6
    protein, modified = figures["intra_protein"], figures["intra_modified"]  # the kinds that there are
    assert 0.5 <= protein < 0.6
    assert figures["model_selection"] == pytest.approx((20 * protein + 10 * modified) / 30)
    assert figures["model_selection_coverage"] == pytest.approx(30 / 140)
    assert figures["lddt"] == pytest.approx((figures["lddt/1as5"] + figures["lddt/5pti"]) / 2)


def test_a_run_validates_before_at_intervals_and_at_the_end(runs, capsys, monkeypatch):
    drawn = []
    sound = StoreDataset._build

    def watching(self, part, draw, request, attempt):
        drawn.append(draw.entry)
        return sound(self, part, draw, request, attempt)

    monkeypatch.setattr(StoreDataset, "_build", watching)
    extra = (*CHEAP, "loader.workers=0", "global_batch=4", "data.datasets.pdb.entries=[5pti,1as5,1ubi,2ofg]")
    runs.here("validated", *extra, "trainer.max_steps=5")
    assert [row["step"] for row in read(runs, "validated")] == [0, 2, 4, 5]
    assert set(drawn) == {"2ofg"}
    said = " ".join(capsys.readouterr().out.split())
    assert "every 2 steps on 5pti, 1as5, 1ubi; training never draws them nor any of the 3 entries" in said
    assert "validation LDDT" in said


def test_sigterm_during_the_first_validation_saves_like_any_other(runs, monkeypatch, capsys):
    real = validation.Validation._run

    def terminated(self, trainer, module):
        if trainer.global_step == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, trainer, module)

    monkeypatch.setattr(validation.Validation, "_run", terminated)
    runs.here("terminated_early", *CHEAP, "loader.workers=0", "trainer.max_steps=3")
    assert "SIGTERM: saved step 1" in " ".join(capsys.readouterr().out.split())
    assert [path.name for path in runs.checkpoints("terminated_early")] == ["step-00000001"]


def test_all_ranks_go_by_what_the_first_one_reads(tmp_path, monkeypatch):
    """The second rank may see a file from before the first one dropped what runs again."""
    stale = MetricsFile(tmp_path / "validation.csv")
    for step, score in ((0, 0.1), (5, 0.4), (10, 0.9)):
        stale.append({"step": float(step), "model_selection": score})
    first = [row for row in stale.rows() if row["step"] <= 5]
    monkeypatch.setattr(validation, "rank", lambda: 1)
    monkeypatch.setattr(validation, "from_first_rank", lambda own: first)
    checkpointer = SimpleNamespace(best_step=None)
    judged = SimpleNamespace(best="model_selection")
    callback = validation.Validation(stale.path, 5, judged, checkpointer, None, None)
    callback.on_train_start(SimpleNamespace(global_step=5), None)
    assert (callback.best, checkpointer.best_step) == (0.4, 5)


@pytest.mark.slow
def test_a_resumed_run_repeats_its_curve_and_keeps_the_best(runs, monkeypatch):
    scores = {0: 0.9, 2: 0.5, 4: 0.7, 6: 0.6, 8: 0.65}
    real = validation.validate
    seen = []

    def scripted(*arguments):
        figures = real(*arguments)
        seen.append(figures)
        return figures | {"model_selection": scores[2 * (len(seen) - 1)]}

    monkeypatch.setattr(validation, "validate", scripted)
    extra = (*CHEAP, "checkpoint.keep_last=1", "checkpoint.every_steps=3")
    runs.here("best", *extra, "trainer.max_steps=8")
    assert [path.name[-1] for path in runs.checkpoints("best")] == ["4", "8"]
    best = runs.root / "best" / "checkpoints" / "best"
    assert best.resolve().name == "step-00000004"
    straight = read(runs, "best")

    shutil.copytree(runs.root / "best", runs.root / "again", symlinks=True)
    shutil.rmtree(runs.checkpoints("again")[-1])
    seen[:] = seen[:3]
    runs.here("again", *extra, "trainer.max_steps=8")
    assert read(runs, "again") == straight
    assert (runs.root / "again" / "checkpoints" / "best").resolve().name == "step-00000004"


@pytest.mark.thorough
def test_two_sharded_ranks_score_what_one_does(runs):
    runs.here("alone", *CHEAP, "trainer.max_steps=2")
    runs.on(2, "together", "trainer.sharding=fsdp", *CHEAP, "trainer.max_steps=2")
    for row, other in zip(read(runs, "together"), read(runs, "alone"), strict=True):
        assert row == pytest.approx(other, abs=2e-3)
