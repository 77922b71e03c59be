# SPDX-License-Identifier: Apache-2.0
"""Every stage on two gloo processes: trained, validated, killed, resumed, handed over to the next, and equal,
bit by bit, to the same stages never disturbed.
"""

import csv
import shutil
from itertools import pairwise

import pytest
from rich.console import Console

from foldwright.training.affinity_features import make_pockets
from foldwright.training.config import compose_config

STAGES = ("structure", "finetune1", "finetune2", "confidence", "affinity")
STEPS = 4
SHORT = (
    "checkpoint.every_steps=2",
    "validation.entries=[1as5]",
    "validation.every_steps=100",
    "validation.sampler.steps=2",
    "schedule.warmup_steps=0",
    "schedule.lr=1e-3",
    "loader.workers=0",
)
AFFINITY = (
    "data=affinity_sample",
    "affinity.pose.samples=1",
    "affinity.pose.cycles=1",
    "affinity.pose.sampler.steps=2",
    "affinity.pose.pocket.tokens=48",
    "affinity.pose.pocket.protein_tokens=20",
    "affinity.groups.size=3",
)

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600)]


def stage_overrides(runs, chain, stage, parent):
    given = [f"stage={stage}", *SHORT]
    if parent:
        given.append(f"init_from.path={runs.root / chain / parent}")
    if stage == "affinity":
        given = [*(setting for setting in given if "validation.entries" not in setting), *AFFINITY]
        given += [f"affinity.cache={runs.root / chain / 'pockets'}"]
    return given


def train_chain(runs, chain, disturbed):
    for parent, stage in pairwise((None, *STAGES)):
        name = f"{chain}/{stage}"
        given = stage_overrides(runs, chain, stage, parent)
        if stage == "affinity":
            make_pockets(compose_config(runs.overrides(name, *given)), Console(quiet=True))
        if disturbed:
            ranks = runs.start_ranks(2, name, *given, "trainer.max_steps=60")
            runs.wait_for_step(ranks[0], name, 3)
            runs.kill(*ranks)
            for later in runs.checkpoints(name):
                if int(later.name[-8:]) > 2:  # so that something is left to do
                    shutil.rmtree(later)
        runs.on(2, name, *given, f"trainer.max_steps={STEPS}")


def test_all_stages_killed_and_resumed_equal_all_stages_undisturbed(runs):
    train_chain(runs, "undisturbed", disturbed=False)
    train_chain(runs, "disturbed", disturbed=True)
    for stage in STAGES:
        one, other = f"undisturbed/{stage}", f"disturbed/{stage}"
        assert len(runs.metrics(one)) == STEPS
        assert runs.metrics(other) == runs.metrics(one), stage
        runs.assert_same_weights(other, one)
        tables = []
        for name in (one, other):
            with (runs.root / name / "validation.csv").open() as file:
                tables.append(
                    [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
                )
        assert tables[0] == tables[1], stage
        assert [row["step"] for row in tables[0]] == ["0", "4"]
