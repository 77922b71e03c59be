# SPDX-License-Identifier: Apache-2.0
"""The cost of a prediction against its size, on the CPU with a tiny model."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from foldwright.inference import benchmark
from foldwright.inference.benchmark import PredictionBenchmark, Request, longest, shallow
from foldwright.layers.stack import Stack
from foldwright.training.config import compose_config

ROOT = Path(__file__).parents[2]
SMALL = {"samples": 3, "cycles": 2, "steps": 4, "msa_rows": 8, "templates": 1, "at_once": 2}
FLAGS = ["--samples", "3", "--cycles", "2", "--steps", "4", "--msa-rows", "8", "--templates", "1"]


@pytest.fixture(scope="module")
def measure():
    stacks = [f"model.{part}.blocks=2" for part in ("trunk.template", "trunk.msa", "confidence.pairformer")]
    return PredictionBenchmark(compose_config(["model=tiny", *stacks]), torch.device("cpu"))


def test_phases_make_up_the_pass_and_its_parts_the_phases(measure):
    cost = measure.cost(Request(24, **SMALL))
    assert cost.failed is None
    assert set(cost.seconds) == {"trunk", "sampling", "confidence"}
    assert min(cost.seconds.values()) > 0
    assert cost.cycle_seconds == pytest.approx(cost.seconds["trunk"] / 2)
    # two portions of four steps each
    assert 0 < 8 * cost.step_seconds < cost.seconds["sampling"]
    assert cost.sampling_of(4) == cost.seconds["sampling"]
    assert cost.sampling_of(200) == pytest.approx(cost.seconds["sampling"] + 2 * 196 * cost.step_seconds)
    assert cost.reserved_gib is None


def test_what_is_slow_is_what_is_said_to_be(measure, monkeypatch):
    judge = measure.network.judge

    def slow(*arguments):
        time.sleep(0.2)
        return judge(*arguments)

    monkeypatch.setattr(measure.network, "judge", slow)
    cost = measure.cost(Request(24, **SMALL))
    assert cost.seconds["confidence"] > 3 * 0.2, "a wait for each of three samples, none of the warm-up"
    assert cost.seconds["confidence"] < 4 * 0.2


def test_the_warm_up_leaves_the_network_as_it_was(measure):
    stacks = [module for module in measure.network.modules() if isinstance(module, Stack)]
    before = [list(stack.blocks) for stack in stacks]
    assert max(len(blocks) for blocks in before) > 1
    with shallow(measure.network):
        assert all(len(stack) == 1 for stack in stacks)
    assert [list(stack.blocks) for stack in stacks] == before


def test_a_size_without_memory_is_a_line_and_the_next_is_measured(monkeypatch, capsys, tmp_path):
    represent = benchmark.AlphaFold3.represent

    def scarce(network, batch, seed):
        if batch.token_mask.shape[1] == 40:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB\nand more")
        return represent(network, batch, seed)

    monkeypatch.setattr(benchmark.AlphaFold3, "represent", scarce)
    path, picture = tmp_path / "new" / "cost.json", tmp_path / "cost.svg"
    arguments = [
        "model=tiny",
        "--tokens",
        "tokens=40,24",
        *FLAGS,
        "--json",
        str(path),
        "--plot",
        str(picture),
    ]
    assert benchmark.main(arguments) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "40 tokens" in shown[0]
    assert "Tried to allocate 7 GiB" in shown[0]
    assert shown[1].startswith("24 tokens, 224 atoms: trunk")
    failed, measured = json.loads(path.read_text())["lines"]
    assert failed["failed"] == "out of memory: CUDA out of memory. Tried to allocate 7 GiB"
    assert failed["seconds"] == {}
    assert measured["failed"] is None
    assert picture.read_text().lstrip().startswith("<?xml")


def test_the_longest_is_found_up_to_the_ceiling(measure, monkeypatch):
    tried = []

    def fits(request):
        tried.append(request.tokens)
        return request.tokens <= 1300

    monkeypatch.setattr(measure, "fits", fits)
    assert longest(measure, Request(0), 9999, Console(quiet=True)) == 1280
    assert max(tried) == 2048
    assert longest(measure, Request(0), 1100, Console(quiet=True)) == 1024
    assert longest(measure, Request(0), 255, Console(quiet=True)) == 0


def test_the_script_runs():
    command = [sys.executable, "scripts/benchmark_predict.py", "model=tiny", "--tokens", "16", *FLAGS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "16 tokens, 160 atoms" in done.stdout
