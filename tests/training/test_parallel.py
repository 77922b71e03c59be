# SPDX-License-Identifier: Apache-2.0
"""Many processes compute what one computes, and read each other's checkpoints."""

import subprocess
import sys

import pytest
import torch
from forked import TRAIN

import foldwright.layers.linear
from foldwright.training.parallel import Accelerator, Layout, Sharding, TrainerConfig, resolve


def four(runs):
    """Name of a run of four steps of four examples on one process."""
    if not runs.checkpoints("four"):
        runs.here("four", "global_batch=4", "trainer.max_steps=4")
    return "four"


@pytest.mark.slow
def test_hsdp_on_four_goes_on_on_one_and_then_sharded_over_two(runs):
    """Clipping is on (gradient norms are above `optimizer.clip_norm`); one example a process, then four, with
    recomputed blocks, then two.
    """
    groups = ("trainer.sharding=hsdp", "trainer.shard_size=2")
    assert "4 x CPU (hsdp of 2" in runs.on(4, "hsdp", *groups, "global_batch=4", "trainer.max_steps=2")
    wrote = {path.name[:4] for path in runs.checkpoints("hsdp")[-1].glob("*.distcp")}
    assert len(wrote) >= 2, "only one rank wrote: nothing was sharded"
    extra = ("global_batch=4", "trainer.recompute=block")
    runs.here("hsdp", "trainer.max_steps=3", *extra)
    output = runs.on(2, "hsdp", "trainer.sharding=fsdp", "trainer.max_steps=4", *extra)
    assert "2 x CPU (fsdp" in output
    assert "resuming at step 3" in output
    assert str(runs.root / "hsdp" / "prediction.cif") in output
    runs.assert_close(runs.metrics("hsdp"), runs.metrics(four(runs)))
    assert (runs.checkpoints("hsdp")[-1] / "__1_0.distcp").exists()


@pytest.mark.slow
def test_tensor_parallel_with_fsdp_on_four_equals_one(runs):
    """Two pairs, each working on an example together."""
    extra = ("trainer.sharding=fsdp", "global_batch=4")
    output = runs.on(4, "tensors", "trainer.tensor_parallel=2", "trainer.max_steps=2", *extra)
    assert "4 x CPU (fsdp, tensors over 2" in output
    runs.assert_close(runs.metrics("tensors"), runs.metrics(four(runs))[:2])


@pytest.mark.slow
def test_blocks_gather_bfloat16_and_lose_nothing(runs, monkeypatch):
    """One process, sharded and not, so that no sum over ranks differs: every loss must agree to the bit."""
    bfloat16 = ("model.trunk_dtype=bfloat16", "model.diffusion_dtype=bfloat16", "trainer.max_steps=2")
    runs.here("bfloat16", *bfloat16)
    seen = set()
    sound = foldwright.layers.linear.linear

    def watching(x, weight, bias=None):
        seen.add((type(weight), weight.dtype, x.dtype))
        return sound(x, weight, bias)

    monkeypatch.setattr(foldwright.layers.linear, "linear", watching)
    runs.here("bfloat16_sharded", "trainer.sharding=fsdp", *bfloat16)
    assert (torch.nn.Parameter, torch.bfloat16, torch.bfloat16) in seen
    torch.distributed.destroy_process_group()
    for row, expected in zip(runs.metrics("bfloat16_sharded"), runs.metrics("bfloat16"), strict=True):
        assert row.pop("grad_norm") == pytest.approx(expected.pop("grad_norm"), rel=1e-6)
        assert row == expected
    stored = runs.tensors("bfloat16_sharded").items()
    assert all(tensor.dtype == torch.float32 for name, tensor in stored), "the masters were not float32"


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
POISON = """
import foldwright.training.step as step

sound_loss = step.structure_loss


def poisoned_loss(x_denoised, distogram_logits, noised, batch, config, ops):
    terms = sound_loss(x_denoised, distogram_logits, noised, batch, config, ops)
    if 3 in batch.sample_number:
        terms["loss"] = terms["loss"] * float("nan")
    return terms


step.structure_loss = poisoned_loss
from foldwright.training.cli import main

main()
"""


