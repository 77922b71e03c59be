# SPDX-License-Identifier: Apache-2.0
"""Training goes on while a checkpoint is written; one at a time, and none fails in silence."""

import threading
from traceback import StackSummary

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager

from foldwright.training import checkpoint
from foldwright.training.checkpoint import CheckpointConfig, Record, load, newest
from foldwright.training.checkpoint_writer import CheckpointWriter, WriteError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled")


def record(step):
    return Record(step=step, seed=0, config={})


@pytest.fixture
def gate(monkeypatch):
    """Holds every write back until it is set."""
    event, sound = threading.Event(), checkpoint.save

    def waiting(*arguments):
        assert event.wait(20)
        return sound(*arguments)

    monkeypatch.setattr(checkpoint, "save", waiting)
    yield event
    event.set()


def test_what_is_written_is_what_was_there_when_it_began(tmp_path, gate):
    tensors = {"network.w": torch.full((3,), 1.0), "optimizer.w.step": torch.tensor(7.0)}
    writer = CheckpointWriter(tmp_path, CheckpointConfig())
    writer.write(tensors, record(5))
    for tensor in tensors.values():
        tensor.zero_()
    assert newest(tmp_path)[0] is None
    writer.check()
    gate.set()
    writer.finish()
    assert writer.latest == newest(tmp_path)[0] == tmp_path / "step-00000005"
    assert load(writer.latest, tensors).step == 5
    assert torch.equal(tensors["network.w"], torch.ones(3))
    assert tensors["optimizer.w.step"] == 7


def test_one_at_a_time(tmp_path, gate):
    writer = CheckpointWriter(tmp_path, CheckpointConfig(keep_last=2))
    writer.write({"w": torch.zeros(2)}, record(1))
    threading.Timer(0.3, gate.set).start()
    writer.write({"w": torch.zeros(2)}, record(2))
    assert gate.is_set(), "the second began before the first was written"
    assert writer.latest == tmp_path / "step-00000001"
    writer.write({"w": torch.zeros(2)}, record(3))
    writer.finish()
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step-00000002", "step-00000003"]


def test_a_stager_that_closes_itself_serves_every_checkpoint(tmp_path, monkeypatch):
    """As torch 2.11's does."""
    sound = DefaultStager._stage

    def once(self, *arguments, **options):
        staged = sound(self, *arguments, **options)
        self.close()
        return staged

    monkeypatch.setattr(DefaultStager, "_stage", once)
    writer = CheckpointWriter(tmp_path, CheckpointConfig(keep_last=2))
    for step in (1, 2):
        writer.write({"w": torch.full((2,), float(step))}, record(step))
    writer.finish()
    tensors = {"w": torch.zeros(2)}
    assert load(writer.latest, tensors).step == 2
    assert tensors["w"].tolist() == [2, 2]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_failed_write_stops_the_run(tmp_path, monkeypatch, asynchronous):
    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "_write_record", full)
    writer = CheckpointWriter(tmp_path, CheckpointConfig(asynchronous=asynchronous))

    def write():
        writer.write({"w": torch.zeros(2)}, record(1))
        writer.finish()

    with pytest.raises(
        WriteError, match=r"could not be written to .*OSError: No space left on device; the run"
    ):
        write()
    assert newest(tmp_path)[1] == [f"{tmp_path / 'step-00000001.partial'}: was never finished"]


def test_the_reason_is_the_rank_s_own_error_in_one_line(tmp_path, monkeypatch):
    def full(*arguments):
        failure = (OSError("No space left on device\nand more"), StackSummary())
        raise CheckpointException("torch's own words", {0: failure})

    monkeypatch.setattr(checkpoint, "save", full)
    writer = CheckpointWriter(tmp_path, CheckpointConfig())
    writer.write({"w": torch.zeros(2)}, record(1))
    with pytest.raises(
        WriteError, match=r"MiB are free there\): OSError: No space left on device; the run stops"
    ):
        writer.finish()


@pytest.mark.slow
def test_a_run_killed_while_writing_resumes_from_the_one_before(runs, uninterrupted):
    """The write of step 6 is held for ever; training has gone on when the kill comes."""
    script = runs.root / "stuck.py"
    script.write_text(STUCK)
    process = runs.start("stuck", "trainer.max_steps=8", script=script)
    runs.wait_for_step(process, "stuck", 7)
    runs.kill(process)
    found = sorted(path.name for path in (runs.root / "stuck" / "checkpoints").glob("step-*"))
    assert found == ["step-00000003", "step-00000006.partial"]
    runs.here("stuck", "trainer.max_steps=8", "checkpoint.asynchronous=false")
    assert runs.metrics("stuck") == runs.metrics(uninterrupted)
    runs.assert_same_weights("stuck", uninterrupted)


STUCK = """
import time
from pathlib import Path
from foldwright.training import checkpoint

sound = checkpoint._write_record


def stuck(directory: Path, record: checkpoint.Record) -> None:
    if record.step == 6:
        time.sleep(1000)
    sound(directory, record)


checkpoint._write_record = stuck
from foldwright.training.cli import main

main()
"""
