# SPDX-License-Identifier: Apache-2.0
"""Every shipped configuration composes, merges onto the schema and builds its model on the meta device."""

import itertools
from pathlib import Path

import pytest
import torch

from foldwright.kernels import KernelConfig, select
from foldwright.model import AlphaFold3
from foldwright.training.config import compose_config
from foldwright.training.curriculum import Curriculum

CONFIGS = Path(__file__).parents[1] / "configs"
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
STAGES = sorted(path.stem for path in (CONFIGS / "stage").glob("*.yaml"))
OTHERS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONFIGS.glob("*/*.yaml")
    if path.parent.name not in ("model", "stage")
)


def build(config):
    with torch.device("meta"):
        return AlphaFold3(config.model, select(KernelConfig("reference"), "cpu"))


@pytest.mark.parametrize(("stage", "model"), list(itertools.product(STAGES, MODELS)))
def test_stage_and_model(stage, model):
    config = compose_config([f"stage={stage}", f"model={model}"])
    assert config.stage == stage
    Curriculum(config.curriculum)
    network = build(config)
    assert all(parameter.is_meta for parameter in network.parameters())
    count = sum(parameter.numel() for parameter in network.parameters())
    low, high = {"base": (3.6e8, 3.8e8), "small": (1e7, 1e8), "tiny": (1e5, 3e6)}[model]
    assert low < count < high


@pytest.mark.parametrize("choice", OTHERS)
def test_every_other_choice(choice):
    config = compose_config([choice])
    Curriculum(config.curriculum)
    build(config)


def test_every_yaml_has_been_tried():
    tried = {f"stage={stage}" for stage in STAGES} | {f"model={model}" for model in MODELS} | set(OTHERS)
    files = {path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")} - {Path("train.yaml")}
    assert {f"{path.parent}={path.stem}" for path in files} == tried
