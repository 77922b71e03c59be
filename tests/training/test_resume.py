# SPDX-License-Identifier: Apache-2.0
"""Whatever ends a run, the same command continues it to exactly the losses and weights of one never ended."""

import os
import shutil
import signal
import time

import pytest
import torch
import torch.distributed.checkpoint as dcp

from foldwright.training.checkpoint import CheckpointError

pytestmark = pytest.mark.slow


def wait_for_step(runs, process, name, step, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if len(runs.metrics(name)) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} within {seconds} s; output:\n{process.communicate()[0]}")


def read_tensors(directory):
    """All tensors of a checkpoint through torch's own reader, without the code under test."""
    reader = dcp.FileSystemReader(directory)
    stored = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in stored.items()}
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def assert_same_weights(runs, one, other):
    first, second = (read_tensors(runs.checkpoints(name)[-1]) for name in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_killed_run_resumes_bitwise(runs, uninterrupted):
    process = runs.start("killed", "loader.workers=2")
    wait_for_step(runs, process, "killed", 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = len(runs.metrics("killed"))
    assert runs.checkpoints("killed")[-1].name != f"step-{before:08d}", (
        "killed at a checkpoint: proves nothing"
    )
    runs.here("killed", "trainer.max_steps=8")
    assert runs.metrics("killed") == runs.metrics(uninterrupted)
    assert_same_weights(runs, "killed", uninterrupted)


def test_sigterm_to_the_process_group_saves_and_exits_cleanly(runs, uninterrupted):
    process = runs.start("terminated")
    wait_for_step(runs, process, "terminated", 4)
    os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    steps = len(runs.metrics("terminated"))
    assert f"SIGTERM: saved step {steps}" in output
    assert runs.checkpoints("terminated")[-1].name == f"step-{steps:08d}", "a step was lost"
    runs.here("terminated", "trainer.max_steps=8")
    assert runs.metrics("terminated") == runs.metrics(uninterrupted)


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
    assert_same_weights(runs, "damaged", uninterrupted)


def test_a_checkpoint_of_another_model_is_refused(runs, uninterrupted):
    shutil.copytree(runs.root / uninterrupted / "checkpoints", runs.root / "other" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"holds another model") as error:
        runs.here("other", "model.diffusion.blocks=2")
    assert "missing in the checkpoint: average.diffusion" in str(error.value)


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
    tensors = read_tensors(runs.checkpoints(uninterrupted)[-1])
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
