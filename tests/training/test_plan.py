# SPDX-License-Identifier: Apache-2.0
"""The plan's constants are solved from three measured steps; it predicts a fourth, which they never saw."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foldwright.flops import StepSizes, step_flops
from foldwright.layers.stack import Recompute
from foldwright.model import AlphaFold3
from foldwright.training import kept, plan
from foldwright.training.config import ConfigError, compose_config
from foldwright.training.curriculum import Curriculum
from foldwright.training.gpus import GPUS, find_gpu
from foldwright.training.kept import kept_bytes

DATA = Path(__file__).parents[2] / "docs/benchmarks/data"
BASE = ("model=base", "data=pdb", "data.n_templates=4")
GPU, BLOCK = GPUS["H200"], Recompute.block


def measured(name):
    record = json.loads((DATA / f"step-h200-{name}.json").read_text())
    return StepSizes(**record["sizes"]), record["seconds"], record["peak_gib"]


def base(sizes, *overrides):
    config = compose_config(
        [
            *BASE,
            f"curriculum.initial.crop_tokens={sizes.tokens}",
            f"curriculum.initial.crop_atoms={sizes.atoms}",
            f"curriculum.initial.diffusion_samples={sizes.diffusion_samples}",
            f"rollout.enabled={'true' if sizes.rollout_steps else 'false'}",
            *overrides,
        ]
    )
    return config, Curriculum(config.curriculum).at(0)


def test_constants_of_time_are_solved_from_three_steps():
    model = compose_config(BASE).model
    points = [measured(name) for name in ("384-triton", "384-rollout", "768")]
    rows = [
        (
            plan.executed_flops(model, sizes, BLOCK) / (1e12 * GPU.tflops),
            plan.activation_bytes(model, sizes, BLOCK) / (1e12 * GPU.bandwidth),
            sizes.rollout_steps,
        )
        for sizes, _, _ in points
    ]
    products, traversals, sampler_step = np.linalg.solve(np.array(rows), [s for _, s, _ in points])
    assert 1 / products == pytest.approx(plan.PRODUCTS, rel=1e-3)
    assert traversals == pytest.approx(plan.TRAVERSALS, rel=1e-3)
    assert sampler_step == pytest.approx(plan.SAMPLER_STEP, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "recompute", "off"),
    [("640", BLOCK, 0.01), ("384-nothing", Recompute.nothing, 0.06), ("1024", BLOCK, 0.13)],
)
def test_the_times_of_others_are_predicted(name, recompute, off):
    sizes, seconds, _ = measured(name)
    predicted = plan.step_seconds(compose_config(BASE).model, sizes, recompute, GPU)
    assert predicted == pytest.approx(seconds, rel=off)


@pytest.mark.parametrize("name", ["384-triton", "640", "768", "1024", "2048", "384-nothing"])
def test_peak_memory_is_predicted(name):
    """768 gave, with 384-rollout, the two constants; the others did not."""
    pytest.importorskip("triton", reason="other ops keep other tensors")
    sizes, _, peak = measured(name)
    recompute = "nothing" if name == "384-nothing" else "block"
    config, phase = base(sizes, f"trainer.recompute={recompute}", f"max_cycles={sizes.cycles:g}")
    copies = kept_bytes(config, phase)["weight copies"] / 2**30
    assert 0.85 < copies / (2 * plan.n_parameters(config.model) / 2**30) < 1.0, "less norms, fused ops"
    predicted = plan.fixed_gib(config.model) + plan.activations_gib(config, phase)
    assert predicted == pytest.approx(peak, rel=0.04)


def test_recomputation_counts_every_block_once_more():
    model = compose_config(BASE).model
    sizes = StepSizes(384, 3456, 1024, 4, 48, 1, 20)
    parts = step_flops(model, sizes)
    blocks = ("template", "msa", "pairformer", "diffusion", "confidence")
    more = plan.executed_flops(model, sizes, BLOCK) - plan.executed_flops(model, sizes, Recompute.nothing)
    assert more == pytest.approx(sum(parts[name] for name in blocks) / 3)


def test_parameters_are_those_of_the_network(miniature, ops):
    network = AlphaFold3(miniature, ops)
    assert plan.n_parameters(miniature) == sum(p.numel() for p in network.parameters())


def test_days_follow_steps_and_gpus():
    sizes = StepSizes(384, 3456, 1024, 4, 48, 2.5)
    cost = plan.Cost("initial", sizes, 86_400, 1e14, 2.0, None)
    assert plan.days([cost], 256, 256) == 2.0
    assert plan.days([cost], 256, 100) == 6.0, "two GPUs in three wait for the third of three examples"
    assert plan.days([cost, cost], 1, 1) == 4.0


def test_mixtures_share_their_steps_and_stages_without_structure_are_refused(monkeypatch):
    monkeypatch.setattr(plan, "activations_gib", lambda config, phase: None)
    config = compose_config(["model=tiny", "data=pdb", "curriculum.initial.crop_tokens=64"])
    config.curriculum = {
        "a": replace(config.curriculum["initial"], until=100, crop_mixture={32: 1.0, 64: 3.0}, msa_rows=4),
        "b": replace(config.curriculum["initial"], until=150, msa_rows=4),
    }
    found = plan.costs(config, GPU)
    assert [(c.phase, c.sizes.tokens, c.steps) for c in found] == [
        ("a", 32, 25),
        ("a", 64, 75),
        ("b", 64, 50),
    ]
    with pytest.raises(ConfigError, match="stage=confidence"):
        plan.costs(compose_config(["stage=confidence", "data=pdb"]), GPU)


def test_the_command_prints_a_table(capsys):
    arguments = ["--gpu", "A100", "--gpus", "8", "model=tiny", "curriculum.initial.crop_tokens=32",
                 "curriculum.initial.msa_rows=4", "curriculum.initial.diffusion_samples=2"]  # fmt: skip
    assert plan.main(arguments) == 0
    out = capsys.readouterr().out
    assert "8 x A100: predicted" in out
    assert "78,125" in out
    assert plan.main([*arguments, "modle=base"]) == 1


def test_what_does_not_fit_is_said():
    assert plan._memory(8.0, 83.3, GPU) == "91.3"
    assert plan._memory(8.0, 166.6, GPU) == "174.6 too much"
    assert plan._memory(8.0, None, GPU) == "not counted"


def test_gpus_are_told_by_their_devices_names():
    assert find_gpu("NVIDIA GH200 480GB") is GPUS["GH200"]
    assert find_gpu("NVIDIA H20") is GPUS["H20"]
    assert find_gpu("NVIDIA H200 NVL") is GPUS["H200"]
    assert find_gpu("An unknown device") is None


def test_kept_bytes_need_no_memory(monkeypatch):
    """On the meta device the count is that of a step with real tensors on the CPU, module by module."""
    config = compose_config(["model=tiny", "data=pdb", "kernels=reference", "trainer.recompute=nothing"])
    phase = replace(
        config.curriculum["initial"], crop_tokens=16, crop_atoms=160, msa_rows=4, diffusion_samples=2
    )
    nothing = kept_bytes(config, phase)
    assert {"trunk.pairformer", "trunk.msa", "diffusion", "confidence", "losses"} <= set(nothing)
    config.trainer.recompute = Recompute.block
    block = kept_bytes(config, phase)
    assert block["trunk.pairformer"] < nothing["trunk.pairformer"] / 5
    monkeypatch.setattr(kept, "_META", torch.device("cpu"))
    assert kept_bytes(config, phase) == block


def test_what_cannot_be_counted_is_refused():
    config = compose_config(["model=tiny", "trainer.recompute=offload"])
    assert plan.activations_gib(config, config.curriculum["initial"]) is None
    with pytest.raises(ValueError, match="expected nothing or block"):
        kept_bytes(config, config.curriculum["initial"])


def test_kept_bytes_of_one_product_by_hand():
    network = torch.nn.Sequential(torch.nn.Linear(8, 4, device="meta"), torch.nn.Sigmoid())
    saved = kept._Saved(network)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda x: x):
        network(torch.empty(3, 8, device="meta"))
    found = saved.by_module([torch.empty(4, 8, device="meta", dtype=torch.bfloat16)])
    assert found == {"0": 3 * 8 * 4, "1": 3 * 4 * 4, "weight copies": 64}, "no weight, no sigmoid's input"
