# SPDX-License-Identifier: Apache-2.0
"""Whatever ends a run, the same command continues it to exactly the losses and weights of one never ended."""

import os
import shutil
import signal
import time

import pytest
import torch

from foldwright.training.checkpoint import CheckpointError
from foldwright.training.config import ConfigError

pytestmark = pytest.mark.slow


def test_a_killed_run_resumes_bitwise(runs, uninterrupted):
    process = runs.start("killed", "loader.workers=2")
    runs.wait_for_step(process, "killed", 5)
    runs.kill(process)
    before = len(runs.metrics("killed"))
    assert runs.checkpoints("killed")[-1].name != f"step-{before:08d}", (
        "killed at a checkpoint: proves nothing"
    )
    runs.here("killed", "trainer.max_steps=8")
    assert runs.metrics("killed") == runs.metrics(uninterrupted)
    runs.assert_same_weights("killed", uninterrupted)


def test_sigterm_to_the_process_group_saves_and_exits_cleanly(runs, uninterrupted):
    process = runs.start("terminated")
    runs.wait_for_step(process, "terminated", 4)
    for _ in range(3):  # Slurm tells every process of a job several times
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.02)
    output = process.wait(timeout=60)
    assert process.returncode == 0, output
    steps = len(runs.metrics("terminated"))
    assert f"SIGTERM: saved step {steps}" in output
    assert runs.checkpoints("terminated")[-1].name == f"step-{steps:08d}", "a step was lost"
    runs.here("terminated", "trainer.max_steps=8")
    assert runs.metrics("terminated") == runs.metrics(uninterrupted)


def test_an_interrupted_run_says_where_it_resumes(runs):
    process = runs.start("interrupted", "checkpoint.every_steps=2")
    runs.wait_for_step(process, "interrupted", 4)
    os.killpg(process.pid, signal.SIGINT)
    output = " ".join(process.wait(timeout=60).split())
    assert process.returncode == 1, output
    assert "Traceback" not in output
    newest = runs.checkpoints("interrupted")[-1]
    assert (
        f"newest checkpoint: {newest.relative_to(runs.root)}. The same command resumes there"
        in output.replace(str(runs.root) + "/", "")
    )


def test_a_damaged_newest_checkpoint_is_passed_over(runs, uninterrupted, capsys):
    shutil.copytree(runs.root / uninterrupted, runs.root / "damaged")
    newest = runs.checkpoints("damaged")[-1]
    data = newest / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:-100])
    runs.here("damaged", "trainer.max_steps=8")
    said = capsys.readouterr().out
    assert "checkpoint passed over" in said
    assert "resuming at step 6" in said
    assert runs.metrics("damaged") == runs.metrics(uninterrupted)
    runs.assert_same_weights("damaged", uninterrupted)


def test_a_checkpoint_of_another_model_is_refused(runs, uninterrupted):
    shutil.copytree(runs.root / uninterrupted / "checkpoints", runs.root / "other" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"holds another model") as error:
        runs.here("other", "model.diffusion.blocks=2")
    assert "missing in the checkpoint: average.diffusion" in str(error.value)


def test_a_checkpoint_of_another_run_is_refused(runs, uninterrupted):
    shutil.copytree(runs.root / uninterrupted / "checkpoints", runs.root / "swapped" / "checkpoints")
    with pytest.raises(
        ConfigError, match=r"step-00000008 belongs to a run with another(.|\n)*seed: 0 there, 7"
    ):
        runs.here("swapped", "seed=7", "trainer.max_steps=8")


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew_by_itself(runs, uninterrupted):
    shutil.copytree(runs.root / uninterrupted, runs.root / "ruined")
    for directory in runs.checkpoints("ruined"):
        (directory / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        runs.here("ruined", "trainer.max_steps=8")
    assert runs.metrics("ruined") == runs.metrics(uninterrupted)
    assert len(runs.checkpoints("ruined")) == 3


def test_a_finished_run_is_shown_again_and_not_trained_on(runs, uninterrupted, capsys):
    before = runs.checkpoints(uninterrupted)
    runs.here(uninterrupted, "trainer.max_steps=8")
    assert "resuming at step 8" in capsys.readouterr().out
    assert len(runs.metrics(uninterrupted)) == 8
    assert runs.checkpoints(uninterrupted) == before


def test_what_a_run_leaves(runs, uninterrupted):
    directory = runs.root / uninterrupted
    for name in ("config.yaml", "metrics.csv", "prediction.cif", "loss.png", "distances.png"):
        assert (directory / name).stat().st_size > 100, name
    names = [path.name for path in runs.checkpoints(uninterrupted)]
    assert names == ["step-00000003", "step-00000006", "step-00000008"]
    cycles = {row["n_cycles"] for row in runs.metrics(uninterrupted)}
    assert cycles == {1.0, 2.0}, "the tests of resuming must cover recycling"


def test_a_checkpoint_holds_weights_average_and_moments(runs, uninterrupted):
    tensors = runs.tensors(uninterrupted)
    network = {name.removeprefix("network.") for name in tensors if name.startswith("network.")}
    assert network == {name.removeprefix("average.") for name in tensors if name.startswith("average.")}
    for moment in ("exp_avg", "exp_avg_sq", "step"):
        owners = {
            name[len("optimizer.") : -len(moment) - 1] for name in tensors if name.endswith("." + moment)
        }
        assert owners
        assert owners <= network
    assert any(not torch.equal(tensors[f"network.{name}"], tensors[f"average.{name}"]) for name in network), (
        "the average never lagged behind the weights"
    )
