# SPDX-License-Identifier: Apache-2.0
"""The network that predicts, from whatever a run leaves: the one place that knows how weights are stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf

from foldwright.kernels import KernelConfig, select
from foldwright.model import AlphaFold3
from foldwright.training import weights
from foldwright.training.config import TrainConfig, build
from foldwright.training.weights import Weights


@dataclass
class Loaded:
    """A network in evaluation mode, the settings it was trained with, and what tells its weights from all
    others.
    """

    network: AlphaFold3
    config: TrainConfig
    digest: str
    step: int


def device_of(wanted: str) -> torch.device:
    """The device of a name; of `auto` the GPU, where there is one."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def load_network(path: Path, device: torch.device, kernels: KernelConfig, raw: bool = False) -> Loaded:
    """The averaged (or, if `raw`, the trained) weights of a run directory, of one checkpoint in it, or of a
    safetensors file exported from one.

    Raises CheckpointError where there is no sound one, or its tensors do not fit its own configuration.
    """
    source = weights.locate(path, "--checkpoint")
    record = weights.read_record(source)
    config = build(OmegaConf.create(record.config))
    kind = Weights.raw if raw else Weights.ema
    network = weights.load_network(source, kind, config.model, select(kernels, device)).to(device)
    return Loaded(network, config, weights.digest(source) + "-raw" * raw, record.step)