@pytest.mark.slow
def test_a_step_bad_on_one_rank_is_skipped_by_all(runs):
    script = runs.root / "poisoned.py"
    script.write_text(POISON)
    one = runs.start("one", "trainer.max_steps=4", script=script)
    said = [one.wait(timeout=100), runs.on(2, "ddp", "trainer.max_steps=4", script=script)]
    assert all("step 2 skipped" in output for output in said)
    rows = [runs.metrics(name) for name in ("one", "ddp")]
    assert [[row["skipped"] for row in run] for run in rows] == [[0, 1, 0, 0]] * 2
    runs.assert_close(*([row for row in run if not row["skipped"]] for run in rows))


@pytest.mark.thorough
def test_torchrun_starts_the_same_ranks(runs, uninterrupted):
    overrides = runs.overrides("torchrun", "trainer.max_steps=2")
    done = subprocess.run(
        [*TORCHRUN, str(TRAIN), *overrides], cwd=runs.root, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
    runs.assert_close(runs.metrics("torchrun"), runs.metrics(uninterrupted)[:2])


def test_resolve_on_a_machine_without_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve(TrainerConfig()) == Layout("cpu", 1, 1, Sharding.single)
    assert resolve(TrainerConfig(devices=2)) == Layout("cpu", 2, 1, Sharding.ddp)
    with pytest.raises(ValueError, match=r"trainer.accelerator: got gpu"):
        resolve(TrainerConfig(accelerator=Accelerator.gpu))
    with pytest.raises(ValueError, match="single for 2 processes"):
        resolve(TrainerConfig(devices=2, sharding=Sharding.single))
    with pytest.raises(ValueError, match=r"trainer.tensor_parallel: got 2, expected a divisor of the 1 dev"):
        resolve(TrainerConfig(tensor_parallel=2))
    with pytest.raises(ValueError, match=r"trainer.shard_size: got 2 with trainer.sharding=fsdp"):
        resolve(TrainerConfig(devices=2, sharding=Sharding.fsdp, shard_size=2))
    with pytest.raises(ValueError, match=r"trainer.shard_size: got 3 for 4 processes"):
        resolve(TrainerConfig(devices=4, sharding=Sharding.hsdp, shard_size=3))
    with pytest.raises(ValueError, match=r"trainer.shard_size: got 4 for 4 processes"):
        resolve(TrainerConfig(devices=4, sharding=Sharding.hsdp))


def test_resolve_on_a_machine_with_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    assert resolve(TrainerConfig(num_nodes=2)) == Layout("cuda", 8, 2, Sharding.ddp)
    assert resolve(TrainerConfig(num_nodes=2, sharding=Sharding.hsdp)).shard_size == 8
    assert resolve(TrainerConfig(num_nodes=2, sharding=Sharding.fsdp)).shard_size == 16
    assert resolve(TrainerConfig(accelerator=Accelerator.cpu)).device_type == "cpu"
    with pytest.raises(ValueError, match=r"trainer.devices: got 9"):
        resolve(TrainerConfig(devices=9))


def test_resolve_takes_the_processes_that_torchrun_started(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "2"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert resolve(TrainerConfig(num_nodes=2)) == Layout("cuda", 2, 2, Sharding.ddp)
    with pytest.raises(ValueError, match=r"got 2 on each of 1, .* expected trainer.devices=2 trainer.num_no"):
        resolve(TrainerConfig())
    with pytest.raises(ValueError, match=r"got 8 on each of 2, but torchrun started 2 .* 4 in all"):
        resolve(TrainerConfig(devices=8, num_nodes=2))


def test_accumulation_is_what_the_processes_leave():
    layout = Layout("cuda", 8, 4, Sharding.ddp)
    assert layout.accumulation(global_batch=256, batch_per_device=1) == 8
    assert Layout("cuda", 8, 4, Sharding.ddp, 1, 2).accumulation(global_batch=256, batch_per_device=1) == 16
    with pytest.raises(ValueError, match="take global_batch=128"):
        layout.accumulation(global_batch=100, batch_per_device=2)
