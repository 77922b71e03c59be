# SPDX-License-Identifier: Apache-2.0
"""Every combination is measured at the sizes it names, lack of memory ends no sweep, and the search for the
longest crop finds it.
"""

import json

import pytest
import torch
from rich.console import Console

from foldwright.training import benchmark, sweep
from foldwright.training.config import compose_config

CPU = torch.device("cpu")
SMALL = (
    "model=tiny", "data=pdb", "data.n_templates=1", "rollout.enabled=false", "curriculum.initial.msa_rows=4",
)  # fmt: skip


def test_one_line_a_combination(tmp_path, capsys):
    path = tmp_path / "sweep.json"
    axes = ["--sweep", "crop=16,20", "cycles=1", "D=2"]
    assert benchmark.main([*SMALL, "--repeats", "1", "--json", str(path), *axes]) == 0
    lines = json.loads(path.read_text())["lines"]
    sizes = [[line["sizes"][k] for k in ("tokens", "atoms", "diffusion_samples", "cycles")] for line in lines]
    assert sizes == [[16, 160, 2, 1], [20, 192, 2, 1]], "atoms are nine a token, rounded up to windows of 32"
    assert all(line["report"]["sizes"] == line["sizes"] for line in lines)
    assert all(line["report"]["seconds"] > 0 for line in lines)
    assert "16 tokens, D 2, 1 cycles" in capsys.readouterr().out


@pytest.fixture
def up_to(monkeypatch):
    """A GPU whose memory holds crops of so many tokens; the crops that were tried."""

    def make(limit):
        tried = []

        def measured(config, device, repeats):
            phase = next(iter(config.curriculum.values()))
            tried.append((phase.crop_tokens, phase.diffusion_samples, config.max_cycles))
            if phase.crop_tokens > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            flops, busy = 2e12, 0.75
            return benchmark.StepReport(None, 1, 1.0, [1.0], 3.5, flops, 0.25, 10, busy, 1 - busy, {}, {})

        monkeypatch.setattr(sweep, "measured", measured)
        return tried

    return make


def test_a_sweep_goes_on_where_memory_ran_out(up_to):
    tried = up_to(400)
    axes = {"crop": [640, 384], "D": [8, 4]}
    lines = sweep.sweep(compose_config(SMALL), axes, CPU, Console(quiet=True), 1)
    assert tried == [(640, 8, 4), (640, 4, 4), (384, 8, 4), (384, 4, 4)]
    assert [line.report is None for line in lines] == [True, True, False, False]
    cells = [list(column.cells) for column in sweep.sweep_table(lines).columns]
    assert cells[4] == ["out of memory"] * 2 + ["1.000"] * 2
    assert cells[-1] == ["", "", "25 %", "25 %"], "the GPU waits for a quarter of the step"


@pytest.mark.parametrize("limit", [100, 128, 500, 1300, 2048])
def test_the_longest_crop_is_found(up_to, limit, capsys):
    tried = up_to(limit)
    lines = sweep.longest(compose_config(SMALL), CPU, Console(), 1)
    expected = limit // 128 * 128
    assert f"the longest crop that trains: {expected} tokens" in capsys.readouterr().out
    assert {(samples, cycles) for _, samples, cycles in tried} == {(4, 1)}
    assert max([line.sizes.tokens for line in lines if line.report], default=0) == expected
    assert len(tried) <= 10


@pytest.mark.parametrize("wrong", ["crops=384", "crop", "crop=384,big", "D=0", "model=base"])
def test_an_axis_that_is_none_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([*SMALL, "--sweep", wrong])
    assert f"got {wrong!r}, expected crop, D, cycles with sizes" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="the search runs where there is a GPU")
def test_the_search_needs_a_gpu(capsys):
    with pytest.raises(SystemExit):
        benchmark.main([*SMALL, "--longest"])
    assert "--longest searches for what a GPU's memory holds" in capsys.readouterr().err
