# SPDX-License-Identifier: Apache-2.0
"""From structure to confidence on the built-in sample: what is frozen stays, what is trained learns."""

import math

import pytest
import torch

CONFIDENT = ("data.datasets.pdb.entries=[1ubi,1a7g,4zhl]", "rollout.sampler.steps=2", "global_batch=2")


@pytest.fixture(scope="module")
def structure(runs):
    extra = ("trainer.max_steps=20", "validation.entries=[5pti]", "validation.every_steps=10")
    runs.here("structure", *CONFIDENT, *extra, "validation.sampler.steps=5")
    return "structure"


def confidence_of(runs, parent):
    return (
        *CONFIDENT,
        "stage=confidence",
        "init_from.stage=structure",
        f"init_from.path={runs.root / parent}",
        "losses.confidence=1.0",
        "schedule.warmup_steps=5",
    )


@pytest.mark.slow
def test_structure_then_confidence(runs, structure, capsys):
    """The heads learn in both stages, their aligned error in the last alone; nothing else moves there."""
    rows = runs.metrics(structure)
    assert rows[0]["plddt"] > 0
    parent = runs.tensors(structure)
    assert not parent["network.confidence.pae.weight"].any(), "PAE has weight zero until its stage"
    assert parent["network.confidence.pde.weight"].any()
    runs.here(
        "confidence",
        *confidence_of(runs, structure),
        "trainer.max_steps=20",
        "validation.entries=[5pti]",
        "validation.every_steps=20",
        "validation.sampler.steps=5",
    )
    assert "structure, step 20" in " ".join(capsys.readouterr().out.split())
    rows, child = runs.metrics("confidence"), runs.tensors("confidence")
    assert "mse" not in rows[0]
    assert rows[0]["pae"] == pytest.approx(math.log(64), rel=1e-3)
    assert sum(row["pae"] for row in rows[-5:]) / 5 < 0.9 * math.log(64)
    for name, tensor in child.items():
        if name.startswith(("network.", "average.")) and ".confidence." not in name:
            source = name.replace("network.", "average.", 1)
            assert torch.equal(tensor, parent[source]), f"{name} was frozen"
    assert child["network.confidence.pae.weight"].any()
    assert {name.split(".")[1] for name in child if name.startswith("optimizer.")} == {"confidence"}


@pytest.mark.thorough
def test_two_sharded_ranks_hand_over_and_train_what_one_does(runs, structure):
    extra = (*confidence_of(runs, structure), "trainer.max_steps=2")
    runs.here("confidence1", *extra)
    runs.on(2, "confidence2", "trainer.sharding=fsdp", *extra)
    for row, other in zip(runs.metrics("confidence2"), runs.metrics("confidence1"), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


@pytest.mark.slow
def test_without_the_rollout_the_head_is_frozen_and_the_deviation_said(runs, capsys):
    runs.here("bare", "rollout.enabled=false", "trainer.max_steps=2")
    said = " ".join(capsys.readouterr().out.split())
    assert "off, which deviates from AF3" in said
    assert "plddt" not in runs.metrics("bare")[0]
    assert not any(name.startswith("optimizer.confidence") for name in runs.tensors("bare"))
