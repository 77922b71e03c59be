# SPDX-License-Identifier: Apache-2.0
"""From structure through confidence to affinity on the built-in sample, killed and resumed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from foldwright.data.sample import affinity_store_path
from foldwright.data.store import Store
from foldwright.inference import predict
from foldwright.kernels.registry import KernelConfig, select
from foldwright.training import affinity_features
from foldwright.training.affinity_features import make_pockets
from foldwright.training.affinity_objective import open_cache
from foldwright.training.checkpoint import digest
from foldwright.training.config import ConfigError, compose_config
from foldwright.training.pockets import make_pocket
from foldwright.training.weights import load_network

STEPS = 6
QUIET = Console(quiet=True)
SMALL_POSES = (
    "affinity.pose.samples=2",
    "affinity.pose.cycles=1",
    "affinity.pose.sampler.steps=2",
    "affinity.pose.pocket.tokens=48",
    "affinity.pose.pocket.protein_tokens=20",
)


@pytest.fixture(scope="module")
def confidence(runs):
    """A confidence run of one step after a structure run of one."""
    runs.here("structure0", "trainer.max_steps=1")
    parent = f"init_from.path={runs.root / 'structure0'}"
    runs.here("confidence0", "stage=confidence", "init_from.stage=structure", parent, "trainer.max_steps=1")
    return runs.root / "confidence0"


@pytest.fixture(scope="module")
def settings(runs, confidence):
    """Overrides of the affinity run, with its pockets made."""
    extra = (
        "stage=affinity",
        "data=affinity_sample",
        f"init_from.path={confidence}",
        f"affinity.cache={runs.root / 'pockets'}",
        "validation.every_steps=3",
        "schedule.warmup_steps=0",
        "affinity.groups.size=3",
        *SMALL_POSES,
    )
    config = compose_config(runs.overrides("features", *extra))
    assert make_pockets(config, QUIET) == 10
    assert make_pockets(config, QUIET) == 0, "what is there is not made again"
    return extra


@pytest.fixture(scope="module")
def straight(runs, settings):
    runs.here("affinity0", *settings, f"trainer.max_steps={STEPS}")
    return "affinity0"


@pytest.mark.slow
def test_only_the_head_learns(runs, confidence, straight):
    parent, child = runs.tensors(confidence.name), runs.tensors(straight)
    for name, tensor in child.items():
        if name.startswith(("network.", "average.")) and ".affinity." not in name:
            assert torch.equal(tensor, parent[name.replace("network.", "average.", 1)]), f"{name} was frozen"
    moved = [name for name, tensor in child.items() if name.endswith("exp_avg") and tensor.any()]
    assert moved
    assert all(name.startswith("optimizer.affinity.") for name in moved)
    rows = runs.metrics(straight)
    assert {"pairwise", "absolute", "binder"} <= rows[0].keys()
    assert np.mean([row["loss"] for row in rows[-2:]]) < rows[0]["loss"]


@pytest.mark.thorough
def test_a_killed_run_resumes_bitwise(runs, settings, straight):
    process = runs.start("killed_affinity", *settings, "trainer.max_steps=40")
    runs.wait_for_step(process, "killed_affinity", 4)
    runs.kill(process)
    assert runs.checkpoints("killed_affinity")[0].name == "step-00000000"
    for later in runs.checkpoints("killed_affinity"):
        if int(later.name[-8:]) > 3:  # so that the leg below has something left to do
            shutil.rmtree(later)
    runs.here("killed_affinity", *settings, f"trainer.max_steps={STEPS}")
    assert runs.metrics("killed_affinity")[:STEPS] == runs.metrics(straight)
    runs.assert_same_weights("killed_affinity", straight)


@pytest.mark.slow
def test_validation_has_the_baselines_beside_the_model(runs, straight):
    header, *lines = (runs.root / straight / "validation.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    assert [row["step"] for row in rows] == ["0", "3", "6"]
    for name in ("model", "weight", "neighbour"):
        for figure in ("pearson", "spearman", "kendall", "mae", "mae_centred"):
            assert np.isfinite(float(rows[0][f"{name}/{figure}"]))
    assert rows[0]["weight/mae"] == rows[-1]["weight/mae"]
    assert rows[0]["model/mae"] != rows[-1]["model/mae"]


@pytest.mark.slow
def test_a_pocket_recomputed_is_the_pocket_cached(runs, settings, confidence):
    config = compose_config(runs.overrides("again", *settings))
    parent = sorted((confidence / "checkpoints").glob("step-*"))[-1]
    name = "trypsin:FBA/LIG"
    store = Store(affinity_store_path())
    cached = open_cache(config, digest(parent), store).read(name)
    trunk = replace(config.model, affinity=replace(config.model.affinity, enabled=False))
    ops = select(KernelConfig(), "cpu")
    network = load_network(parent, config.init_from.weights, trunk, ops)
    made = make_pocket(network, store, name, config.affinity.pose, 0, torch.device("cpu"))
    for field, value in vars(made).items():
        assert np.array_equal(value, getattr(cached, field)), field
    assert cached.is_ligand.sum() == 9, "4-fluorobenzylamine has nine heavy atoms"
    assert len(cached.x) <= 9 + 20
    assert cached.z.shape == (len(cached.x), len(cached.x), 32)


@pytest.mark.thorough
def test_recomputing_trains_like_the_cache(runs, settings, straight):
    runs.here("recomputed", *settings, "affinity.features=recompute", "trainer.max_steps=1")
    assert runs.metrics("recomputed")[0] == runs.metrics(straight)[0]


@pytest.mark.slow
def test_a_cache_that_lacks_pockets_is_refused(runs, settings):
    with pytest.raises(ConfigError, match=r"lacks the pockets of 10 complexes .* affinity_features\.py"):
        runs.here("lacking", *settings, "affinity.pose.cycles=2")


@pytest.mark.slow
def test_the_trained_head_predicts_for_a_new_ligand(runs, straight, tmp_path):
    (tmp_path / "bound.fasta").write_text(">A|protein\nMKTAYIAKQRQISFVKSHFSRQLE\n>L|smiles\nNCc1ccc(F)cc1\n")
    options = ["--samples=1", "--cycles=1", "--steps=2", "--device=cpu", f"--out={tmp_path / 'out'}"]
    assert (
        predict.main([str(tmp_path / "bound.fasta"), f"--checkpoint={runs.root / straight}", *options]) == 0
    )
    scores = json.loads((tmp_path / "out" / "bound" / "seed-1_sample-0.json").read_text())
    affinity = scores["affinity"]["L"]
    assert np.isfinite(affinity["members_log10_k_um"]).all()
    assert 0 < affinity["probability_binder"] < 1
    record = json.loads((tmp_path / "out" / "bound" / "done.json").read_text())
    assert (record["stage"], record["sampling"]["pocket"]["protein_tokens"]) == ("affinity", 20)


def test_help_and_a_typo_of_the_features_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        affinity_features.main(["--help"])
    assert "init_from.path=RUN" in capsys.readouterr().out
    assert affinity_features.main(["stage=affinty"]) == 1
    assert "affinity" in capsys.readouterr().err
