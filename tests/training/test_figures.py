# SPDX-License-Identifier: Apache-2.0
"""What a run says about itself: noise levels, modules, data sets, phases, the device's use, W&B, a trace."""

import csv
import json
import math
import time

import pytest

from foldwright.data.dataset import StoreDataset
from foldwright.flops import StepSizes, step_flops
from foldwright.losses.noise_levels import BANDS
from foldwright.training.config import compose_config
from foldwright.training.curriculum import Curriculum
from foldwright.training.figures import model_flops, module_of
from foldwright.training.gpus import peak_flops

TWO_SETS = (
    "+data.datasets.other.root=built-in sample",
    "+data.datasets.other.weight=2.0",
    "trainer.batch_per_device=2",
)


@pytest.fixture(scope="module")
def watched(runs):
    """A run of four steps with everything written, and the data set that each example came from."""
    drawn, sound = [], StoreDataset._build

    def watching(self, part, draw, request, attempt):
        drawn.append("other" if part.config.weight == 2.0 else "pdb")
        return sound(self, part, draw, request, attempt)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreDataset, "_build", watching)
        runs.here(
            "watched",
            *TWO_SETS,
            "curriculum.initial.until=3",
            "+curriculum.last.until=4",
            "+curriculum.last.crop_tokens=40",
            "+curriculum.last.msa_rows=8",
            "+curriculum.last.diffusion_samples=2",
            "loader.workers=0",
            "logger.gradient_norms_every=2",
            "profile.first=1",
            "profile.steps=1",
        )
    return drawn


@pytest.mark.slow
def test_every_noise_level_has_its_loss(runs, watched):
    for row in runs.metrics("watched"):
        levels = [value for name, value in row.items() if name.startswith("weighted_mse/")]
        assert len(levels) == len(BANDS)
        found = [value for value in levels if value is not None]
        assert found
        assert min(found) <= row["weighted_mse"] <= max(found), "a mean lies among those of its parts"


@pytest.mark.slow
def test_norms_of_the_modules_make_up_the_whole(runs, watched):
    with (runs.root / "watched" / "gradient_norms.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("step") for row in rows] == ["2", "4"]
    assert {"gradient_norm/trunk.msa", "gradient_norm/diffusion", "gradient_norm/confidence"} <= set(rows[0])
    for row, whole in zip(rows, runs.metrics("watched")[1::2], strict=True):
        assert math.sqrt(sum(float(norm) ** 2 for norm in row.values())) == pytest.approx(whole["grad_norm"])


@pytest.mark.slow
def test_shares_are_of_what_was_drawn(runs, watched):
    rows = runs.metrics("watched")
    for step, row in enumerate(rows):
        of_step = watched[2 * step : 2 * step + 2]
        assert row["share/other"] == of_step.count("other") / 2
        assert row["share/pdb"] == of_step.count("pdb") / 2
    assert 0 < sum(row["share/other"] for row in rows) < 4
    assert [(row["phase"], row["crop_tokens"]) for row in rows] == [(0, 32)] * 3 + [(1, 40)]


@pytest.mark.slow
def test_the_trace_holds_the_operations_of_the_profiled_step(runs, watched):
    events = json.loads((runs.root / "watched" / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events]
    assert "aten::mm" in names
    assert sum(name.startswith("Optimizer.step") for name in names) == 1


@pytest.mark.slow
def test_weights_and_biases_gets_the_figures_without_a_network(runs):
    wandb = pytest.importorskip("wandb")
    try:
        wandb.init(mode="offline", dir=runs.root / "probe").finish()
    except wandb.Error as error:
        pytest.skip(f"wandb cannot start: {error}")
    extra = ("logger=wandb", "logger.wandb_offline=true", "logger.gradient_norms_every=1")
    runs.here("wandb", *extra, "trainer.max_steps=2")
    wandb.finish()  # what a process does at its end
    run_id = (runs.root / "wandb" / "wandb_id").read_text()
    files = list((runs.root / "wandb" / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))
    assert len(files) == 1
    wanted = {
        b"grad_norm",
        b"weighted_mse/3-8 A",
        b"gradient_norm/diffusion",
        b"loader_wait",
        b"crop_tokens",
    }
    end = time.monotonic() + 60  # a process of W&B's own writes the file
    while (
        missing := {name for name in wanted if name not in files[0].read_bytes()}
    ) and time.monotonic() < end:
        time.sleep(0.2)
    assert not missing


def test_flops_are_those_of_the_global_batch_where_the_structure_is_learnt():
    config = compose_config(["model=base", "data=pdb", "global_batch=8"])
    phase = Curriculum(config.curriculum).at(0)
    one = step_flops(config.model, StepSizes(384, 3456, 1024, 4, 48, 2.0, 20))["total"]
    assert model_flops(config, phase, 2.0) == 8 * one
    assert model_flops(compose_config(["stage=confidence"]), phase, 2.0) is None


def test_peaks_are_told_by_name():
    assert peak_flops("NVIDIA H200") == peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("An unknown device") is None


def test_modules_are_parts_of_the_trunk_or_whole():
    assert module_of("trunk.msa.blocks.0.weight") == "trunk.msa"
    assert module_of("diffusion.encoder.weight") == "diffusion"
