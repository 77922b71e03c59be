# SPDX-License-Identifier: Apache-2.0
"""The ablation adds one group of ops a line, each line runs what it says, and ratios are to the first."""

import json

import pytest
import torch

from foldwright.kernels import registry
from foldwright.kernels.registry import OP_NAMES, Implementation, implementations
from foldwright.training import ablation, benchmark
from foldwright.training.config import compose_config

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SMALL = (
    "model=tiny", "data=pdb", "data.n_templates=1", "max_cycles=1", "rollout.enabled=false",
    "curriculum.initial.crop_tokens=16", "curriculum.initial.crop_atoms=160",
    "curriculum.initial.msa_rows=4", "curriculum.initial.diffusion_samples=2",
)  # fmt: skip


@pytest.fixture
def own_swiglu(monkeypatch):
    """An implementation of one op that runs on the CPU and counts its calls."""
    calls = []
    reference = next(e.function for e in implementations("swiglu") if e.name == "reference")

    def own(h):
        calls.append(h.shape)
        return reference(h)

    entries = [*registry._REGISTRY["swiglu"], Implementation("swiglu", "own", own, lambda device: None, 9)]
    monkeypatch.setitem(registry._REGISTRY, "swiglu", entries)
    return calls


def test_every_op_is_in_one_group():
    assert sorted(op for group in ablation.GROUPS.values() for op in group) == sorted(OP_NAMES)


def test_lines_go_from_plain_pytorch_to_the_whole():
    pytest.importorskip("triton", reason="has the kernels of most groups")
    config = compose_config(SMALL)
    lines = dict(ablation.variants(config, GPU))
    names = list(lines)
    assert names[0] == "plain PyTorch"
    assert names[1:9] == [f"+ {name}" for name in list(ablation.GROUPS)[:8]]
    assert names[-1] == "+ CUDA graphs"
    assert [line.trainer.graphs for line in lines.values()] == [False] * (len(lines) - 1) + [True]
    first, last = (
        registry.choices(registry.select(lines[name].kernels, GPU)) for name in (names[0], names[-1])
    )
    assert set(first.values()) == {"reference"}
    assert last == registry.choices(registry.select(registry.KernelConfig(), GPU))


def test_a_line_runs_what_it_says(own_swiglu, tmp_path, capsys):
    path = tmp_path / "ablation.json"
    assert benchmark.main(["--ablation", "--repeats", "1", "--json", str(path), *SMALL]) == 0
    lines = json.loads(path.read_text())["lines"]
    assert [line["name"] for line in lines] == ["plain PyTorch", "+ gates"]
    assert [line["report"]["kernels"]["swiglu"] for line in lines] == ["reference", "own"]
    assert own_swiglu
    assert lines[0]["faster"] == 1.0
    seconds = [line["report"]["seconds"] for line in lines]
    assert lines[1]["faster"] == pytest.approx(seconds[0] / seconds[1])
    assert lines[1]["leaner"] is lines[1]["report"]["peak_gib"] is None, "memory is measured on GPUs alone"
    assert "+ gates" in capsys.readouterr().out


def test_a_whole_step_is_timed_and_taken_apart(tmp_path):
    path = tmp_path / "step.json"
    assert benchmark.main(["--repeats", "2", "--json", str(path), *SMALL]) == 0
    record = json.loads(path.read_text())
    assert len(record["seconds_all"]) == 2
    parts = record["breakdown"]
    assert sum(parts[name] for name in ("forward and losses", "backward", "optimiser")) <= parts["step"]
    assert parts["trunk.pairformer"] < parts["forward and losses"]
