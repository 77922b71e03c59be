# SPDX-License-Identifier: Apache-2.0
"""The format: whole or not there, verified, pruned, and refused with the tensors that differ."""

import json

import pytest
import torch
from torch import nn

from foldwright.training import checkpoint
from foldwright.training.checkpoint import CheckpointError, Record, fault, load, newest, save, state_tensors
from foldwright.training.ema import averaged_copy
from foldwright.training.optim import OptimizerConfig, build_adam

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled")


def state(width=3, seed=0, extra=False):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, width), *([nn.Linear(width, 2)] if extra else []))
    optimizer = build_adam(network.parameters(), OptimizerConfig())
    return state_tensors(network, averaged_copy(network), optimizer)


def write(root, step, seed=0):
    return save(root, state(seed=seed), Record(step=step, seed=0, config={"model": 1}), keep_last=2)


def test_round_trip_is_bitwise(tmp_path):
    directory = write(tmp_path, 12, seed=1)
    tensors = state(seed=2)
    record = load(directory, tensors)
    assert (record.step, record.config, record.format) == (12, {"model": 1}, checkpoint.FORMAT)
    for name, tensor in state(seed=1).items():
        assert torch.equal(tensor, tensors[name]), name


def test_one_process_reads_without_a_warning(tmp_path, recwarn):
    directory = write(tmp_path, 3)
    recwarn.clear()
    load(directory, state(seed=1))
    assert not [warning for warning in recwarn if "torch.distributed" in str(warning.message)]


def test_newest_counts_steps_and_old_ones_go(tmp_path):
    for step in (9, 10, 100):
        write(tmp_path, step)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000010", "step-00000100"]
    assert newest(tmp_path) == (tmp_path / "step-00000100", [])


@pytest.mark.parametrize("keep_last", [1, 2])
def test_what_was_just_written_stays_beside_damaged_later_ones(tmp_path, keep_last):
    for step in (3, 6, 9):
        write(tmp_path, step)
    for damaged in (6, 9):
        cut(tmp_path / f"step-{damaged:08d}")
    save(tmp_path, state(), Record(step=4, seed=0, config={}), keep_last=keep_last)
    assert newest(tmp_path)[0] == tmp_path / "step-00000004"


def test_nothing_there_is_a_fresh_start(tmp_path):
    assert newest(tmp_path / "absent") == (None, [])


def unfinish(directory):
    directory.rename(directory.with_name(directory.name + ".partial"))


def cut(directory):
    data = directory / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:50])


def flip(directory):
    data = directory / "__0_0.distcp"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "has 50 bytes instead of"),
        (flip, "was altered"),
        (lambda directory: (directory / ".metadata").unlink(), ".metadata is missing"),
        (lambda directory: (directory / "checkpoint.json").write_text("{"), "unreadable"),
        (unfinish, "never finished"),
        (lambda directory: (directory / "checkpoint.json").write_text("[]"), "unreadable"),
    ],
)
def test_damage_is_noticed_and_the_one_before_taken(tmp_path, damage, reason):
    good, bad = write(tmp_path, 1), write(tmp_path, 2)
    damage(bad)
    directory, passed_over = newest(tmp_path)
    assert directory == good
    assert len(passed_over) == 1
    assert reason in passed_over[0]
    assert fault(write(tmp_path, 2)) is None, "saving again must replace the damaged one"


def test_a_file_that_cannot_be_read_is_damage_too(tmp_path, monkeypatch):
    good, bad = write(tmp_path, 1), write(tmp_path, 2)
    sum_of = checkpoint._crc32

    def failing(path):
        if path.parent == bad:
            raise OSError(5, "Input/output error")
        return sum_of(path)

    monkeypatch.setattr(checkpoint, "_crc32", failing)
    directory, passed_over = newest(tmp_path)
    assert directory == good
    assert "Input/output error" in passed_over[0]


def test_another_model_is_refused_and_nothing_is_written(tmp_path):
    directory = write(tmp_path, 1)
    for other, message in [
        (state(width=5), r"of another shape: average.0.bias \[3\] instead of \[5\]"),
        (state(extra=True), "missing in the checkpoint: average.1.bias"),
        ({"network.0.weight": torch.zeros(3, 4)}, "unexpected in the checkpoint: average.0.bias"),
    ]:
        before = {name: tensor.clone() for name, tensor in other.items()}
        with pytest.raises(CheckpointError, match=message):
            load(directory, other)
        assert all(torch.equal(other[name], before[name]) for name in before)


def test_another_format_is_refused(tmp_path):
    directory = write(tmp_path, 1)
    record = json.loads((directory / "checkpoint.json").read_text())
    (directory / "checkpoint.json").write_text(json.dumps(record | {"format": "foldwright-checkpoint/0"}))
    with pytest.raises(CheckpointError, match="got format 'foldwright-checkpoint/0'"):
        load(directory, state())
