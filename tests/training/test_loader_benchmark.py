# SPDX-License-Identifier: Apache-2.0
"""The loader's benchmark on the sample: it counts what it says, and a slow loader shows as waiting."""

import json
import time

from foldwright.data.dataset import StoreDataset
from foldwright.training.config import compose_config
from foldwright.training.curriculum import PhaseConfig
from foldwright.training.datamodule import open_dataset
from foldwright.training.loader_benchmark import example_costs, main, measure_wait

SMALL = ["data=sample", "curriculum.initial.crop_tokens=32", "curriculum.initial.crop_atoms=320"]


def test_costs_name_their_entries_and_bytes():
    dataset = open_dataset(compose_config(SMALL).data, 0)
    phase = PhaseConfig(crop_tokens=32, crop_atoms=320, msa_rows=16)
    costs = example_costs(dataset, phase, 2, range(6))
    assert len(costs.milliseconds) == 6
    assert costs.entries == [dataset.parts["pdb"].sampler.draw(n).entry for n in range(6)]
    assert costs.quantile(0.0) > 0
    msa = 2 * 2 * 16 * 32  # rows and deletions of two cycles
    assert 2 * msa < costs.batch_bytes < 1_500_000


def test_a_slow_loader_shows_as_waiting(monkeypatch):
    config = compose_config([*SMALL, "loader.workers=0"])
    dataset = open_dataset(config.data, 0)
    fast = measure_wait(dataset, config, 0, rate=10, n_examples=4)
    sound = StoreDataset.__getitem__

    def slow(self, request):
        time.sleep(0.1)
        return sound(self, request)

    monkeypatch.setattr(StoreDataset, "__getitem__", slow)
    found = measure_wait(dataset, config, 0, rate=10, n_examples=4)
    assert fast.waited_share < 0.4
    assert 0.45 < found.waited_share < 0.8


def test_the_command_writes_table_figures_and_plot(tmp_path, capsys):
    out = [f"--json={tmp_path / 'figures.json'}", f"--plot={tmp_path / 'plot.png'}"]
    assert main(["--examples", "4", "--rate", "50", *out, *SMALL, "loader.workers=1"]) == 0
    assert "MB an example from a worker" in capsys.readouterr().out
    record = json.loads((tmp_path / "figures.json").read_text())
    assert len(record["costs"]["milliseconds"]) == 4
    assert record["wait"]["worker_rss_mb"] > 50
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert main(["data=pdb"]) == 1
