# SPDX-License-Identifier: Apache-2.0
"""Strict hand-off: what is loaded, new or frozen is decided, said and true; a wrong parent is refused."""

import json

import pytest
import torch
from torch import nn

from foldwright.training import checkpoint
from foldwright.training.checkpoint import CheckpointError, Record, state_tensors
from foldwright.training.ema import averaged_copy
from foldwright.training.hand_off import InitFromConfig, OptimizerState, apply, freeze, plan
from foldwright.training.optim import OptimizerConfig, build_adam
from foldwright.training.weights import Weights, export

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled")


class Net(nn.Module):
    def __init__(self, width=3, head=False):
        super().__init__()
        self.trunk = nn.Linear(4, width)
        self.out = nn.Linear(width, 2)
        if head:
            self.head = nn.Linear(2, 2)


def state(seed, head=False, frozen=()):
    """Network, average and optimiser whose every tensor is a draw of its own."""
    torch.manual_seed(seed)
    network = Net(head=head)
    freeze(network, frozen)
    average = averaged_copy(Net(head=head))
    optimizer = build_adam(network.parameters(), OptimizerConfig())
    for moments in optimizer.state.values():
        for tensor in moments.values():
            tensor.uniform_()
    return network, average, optimizer


@pytest.fixture
def parent(tmp_path):
    record = Record(step=7, seed=0, config={"stage": "structure"})
    checkpoint.save(tmp_path / "run" / "checkpoints", state_tensors(*state(seed=1)), record, keep_last=1)
    return tmp_path / "run"


def config(path, **changes):
    return InitFromConfig(path=str(path), stage="structure", **changes)


@pytest.mark.parametrize("weights", list(Weights))
@pytest.mark.parametrize("kept", list(OptimizerState))
def test_what_is_declared_is_what_happens(parent, weights, kept):
    child = state(seed=2, head=True, frozen=["trunk"])
    before = {name: tensor.clone() for name, tensor in state_tensors(*child).items()}
    decided = plan(config(parent, weights=weights, optimizer=kept, new=["head"]), child[0], "confidence")
    assert decided.new == ("head.weight", "head.bias")
    assert (decided.parent_stage, decided.parent_step) == ("structure", 7)
    apply(decided, *child)
    old, now = state_tensors(*state(seed=1)), state_tensors(*child)
    source = "average" if weights is Weights.ema else "network"
    for name in ("trunk.weight", "trunk.bias", "out.weight", "out.bias"):
        assert torch.equal(now[f"network.{name}"], old[f"{source}.{name}"])
        mean = f"{source if name.startswith('trunk') else 'average'}.{name}"
        assert torch.equal(now[f"average.{name}"], old[mean]), "frozen: its own average"
    assert torch.equal(now["network.head.weight"], before["network.head.weight"])
    assert torch.equal(now["average.head.weight"], before["network.head.weight"])
    moment = "optimizer.out.weight.exp_avg"
    assert torch.equal(now[moment], (old if kept is OptimizerState.keep else before)[moment])
    assert "optimizer.trunk.weight.exp_avg" not in now
    assert torch.equal(now["optimizer.head.bias.exp_avg"], before["optimizer.head.bias.exp_avg"])


def test_a_checkpoint_is_as_good_as_its_run(parent):
    newest = parent / "checkpoints" / "step-00000007"
    assert plan(config(newest), Net(), "finetune1") == plan(config(parent), Net(), "finetune1")


@pytest.mark.parametrize("weights", list(Weights))
def test_an_exported_file_is_as_good_as_its_run(parent, tmp_path, weights):
    """With one kind of weights alone, the average starts from what there is."""
    file = tmp_path / "out.safetensors"
    export(parent, file, [weights])
    child = state(seed=2)
    reset = {"optimizer": OptimizerState.reset}
    apply(plan(config(file, weights=weights, **reset), child[0], "finetune1"), *child)
    old, now = state_tensors(*state(seed=1)), state_tensors(*child)
    for name in child[0].state_dict():
        for part in ("network.", "average."):
            assert torch.equal(now[part + name], old[weights.prefix + name])
    other = Weights.raw if weights is Weights.ema else Weights.ema
    with pytest.raises(CheckpointError, match=f"holds no {other.value} weights"):
        plan(config(file, weights=other, **reset), child[0], "finetune1")
    with pytest.raises(CheckpointError, match=r"no optimiser state.*exported file never has"):
        plan(config(file, weights=weights), child[0], "finetune1")


