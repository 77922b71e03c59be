# SPDX-License-Identifier: Apache-2.0
"""Phases: order, edges, and what cannot be a plan."""

import pytest
from rich.console import Console

from foldwright.training.curriculum import Curriculum, PhaseConfig


def shares(overrides):
    return {"pdb": 0.75, "other": 0.25} if overrides else {"pdb": 1.0}


def test_phases_are_ordered_by_their_ends_and_switch_at_them():
    late, early = PhaseConfig(until=20, crop_tokens=640), PhaseConfig(until=5)
    curriculum = Curriculum({"late": late, "early": early})
    assert curriculum.steps == 20
    assert [curriculum.at(step) is early for step in (0, 4, 5, 19, 20)] == [True, True, False, False, False]


def test_table_is_cut_at_the_last_step():
    curriculum = Curriculum({"a": PhaseConfig(until=5), "b": PhaseConfig(until=20, crop_tokens=640)})
    console = Console(record=True, width=100)
    console.print(curriculum.table(max_steps=8, global_batch=4, shares=shares))
    said = console.export_text()
    assert "0-4" in said
    assert "5-7" in said
    assert "640" in said
    assert curriculum.table(max_steps=3, global_batch=4, shares=shares).row_count == 1


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ({}, "got no phase"),
        ({"a": PhaseConfig(until=5), "b": PhaseConfig(until=5)}, "different ends"),
        ({"a": PhaseConfig(crop_tokens=0)}, "curriculum.a.crop_tokens: got 0"),
        (
            {"a": PhaseConfig(crop_atoms=100)},
            "curriculum.a.crop_atoms: got 100, expected a multiple of 32; take 128",
        ),
    ],
)
def test_what_cannot_be_a_plan_is_refused(phases, message):
    with pytest.raises(ValueError, match=message):
        Curriculum(phases)


def test_the_plan_shows_the_shares_of_every_phase():
    curriculum = Curriculum(
        {"a": PhaseConfig(until=5), "b": PhaseConfig(until=20, dataset_weights={"pdb": 3.0})}
    )
    console = Console(record=True, width=140)
    console.print(curriculum.table(20, 4, shares))
    said = console.export_text()
    assert "pdb 100.0 %" in said
    assert "pdb 75.0 %, other 25.0 %" in said
