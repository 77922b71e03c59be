# SPDX-License-Identifier: Apache-2.0
"""Settings outside of where they mean anything are refused, and no shipped configuration is."""

import math
from fnmatch import fnmatchcase

import pytest

from foldwright.training.config import compose_config, flatten, to_plain
from foldwright.training.ranges import RULES, check_ranges


@pytest.fixture(scope="module")
def settings():
    return flatten(to_plain(compose_config([])))


def test_the_rules_name_settings_that_exist_and_are_met_by_default(settings):
    check_ranges(settings)
    for _, _, patterns in RULES:
        for pattern in patterns:
            assert any(fnmatchcase(path, pattern) for path in settings), pattern


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("schedule.lr", -1.0, "0 or more"),
        ("schedule.lr", math.nan, "0 or more"),
        ("schedule.lr", math.inf, "0 or more"),
        ("global_batch", 0, "1 or more"),
        ("loader.workers", -1, "0 or more"),
        ("checkpoint.every_steps", 0, "1 or more"),
        ("logger.every_steps", 0, "1 or more"),
        ("checkpoint.keep_last", 0, "1 or more"),
        ("rollout.sampler.steps", 0, "1 or more"),
        ("affinity.pose.sampler.steps", 0, "1 or more"),
        ("validation.max_tokens", -1, "1 or more"),
        ("data.datasets.pdb.items.ligand", -1.0, "0 or more"),
        ("optimizer.epsilon", 0.0, "above 0"),
        ("ema.decay", 1.0, "0 or more, below 1"),
        ("model.trunk.pairformer.dropout", 1.0, "0 or more, below 1"),
        ("data.max_bad_fraction", 1.5, "0 to 1"),
        ("run_name", "", "a name"),
        ("model.trunk.pairformer.blocks", -1, "0 or more"),
        ("model.widths.single", 0, "1 or more"),
        ("model.diffusion.atom.heads", 0, "1 or more"),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(settings, path, value, expected):
    assert path in settings
    with pytest.raises(ValueError, match=f"^{path}: got .*, expected {expected}$"):
        check_ranges({**settings, path: value})


def test_what_is_not_given_is_in_no_range():
    check_ranges({"schedule.lr": None, "losses.external.contacts": -1.0, "logger.gradient_norms_every": 0})