@pytest.mark.parametrize(
    ("network", "changes", "message"),
    [
        (Net(width=5), {}, r"another shape: trunk.weight \[3, 4\] instead of \[5, 4\]"),
        (Net(head=True), {}, r"2 missing in the parent and not declared in init_from.new: head.bias, head.w"),
        (nn.Sequential(), {}, "4 of the parent unknown to this model: out.bias"),
        (Net(), {"stage": "finetune1"}, "is of stage 'structure', expected 'finetune1'"),
        (Net(), {"path": "/nowhere"}, "got /nowhere, expected a run directory"),
    ],
)
def test_a_wrong_parent_is_refused(parent, network, changes, message):
    with pytest.raises(CheckpointError, match=message):
        plan(InitFromConfig(**({"path": str(parent), "stage": "structure"} | changes)), network, "x")


def test_moments_of_what_the_parent_had_frozen_are_missed(tmp_path):
    record = Record(step=7, seed=0, config={"stage": "structure"})
    tensors = state_tensors(*state(seed=1, frozen=["trunk"]))
    path = checkpoint.save(tmp_path, tensors, record, keep_last=1)
    with pytest.raises(CheckpointError, match=r"no optimiser state of 2 tensors .*trunk.weight.*=reset"):
        plan(config(path), Net(), "finetune1")
    assert plan(config(path, optimizer=OptimizerState.reset), Net(), "finetune1") is not None


def test_patterns_must_match_something(parent):
    with pytest.raises(ValueError, match=r"freeze: got 'trnk'.*below out, trunk"):
        freeze(Net(), ["trnk"])
    with pytest.raises(ValueError, match=r"init_from.new: got 'head'"):
        plan(config(parent, new=["head"]), Net(), "finetune1")
    assert freeze(Net(), ["*.bias"]) == ("trunk.bias", "out.bias")


def test_a_damaged_parent_is_refused(parent):
    data = parent / "checkpoints" / "step-00000007" / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:-1])
    for path in (parent, data.parent):
        with pytest.raises(CheckpointError, match="bytes instead of"):
            plan(config(path), Net(), "finetune1")


def test_a_later_stage_needs_a_parent():
    with pytest.raises(ValueError, match=r"stage=finetune1 goes on from a structure run; add init_from.path"):
        plan(InitFromConfig(stage="structure"), Net(), "finetune1")
    assert plan(InitFromConfig(), Net(), "structure") is None


def read_record(runs, name):
    return json.loads((runs.root / name / "hand_off.json").read_text())


@pytest.mark.slow
def test_structure_to_finetune1_to_finetune2(runs, uninterrupted, capsys):
    """What is said, stored and frozen; test_two_ranks.py kills and resumes every stage."""
    first = ("stage=finetune1", f"init_from.path={runs.root / uninterrupted}")
    runs.here("tuned", *first, "trainer.max_steps=2")
    said = " ".join(capsys.readouterr().out.split())
    assert "(structure, step 8)" in said
    record = read_record(runs, "tuned")
    assert record["step"] == 8
    assert set(record["tensors"].values()) == {"loaded"}
    rows = runs.metrics("tuned")
    assert "bond" in rows[0]
    assert "smooth_lddt" not in rows[0]

    last = ("stage=finetune2", f"init_from.path={runs.root / 'tuned'}", "freeze=[trunk,distogram]")
    runs.here("tuned2", *last, "trainer.max_steps=2")
    parent, child = runs.tensors("tuned"), runs.tensors("tuned2")
    frozen = [n for n in parent if n.startswith(("network.trunk.", "network.distogram."))]
    assert all(torch.equal(parent[name], child[name]) for name in frozen)
    assert all(torch.equal(child[name.replace("network.", "average.", 1)], child[name]) for name in frozen)
    trained = [n for n in parent if n.startswith("network.diffusion.transformer.blocks")]
    assert any(not torch.equal(parent[name], child[name]) for name in trained)
    assert not any(name.startswith("optimizer.trunk") for name in child)
    with pytest.raises(CheckpointError, match="is of stage 'finetune1', expected 'structure'"):
        runs.here("wrong", "stage=finetune1", f"init_from.path={runs.root / 'tuned'}")
    assert not (runs.root / "wrong").exists()
