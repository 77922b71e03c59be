# SPDX-License-Identifier: Apache-2.0
"""Phases: order, edges, and what cannot be a plan."""

from collections import Counter

import pytest
from rich.console import Console

from foldwright.data.crop import CropMixture
from foldwright.training.curriculum import Curriculum, PhaseConfig, crop_shares
from foldwright.training.datamodule import padding_buckets


def shares(overrides):
    return {"pdb": 0.75, "other": 0.25} if overrides else {"pdb": 1.0}


def test_phases_are_ordered_by_their_ends_and_switch_at_them():
    late, early = PhaseConfig(until=20, crop_tokens=640), PhaseConfig(until=5)
    curriculum = Curriculum({"late": late, "early": early})
    assert curriculum.steps == 20
    assert [curriculum.at(step).crop_tokens for step in (0, 4, 5, 19, 20)] == [384, 384, 640, 640, 640]
    assert [curriculum.name_at(step) for step in (4, 5, 20)] == ["early", "late", "late"]
    assert [curriculum.number_at(step) for step in (4, 5, 20)] == [0, 1, 1]


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
        ({"a": PhaseConfig(lr_factor=-1.0)}, "curriculum.a.lr_factor: got -1.0"),
        ({"a": PhaseConfig(crop_mixture={256: -1.0, 384: 2.0})}, "curriculum.a.crop_mixture"),
        ({"a": PhaseConfig(crop_mixture={0: 1.0})}, "curriculum.a.crop_mixture"),
        ({"a": PhaseConfig(dataset_crops={"pdb": CropMixture(0.0, 0.0, 0.0)})}, "dataset_crops.pdb"),
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


def test_a_mixture_is_drawn_by_seed_and_step_in_its_proportions():
    phases = {"a": PhaseConfig(until=4000, crop_mixture={384: 1.0, 256: 3.0})}
    one, again, other = Curriculum(phases, 7), Curriculum(phases, 7), Curriculum(phases, 8)
    drawn = [one.at(step).crop_tokens for step in range(2000)]
    assert [again.at(step).crop_tokens for step in reversed(range(2000))][::-1] == drawn
    assert [other.at(step).crop_tokens for step in range(2000)] != drawn
    counts = Counter(drawn)
    assert set(counts) == {256, 384}
    assert counts[256] == pytest.approx(1500, abs=80), "four standard deviations of 2000 draws at 3 : 1"
    assert crop_shares(phases["a"]) == {256: 0.75, 384: 0.25}


def test_atoms_follow_the_drawn_crop_unless_given():
    phase = PhaseConfig(crop_mixture={256: 1.0, 100: 1.0})
    sizes = {p.crop_tokens: p.crop_atoms for p in Curriculum({"a": phase}).sizes()}
    assert sizes == {100: 928, 256: 2304}, "nine a token, in whole windows of 32"
    given = PhaseConfig(crop_mixture={256: 1.0, 100: 1.0}, crop_atoms=1024)
    assert {p.crop_atoms for p in Curriculum({"a": given}).sizes()} == {1024}
    assert Curriculum({"a": PhaseConfig()}).at(0).crop_atoms == 3456


def test_batches_are_padded_to_what_a_mixture_may_draw():
    curriculum = Curriculum(
        {
            "a": PhaseConfig(until=1, crop_mixture={256: 0.5, 384: 0.5}),
            "b": PhaseConfig(until=2, crop_tokens=128),
        }
    )
    assert padding_buckets(curriculum, 4)["N"] == (128, 256, 384)
    assert padding_buckets(curriculum, 4)["A"] == (1152, 2304, 3456)


def test_the_plan_shows_mixture_factor_and_croppers():
    phase = PhaseConfig(
        until=20,
        crop_mixture={256: 1.0, 384: 3.0},
        lr_factor=0.1,
        dataset_crops={"pdb": CropMixture(1.0, 0.0, 0.0)},
    )
    console = Console(record=True, width=160)
    console.print(Curriculum({"a": phase}).table(20, 4, shares))
    said = console.export_text()
    for part in ("256 (25 %)", "384 (75 %)", "2,304", "0.1", "pdb: contiguous 1, spatial 0, interface 0"):
        assert part in said
