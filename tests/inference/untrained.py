# SPDX-License-Identifier: Apache-2.0
"""Small untrained networks, saved as a run leaves them."""

import torch

from foldwright.kernels import KernelConfig, select
from foldwright.model import AlphaFold3
from foldwright.training import checkpoint
from foldwright.training.config import compose_config, to_plain
from foldwright.training.ema import averaged_copy


def save_untrained(root, *overrides):
    config = compose_config(["model.diffusion.blocks=1", *overrides])
    torch.manual_seed(0)
    network = AlphaFold3(config.model, select(KernelConfig("reference"), torch.device("cpu")))
    torch.nn.init.normal_(network.confidence.pae.weight, std=0.5)
    torch.nn.init.normal_(network.confidence.plddt.weight, std=0.5)
    tensors = checkpoint.state_tensors(network, averaged_copy(network), torch.optim.Adam([torch.zeros(1)]))
    record = checkpoint.Record(step=1, seed=0, config=to_plain(config))
    checkpoint.save(root / "checkpoints", tensors, record, keep_last=1)
    return root
