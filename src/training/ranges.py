# SPDX-License-Identifier: Apache-2.0
"""What numbers a setting may take: checked when a configuration is built, before anything is read or written.

Only ranges outside of which a setting has no meaning: a step count of zero, a negative learning rate (which
would climb the loss without a word). Phases are checked by `curriculum`, weights by `data.datasets`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

Rule = tuple[str, Callable[[Any], bool], tuple[str, ...]]

RULES: tuple[Rule, ...] = (
    (
        "1 or more",
        lambda value: value >= 1,
        (
            "global_batch", "max_cycles", "*.batch_per_device", "trainer.num_nodes",
            "trainer.tensor_parallel", "loader.prefetch", "*.every_steps", "*.keep_last", "*.sampler.steps",
            "schedule.decay_every", "validation.max_*", "validation.n_samples", "validation.cycles",
            "validation.msa_rows",
            "data.max_attempts", "affinity.batch", "affinity.groups.size", "affinity.pose.samples",
            "affinity.pose.cycles", "affinity.pose.msa_rows", "affinity.pose.max_tokens",
            "model.widths.*", "model.*heads", "model.*expansion", "model.*.c_*",
            "profile.first", "profile.rows",
        ),
    ),
    (
        "0 or more",
        lambda value: value >= 0,
        (
            "seed", "model.trunk.*.blocks", "model.diffusion.*blocks", "model.confidence.*.blocks",
            "data.n_templates", "loader.workers", "profile.steps", "*.gradient_norms_every",
            "trainer.devices", "trainer.shard_size", "schedule.lr", "schedule.warmup_steps",
            "optimizer.weight_decay", "optimizer.max_skipped_in_a_row",
            "losses.diffusion", "losses.smooth_lddt", "losses.bond",
            "losses.distogram", "losses.confidence", "losses.pae", "*.sampler.gamma_*",
            "*.sampler.noise_scale", "data.datasets.*.items.*",
        ),
    ),
    (
        "above 0",
        lambda value: value > 0,
        (
            "optimizer.epsilon", "optimizer.clip_norm", "noise.log_std", "schedule.decay",
            "trainer.timeout_minutes", "*.sampler.s_max", "*.sampler.s_min", "*.sampler.rho",
            "*.sampler.step_scale",
        ),
    ),
    (
        "0 or more, below 1",
        lambda value: 0 <= value < 1,
        ("optimizer.beta1", "optimizer.beta2", "ema.decay", "*.dropout", "*.pair_dropout"),
    ),
    (
        "0 to 1",
        lambda value: 0 <= value <= 1,
        ("data.max_bad_fraction", "affinity.held_out_fraction"),
    ),
    ("a name", bool, ("run_name", "paths.run_dir")),
)  # fmt: skip


def check_ranges(settings: Mapping[str, Any]) -> None:
    """ValueError naming the first of the flat settings {"schedule.lr": 1.8e-3, ...} outside its range.

    None is a setting that is not given; nan and infinity are outside of every range.
    """
    for expected, is_allowed, patterns in RULES:
        for path, value in settings.items():
            if value is None or not any(fnmatchcase(path, pattern) for pattern in patterns):
                continue
            if not is_allowed(value) or value == math.inf:
                raise ValueError(f"{path}: got {value!r}, expected {expected}")
