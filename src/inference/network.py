# SPDX-License-Identifier: Apache-2.0
"""The network that predicts, from whatever a run leaves: the one place that knows how weights are stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf

from foldwright.kernels import KernelConfig, select
from foldwright.model import AlphaFold3
from foldwright.training import checkpoint
from foldwright.training.checkpoint import CheckpointError
from foldwright.training.config import TrainConfig, build
from foldwright.training.hand_off import find_parent


@dataclass
class Loaded:
    """A network in evaluation mode, the settings it was trained with, and what tells its weights from all
    others.
    """

    network: AlphaFold3
    config: TrainConfig
    digest: str
    step: int


def load_network(path: Path, device: torch.device, kernels: KernelConfig, raw: bool = False) -> Loaded:
    """The averaged (or, if `raw`, the trained) weights of a run directory or of one checkpoint in it.

    Raises CheckpointError where there is no sound one, or its tensors do not fit its own configuration.
    """
    directory = find_parent(path, "--checkpoint")
    record = checkpoint.read_record(directory)
    config = build(OmegaConf.create(record.config))
    with torch.random.fork_rng(devices=[]):
        network = AlphaFold3(config.model, select(kernels, device))
    prefix = "network." if raw else "average."
    wanted = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    stored = checkpoint.stored_shapes(directory)
    if wrong := [name for name, tensor in wanted.items() if stored.get(name) != tuple(tensor.shape)]:
        raise CheckpointError(
            f"--checkpoint: {directory} does not hold the model of its own configuration: {len(wrong)} "
            f"tensors are missing or of another shape ({', '.join(wrong[:3])}); another version of "
            "foldwright wrote it"
        )
    checkpoint.read(directory, wanted)
    network = network.to(device).eval().requires_grad_(False)
    return Loaded(network, config, checkpoint.digest(directory) + "-raw" * raw, record.step)
